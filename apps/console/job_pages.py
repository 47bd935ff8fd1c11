"""The pages of jobs: the list, the job that can be watched, and the status page for the person who waits."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.accounts.models import Namespace
from apps.console import charts
from apps.console.job_actions import actions_of, bulk_actions
from apps.console.pages import count, page
from apps.console.tokens import stream_path
from apps.jobs import events, registry, tally
from apps.jobs.control import OPEN
from apps.jobs.flows import progress_of
from apps.jobs.links import job_of_token, status_url
from apps.jobs.listing import newest
from apps.jobs.models import Attempt, Event, Job, Progress
from msgweb.errors import NotFound

PAGE_ROWS = 50
#: Lines of a log that a page begins with; the whole log is a download.
LOG_LINES = 400
#: Rows read at once for the download of a log.
LOG_BATCH = 2000

#: What a state means to somebody who does not know what a job is.
STATE_WORDS = {
    Job.State.SCHEDULED: ("Planned", "It will begin later."),
    Job.State.READY: ("Waiting for its turn", "It begins as soon as a worker is free."),
    Job.State.RUNNING: ("In progress", "You may close this page; the work goes on."),
    Job.State.WAITING: ("Trying again soon", "The last attempt did not work; the next one follows by itself."),
    Job.State.SUCCEEDED: ("Done", "Everything went well."),
    Job.State.FAILED: ("It did not work", "The people who run this service can see what happened."),
    Job.State.CANCELLED: ("Cancelled", "Somebody stopped this job."),
    Job.State.EXPIRED: ("Too late", "It was not begun in time and was given up."),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What the list of jobs is limited to; every field may be empty."""

    state: str
    task: str
    namespace: str

    @classmethod
    def of(cls, query: QueryDict) -> "Filter":
        """From a query string; what cannot be is left out."""
        state, task, namespace = (query.get(name, "") for name in ("state", "task", "namespace"))
        return cls(
            state if state in Job.State.values else "",
            "" if "\0" in task else task,  # which Postgres does not take
            "" if "\0" in namespace else namespace,
        )

    @property
    def scope(self) -> dict[str, str]:
        """The condition without the state."""
        given = {"task": self.task, "namespace": self.namespace}
        return {name: value for name, value in given.items() if value}

    def query(self, **changes: str) -> str:
        """A query string of this filter, some of it changed."""
        query = QueryDict(mutable=True)
        for name, value in {"state": self.state, **self.scope, **changes}.items():
            if value:
                query[name] = value
        return f"?{query.urlencode()}" if query else "?"


@require_safe
@login_required
def jobs(request: HttpRequest) -> HttpResponse:
    """The newest jobs, page by page.

    Pages go by key (the moment and the id of the last job shown), so that the thousandth page costs what the first
    does and no job is shown twice while new ones come in. The states are counted where an index counts them: not within
    a task or a namespace.
    """
    chosen = Filter.of(request.GET)
    namespaces = list(Namespace.objects.values_list("name", flat=True))
    before = request.GET.get("before", "")
    shown = newest(
        PAGE_ROWS + 1,
        state=chosen.state or None,
        namespace=chosen.namespace or None,
        task=chosen.task or None,
        last=_last(before),
    )
    found = Job.objects.select_related("progress").defer("arguments", "result", "error").filter(id__in=shown)
    page_rows = list(found)
    more = len(page_rows) > PAGE_ROWS
    page_rows = page_rows[:PAGE_ROWS]
    context = {
        "jobs": page_rows,
        "filter": chosen,
        "states": [
            (state, None if chosen.scope else count(state=state), chosen.query(state=state), state == chosen.state)
            for state in Job.State.values
        ],
        "flows": charts.job_flows(tally.ended(chosen.namespace or None, chosen.task or None)),
        "all_query": chosen.query(state=""),
        "older": chosen.query(before=_key(page_rows[-1])) if more else "",
        "newest": chosen.query() if before else "",
        "here": chosen.query(before=before),
        "may_change": request.user.has_perm("jobs.change_job"),
        "all_here": chosen.query(),
        "bulk": bulk_actions(chosen.state),
        "may_edit": chosen.state in OPEN,
        "tasks": _names(chosen.task, [task.name for task in registry.all_tasks()]),
        "namespaces": _names(chosen.namespace, namespaces),
    }
    return page(request, "jobs", context)


def _names(chosen: str, known: list[str]) -> list[str]:
    return known if not chosen or chosen in known else [chosen, *known]


def _key(job: Job) -> str:
    return f"{job.created_at.astimezone(UTC).isoformat()}_{job.id}"


