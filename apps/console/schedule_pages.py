"""Jobs at times: the list with its words and next times, and what may be done with each."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.accounts.models import Namespace
from apps.jobs import registry, schedules
from apps.jobs.models import Schedule
from msgweb.errors import BadRequest, MsgwebError

COMING = 3  # next times that the list shows


def _pause(name: str) -> str:
    schedules.pause(name)
    return f"{name} is paused."


def _resume(name: str) -> str:
    schedule = schedules.resume(name)
    return f"{name} goes on at {schedule.next_at:%Y-%m-%d %H:%M:%S} UTC."


def _run_now(name: str) -> str:
    return f"{name} runs: job {schedules.run_now(name).id}."


def _remove(name: str) -> str:
    if schedules.find(name).source == Schedule.Source.SETTINGS:
        raise BadRequest(f"{name} comes from the settings: take it away there, or pause it")
    schedules.remove(name)
    return f"{name} is gone; its jobs stay."


ACTIONS: dict[str, Callable[[str], str]] = {
    "pause": _pause,
    "resume": _resume,
    "run": _run_now,
    "remove": _remove,
}


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def page(request: HttpRequest) -> HttpResponse:
    """The schedules; a POST makes one, or does something with the one of that `name`."""
    if request.method == "POST":
        return _act(request)
    return _show(request, {})


def _show(request: HttpRequest, given: dict[str, Any], status: int = 200) -> HttpResponse:
    rows = [
        {"schedule": one, "words": schedules.in_words(one), "coming": [] if one.paused else _coming(one)}
        for one in Schedule.objects.all()
    ]
    context = {
        "rows": rows,
        "may_change": request.user.has_perm("jobs.change_schedule"),
        "tasks": [task.name for task in registry.all_tasks()],
        "namespaces": list(Namespace.objects.values_list("name", flat=True)),
        "misfires": schedules.MISFIRES,
        "given": given,
    }
    return render(request, "console/schedules.html", context, status=status)


def _coming(schedule: Schedule) -> list[Any]:
    try:
        return list(schedules.coming(schedule, COMING))
    except MsgwebError:  # a time zone that is gone; the row says so itself
        return []


def _act(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("jobs.change_schedule"):
        raise PermissionDenied
    action, name = request.POST.get("action", ""), request.POST.get("name", "").strip()
    given = {key: request.POST.get(key, "") for key in request.POST}
    try:
        if action == "put":
            schedule = schedules.put(name, _definition(given))
            messages.success(request, f"{name}: {schedules.in_words(schedule)}.")
        elif action in ACTIONS:
            messages.success(request, ACTIONS[action](name))
        else:
            raise Http404("There is no such action.")
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
        return _show(request, given if action == "put" else {}, status=error.status)
    return redirect("console:schedules")


def _definition(given: dict[str, str]) -> dict[str, Any]:
    definition: dict[str, Any] = {"namespace": given.get("namespace", ""), "task": given.get("task", "")}
    for key in ("cron", "timezone", "misfire"):
        if value := given.get(key, "").strip():
            definition[key] = value
    if value := given.get("every", "").strip():
        try:
            definition["every"] = float(value)
        except ValueError as error:
            raise BadRequest("an interval is a number of seconds") from error
    if value := given.get("arguments", "").strip():
        try:
            definition["arguments"] = json.loads(value)
        except ValueError as error:
            raise BadRequest(f"the arguments are no JSON: {error}") from error
        if not isinstance(definition["arguments"], dict):
            raise BadRequest("the arguments are a JSON object")
    return definition
