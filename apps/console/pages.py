"""The console's overview and its lists of queues, topics and workers."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from apps.broker import catalogue


@require_safe
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """Everything at a glance."""
    return render(request, "console/overview.html", {"queues": catalogue.queues(), "topics": catalogue.topics()})


@require_safe
@login_required
def queues(request: HttpRequest) -> HttpResponse:
    """The queues of all namespaces."""
    return render(request, "console/queues.html", {"queues": catalogue.queues()})


@require_safe
@login_required
def topics(request: HttpRequest) -> HttpResponse:
    """The topics of all namespaces."""
    return render(request, "console/topics.html", {"topics": catalogue.topics()})


@require_safe
@login_required
def workers(request: HttpRequest) -> HttpResponse:
    """The processes that hold messages: gateways, workers, web."""
    return render(request, "console/workers.html", {"sessions": catalogue.sessions()})
