"""What the console's people do with jobs: one, or all that the list is filtered to."""

import json
import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST

from apps.jobs import control
from apps.jobs.models import Job
from apps.jobs.selection import ACTIONS, EDIT, Selection, apply
from msgweb.errors import BadRequest, MsgwebError, NotFound

#: How many jobs one click acts on at most: it answers while somebody waits.
BULK_LIMIT = 5_000

#: What a button says, and what happens then, for people.
WORDS = {
    "retry": ("Try again", "is tried again"),
    "hold": ("Hold", "is held back"),
    "release": ("Release", "was released"),
    "rerun": ("Run again", "runs again, as a new job"),
    "cancel": ("Cancel", "is cancelled"),
    "edit": ("Edit", "was changed"),
}


def actions_of(job: Job) -> list[tuple[str, str]]:
    """What can be done with a job as it is, besides cancelling: names and the words of their buttons."""
    names = []
    if job.state in ("failed", "cancelled", "expired", "waiting"):
        names.append("retry")
    if job.state in control.OPEN:
        names.append("release" if job.held_at else "hold")
    if job.is_final:
        names.append("rerun")
    return [(name, WORDS[name][0]) for name in names]


def bulk_actions(state: str) -> list[tuple[str, str]]:
    """What can be done with all jobs of a state."""
    names = {
        "scheduled": ["hold", "release", "cancel"],
        "ready": ["hold", "release", "cancel"],
        "waiting": ["retry", "hold", "release", "cancel"],
        "running": ["cancel"],
        "failed": ["retry"],
        "cancelled": ["retry"],
        "expired": ["retry"],
    }.get(state, [])
    return [(name, WORDS[name][0]) for name in names]


@require_POST
@login_required
@permission_required("jobs.change_job", raise_exception=True)
def act(request: HttpRequest, job_id: uuid.UUID, action: str) -> HttpResponseRedirect:
    """Cancel, retry, hold, release, edit or run again one job; the form's `arguments` (JSON) go with the last two."""
    if action not in (*ACTIONS, EDIT):
        raise Http404("There is no such action.")
    by = request.user.get_username()
    try:
        arguments = _arguments(request) if action in ("rerun", EDIT) else None
        if action == EDIT:
            job = control.edit(job_id, by, _changes(request), arguments=arguments)
        elif arguments is not None:
            job = control.rerun(job_id, by, arguments=arguments)
        else:
            job = ACTIONS[action](job_id, by)
    except NotFound as error:
        raise Http404(error.message) from error
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
        return redirect("console:job", job_id)
    if action == "cancel" and not job.is_final:
        messages.warning(request, "The job was asked to stop.")
    elif action != "cancel":
        messages.success(request, f"The job {WORDS[action][1]}.")
    return redirect("console:job", job.id)


def _arguments(request: HttpRequest) -> dict[str, Any] | None:
    text = request.POST.get("arguments", "").strip()
    if not text:
        return None
    try:
        given = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"the arguments are no JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadRequest("the arguments are a JSON object")
    return given


def _changes(request: HttpRequest) -> control.Changes:
    """The form's `priority`, `to_queue` and `run_at`; what is empty stays.

    Raises:
        BadRequest: one of them cannot be.
    """
    priority, queue, moment = (request.POST.get(name, "").strip() for name in ("priority", "to_queue", "run_at"))
    if priority and not (priority.isascii() and priority.isdigit()):
        raise BadRequest("a priority is 0 to 9")
    try:
        run_at = parse_datetime(moment) if moment else None
    except ValueError:
        run_at = None
    if moment and run_at is None:
        raise BadRequest(f"{moment!r} is no moment such as 2026-11-26T12:00:00Z")
    return control.Changes(priority=int(priority) if priority else None, queue=queue or None, run_at=run_at)


@require_POST
@login_required
@permission_required("jobs.change_job", raise_exception=True)
def act_on_all(request: HttpRequest) -> HttpResponseRedirect:
    """Do something with all jobs of the list's filter, at most BULK_LIMIT."""
    given = {name: request.POST.get(name, "") for name in ("state", "task", "namespace")}
    conditions: dict[str, Any] = {name: value for name, value in given.items() if value and "\0" not in value}
    try:
        if "state" not in conditions:
            raise BadRequest("choose a state first")
        action = request.POST.get("action", "")
        changes = _changes(request) if action == EDIT else None
        by = request.user.get_username()
        answer = apply(action, Selection(**conditions), by, changes=changes, most=BULK_LIMIT)
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
    else:
        more = f" There are more than {BULK_LIMIT:,}: do it again for the others." if answer.last else ""
        messages.success(request, f"Done with {answer.done:,} jobs.{more}")
        if answer.refused:
            messages.warning(request, f"{answer.refused:,} could not: {answer.reasons[0]}.")
    query = request.META.get("QUERY_STRING", "")
    return redirect(f"{reverse('console:jobs')}{'?' + query if query else ''}")
