"""A queue, and what may be done to it by who has the verb `manage` there."""

import logging
from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.accounts.permissions import Verb
from apps.accounts.standings import access_of_user
from apps.broker import catalogue, queue_actions, queue_settings, statistics
from apps.console import charts
from apps.console.pages import page
from msgweb.errors import BadDestination, MsgwebError, NotFound

log = logging.getLogger(__name__)


def _pause(namespace: str, name: str) -> str:
    queue_settings.change(namespace, name, {"paused": True})
    return "Paused: messages are taken, none is delivered."


def _resume(namespace: str, name: str) -> str:
    queue_settings.change(namespace, name, {"paused": False})
    return "Messages are delivered again."


def _purge(namespace: str, name: str) -> str:
    return f"{queue_actions.purge(namespace, name):,} messages were removed."


def _redrive(namespace: str, name: str) -> str:
    return f"{queue_actions.redrive(namespace, name):,} messages were sent back to where they came from."


ACTIONS: dict[str, Callable[[str, str], str]] = {
    "pause": _pause,
    "resume": _resume,
    "purge": _purge,
    "redrive": _redrive,
}


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@login_required
def queue(request: HttpRequest) -> HttpResponse:
    """The queue `?namespace=&name=`: a name may hold anything, so it is no part of the path."""
    namespace, name = request.GET.get("namespace", ""), request.GET.get("name", "")
    if "\0" in namespace + name:
        raise Http404("There is no such queue.")
    manages = access_of_user(request.user).allows(Verb.MANAGE, namespace, f"queue/{name}")
    try:
        settings = queue_settings.get(namespace, name)
    except (NotFound, BadDestination) as error:
        raise Http404("There is no such queue.") from error
    if request.method == "POST":
        if not manages:
            raise PermissionDenied
        return _act(request, namespace, name)
    found = catalogue.queues(namespace, name)
    recent = statistics.recent(namespace, name).get((namespace, "queue", name), statistics.Recent.nothing())
    reach = request.GET.get("reach", "")
    if reach not in charts.REACHES:
        reach = next(iter(charts.REACHES))
    here = queue_url(namespace, name)
    context = {
        "namespace": namespace,
        "name": name,
        "queue": found[0] if found else None,
        "settings": settings,
        "manages": manages,
        "dead_letters": name.startswith("DLQ."),
        "flows": charts.message_flows([recent]),
        "reach": reach,
        "reaches": [(one, f"{here}&reach={one}") for one in charts.REACHES],
        "charts": charts.queue_charts(namespace, name, reach, statistics.counted_until(timezone.now())),
        "here": f"{here}&reach={reach}",
    }
    return page(request, "queue", context)


def _act(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    action = request.POST.get("action", "")
    if action not in ACTIONS:
        raise Http404("There is no such action.")
    try:
        done = ACTIONS[action](namespace, name)
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
    else:
        messages.success(request, done)
        log.info("queue %s/%s: %s by %s", namespace, name, action, request.user.get_username())
    return redirect(queue_url(namespace, name))


def queue_url(namespace: str, name: str) -> str:
    """The page of a queue."""
    query = QueryDict(mutable=True)
    query.update({"namespace": namespace, "name": name})
    return f"{reverse('console:queue')}?{query.urlencode()}"