def _last(before: str) -> tuple[datetime, uuid.UUID] | None:
    """Moment and id of the last job of the page before; None where `before` does not say it."""
    moment_text, _, id_text = before.partition("_")
    try:
        moment, job_id = parse_datetime(moment_text), uuid.UUID(id_text)
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            return None
        return moment.astimezone(UTC), job_id
    except (ValueError, OverflowError):
        return None


@never_cache
@require_safe
@login_required
def job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """A job, live: what the page begins with, and a stream that tells the rest."""
    context = _job_context(job_id)
    context["may_change"] = request.user.has_perm("jobs.change_job")
    if request.headers.get("HX-Request"):
        return render(request, "console/_job_details.html", context)
    share = status_url(job_id)
    return render(request, "console/job.html", {**context, "share_url": share, "details_url": request.path})


def _job_context(job_id: uuid.UUID) -> dict[str, Any]:
    # The newest event first: what happens while the rest is read is told again by the stream, and told twice is the
    # same as once. The other way round a change could fall between the two.
    newest = events.newest([job_id]).get(job_id, 0)
    shown = Job.objects.select_related("progress").filter(id=job_id).first()
    if shown is None:
        raise Http404("There is no such job.")
    lines = list(
        Event.objects.filter(job_id=job_id, kind=Event.Kind.LOG, id__lte=newest).order_by("-id")[: LOG_LINES + 1]
    )
    return {
        "job": shown,
        "progress": _progress(shown),
        "attempts": list(shown.attempts.order_by("number")),
        "states": events.states(job_id, 100),
        "lines": lines[:LOG_LINES][::-1],
        "earlier": len(lines) > LOG_LINES,
        "newest": newest,
        "stream": "" if shown.is_final else f"{stream_path('job', str(job_id))}?after={newest}",
        "interrupted": Attempt.Outcome.INTERRUPTED,
        "actions": actions_of(shown),
        "steps": list(shown.steps.order_by("id")[:200]),
        "batch": progress_of(shown.batch_id) if shown.batch_id else None,
        "before": list(shown.waits_for.values_list("after", flat=True)[:20]),
    }


def _progress(shown: Job) -> Progress | None:
    try:
        return shown.progress
    except Progress.DoesNotExist:
        return None


@login_required
@require_safe
async def job_log(request: HttpRequest, job_id: uuid.UUID) -> StreamingHttpResponse:
    """The whole log as text, a line for each event: moment, level, text."""
    if not await Job.objects.filter(id=job_id).aexists():
        raise Http404("There is no such job.")
    response = StreamingHttpResponse(_log_text(job_id), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="job-{job_id}.log"'
    return response


async def _log_text(job_id: uuid.UUID) -> AsyncIterator[bytes]:
    position = 0
    logs = Event.objects.filter(job_id=job_id, kind=Event.Kind.LOG).order_by("id")
    while True:
        batch = [event async for event in logs.filter(id__gt=position)[:LOG_BATCH]]
        if not batch:
            return
        position = batch[-1].id
        yield "".join(
            f"{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {event.data.get('level', 'info'):7} "
            f"{event.data.get('text', '')}\n"
            for event in batch
        ).encode()


@never_cache
@require_safe
def status(request: HttpRequest, token: str) -> HttpResponse:
    """The page for the person who waits: no log-in, the signed link is the key. It shows no arguments and no log."""
    try:
        job_id = job_of_token(token)
    except NotFound as error:
        raise Http404("This link leads nowhere.") from error
    context = _status_context(job_id)
    if request.headers.get("HX-Request"):
        return render(request, "console/_status_outcome.html", context)
    response = render(request, "console/status.html", {**context, "details_url": request.path, "bare": True})
    response["Referrer-Policy"] = "no-referrer"  # the path is a key
    return response


def _status_context(job_id: uuid.UUID) -> dict[str, Any]:
    newest = events.newest([job_id]).get(job_id, 0)
    shown = Job.objects.select_related("progress").filter(id=job_id).first()
    if shown is None:
        raise Http404("This job is not kept any more.")
    title, text = STATE_WORDS[Job.State(shown.state)]
    return {
        "job": shown,
        "progress": _progress(shown),
        "title": title,
        "text": text,
        "words": {state.value: {"title": words[0], "text": words[1]} for state, words in STATE_WORDS.items()},
        "summary": _summary(shown.result),
        "stream": "" if shown.is_final else f"{stream_path('status', str(job_id))}?after={newest}",
        "console_url": reverse("console:job", args=[job_id]),
    }


def _summary(result: Any) -> list[tuple[str, str]]:
    """The plain values of a result: `{"products": 300, ...}` as pairs to read; nothing for other shapes."""
    if not isinstance(result, dict):
        return [("Result", str(result))] if isinstance(result, str | int | float) and str(result) else []
    return [
        (str(name).replace("_", " ").capitalize(), f"{value:,}" if isinstance(value, int | float) else str(value))
        for name, value in result.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ][:12]
