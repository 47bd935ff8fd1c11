"""Who is connected to the gateways, and what they say: for staff whom Django's permission to see keys allows it."""

import logging
import secrets

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from apps.console import gateways
from apps.console.access_pages import staff_with
from apps.console.pages import page
from apps.console.tokens import stream_path
from msgweb.errors import MsgwebError

log = logging.getLogger(__name__)

TRACE_SECONDS = 300


@require_safe
@staff_with("accounts.view_accesskey")
def connections(request: HttpRequest) -> HttpResponse:
    """The connections of all gateways."""
    return page(request, "connections", {"survey": async_to_sync(gateways.survey)()})


@require_safe
@staff_with("accounts.change_accesskey")
def trace(request: HttpRequest) -> HttpResponse:
    """The frames of `?connection=` or of all connections of `?login=`, from now on, for some minutes."""
    connection, login = request.GET.get("connection", ""), request.GET.get("login", "")
    if bool(connection) == bool(login):
        raise Http404("A trace is of one connection or of one login.")
    topic = f"trace.{secrets.token_urlsafe(12)}"
    by = request.user.get_username()
    question = {"ask": "trace", "reply": topic, "seconds": TRACE_SECONDS, "by": by}
    question |= {"connection": connection} if connection else {"login": login}
    async_to_sync(gateways.ask)(question)
    log.info("trace of %s by %s", connection or login, by)
    context = {
        "subject": connection or login,
        "of_login": bool(login),
        "minutes": TRACE_SECONDS // 60,
        "stream": stream_path("topic", topic, gateways.NAMESPACE),
    }
    return render(request, "console/trace.html", context)


@require_POST
@staff_with("accounts.change_accesskey")
def end(request: HttpRequest) -> HttpResponse:
    """End a connection: its client gets an ERROR, and may come again."""
    connection = request.POST.get("connection", "")
    if not connection:
        raise Http404("Which connection?")
    try:
        async_to_sync(gateways.ask)({"ask": "end", "connection": connection, "by": request.user.get_username()})
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
    else:
        messages.success(request, "The connection was told to end.")
    return redirect("console:connections")
