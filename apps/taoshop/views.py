"""The checkout, the thank-you page, and the orders as they come."""

import uuid

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from apps.console.tokens import stream_path
from apps.taoshop import announcement
from apps.taoshop.checkout import AlreadyOrdered, place_order
from apps.taoshop.forms import CheckoutForm
from apps.taoshop.models import Order

SHOWN = 50


# A page from the browser's cache would bring an old token along.
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def checkout(request: HttpRequest) -> HttpResponse:
    """Choose, say who you are, order."""
    if request.method != "POST":
        return render(request, "taoshop/checkout.html", {"form": CheckoutForm()})
    form = CheckoutForm(request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            return redirect(place_order(data["token"], data["name"], data["email"], form.quantities()))
        except AlreadyOrdered as error:
            form.add_error(
                None,
                f"Your order {error.order.number} was placed with this page already. "
                "Send it again to place a second one.",
            )
            form.renew()
    return render(request, "taoshop/checkout.html", {"form": form}, status=422)


@require_GET
def thanks(request: HttpRequest, token: uuid.UUID) -> HttpResponse:
    """What was ordered. Whoever knows the address may look."""
    order = get_object_or_404(Order.objects.prefetch_related("lines__product"), token=token)
    return render(request, "taoshop/thanks.html", {"order": order})


@never_cache
@login_required
@require_GET
def orders(request: HttpRequest) -> HttpResponse:
    """The latest orders; the page's script adds those that come."""
    latest = Order.objects.prefetch_related("lines")[:SHOWN]
    context = {
        "orders": latest,
        "shown": SHOWN,
        "stream": stream_path("topic", announcement.TOPIC, announcement.namespace()),
        "namespace": announcement.namespace(),
        "topic": announcement.TOPIC,
    }
    return render(request, "taoshop/orders.html", context)
