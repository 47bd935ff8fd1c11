"""The console's overview and its lists of queues, topics and processes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from apps.broker import catalogue, horizon, statistics
from apps.console import charts
from apps.jobs import tally
from apps.jobs.listing import newest
from apps.jobs.models import Attempt, Job

#: Namespace, kind and name.
Destination = tuple[str, str, str]
#: The overview's latest jobs, and its longest queues.
OVERVIEW_ROWS = 8


@require_safe
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """Everything at a glance; a request by htmx gets what changes."""
    queues = catalogue.queues()
    sessions = catalogue.sessions()
    alive = [session for session in sessions if session.alive]
    recent = statistics.recent()
    succeeded, failed = tally.ended_in_hour()
    rows = Job.objects.select_related("progress").defer("arguments", "result", "error")
    context = {
        "stats": {
            "running": count(state=Job.State.RUNNING),
            "ready": count(state=Job.State.READY),
            "waiting": count(state=Job.State.WAITING),
            "succeeded": succeeded,
            "failed": failed,
        },
        "messages_ready": sum(queue.ready for queue in queues),
        "messages_in_flight": sum(queue.in_flight for queue in queues),
        "running": rows.filter(state=Job.State.RUNNING)[:OVERVIEW_ROWS],
        "latest": rows.filter(id__in=newest(OVERVIEW_ROWS, but=Job.State.RUNNING)),
        "queues": with_flows(sorted(queues, key=lambda queue: _importance(queue, recent))[:OVERVIEW_ROWS], recent),
        "job_flows": charts.job_flows(tally.ended()),
        "message_flows": charts.message_flows([one for (_, kind, _), one in recent.items() if kind == "queue"]),
        "recently": charts.RECENTLY,
        "queues_more": max(0, len(queues) - OVERVIEW_ROWS),
        "topics": catalogue.topics(),
        "sessions": alive,
        "horizon": horizon.told_by(session.details.get("horizon") for session in alive),
        "missing": [kind for kind in ("gateway", "worker") if not any(session.kind == kind for session in alive)],
    }
    return page(request, "overview", context)


@require_safe
@login_required
def queues(request: HttpRequest) -> HttpResponse:
    """The queues of all namespaces."""
    found = with_flows(catalogue.queues(), statistics.recent())
    return page(request, "queues", {"queues": found, "recently": charts.RECENTLY})


@dataclass(frozen=True, slots=True)
class Flow:
    """How quick a queue is now, and was lately."""

    rates: statistics.Rates
    drawing: charts.Drawing


def with_flows(
    queues: Iterable[catalogue.QueueInfo], recent: Mapping[Destination, statistics.Recent]
) -> list[tuple[catalogue.QueueInfo, Flow]]:
    """Queues with how quick they are."""
    still = statistics.Recent.nothing()
    found = [(queue, recent.get(_key(queue), still)) for queue in queues]
    return [(queue, Flow(one.rates, charts.queue_spark(one))) for queue, one in found]


def _key(queue: catalogue.QueueInfo) -> Destination:
    return queue.namespace, "queue", queue.name


def _importance(
    queue: catalogue.QueueInfo, recent: Mapping[Destination, statistics.Recent]
) -> tuple[float, float, str, str]:
    """Sorts the queues with the most messages first; of those without, the ones that had most lately."""
    one = recent.get(_key(queue))
    return -queue.ready - queue.in_flight, -sum(one.sent) if one else 0, queue.namespace, queue.name


@require_safe
@login_required
def topics(request: HttpRequest) -> HttpResponse:
    """The topics of all namespaces."""
    return page(request, "topics", {"topics": catalogue.topics()})


@dataclass(frozen=True, slots=True)
class Process:
    """A session as the page of workers shows it, with the jobs that it works on.

    Attributes:
        polling: notifications of Postgres do not reach it; None where it does not say.
    """

    session: catalogue.SessionInfo
    jobs: list[Job]
    slots: int | None
    queues: list[str]
    draining: bool
    paused: bool
    polling: bool | None
    details: dict[str, Any]


@require_safe
@login_required
def workers(request: HttpRequest) -> HttpResponse:
    """The processes of this installation: workers, gateways, web."""
    sessions = catalogue.sessions()
    busy = Job.objects.filter(state=Job.State.RUNNING, worker__in=[session.id for session in sessions])
    jobs: dict[int | None, list[Job]] = {}
    for job in busy.select_related("progress").defer("arguments", "result", "error")[: catalogue.COUNT_LIMIT]:
        jobs.setdefault(job.worker, []).append(job)
    processes = [_process(session, jobs.get(session.id, [])) for session in sessions]
    context = {
        "workers": [process for process in processes if process.session.kind == "worker"],
        "others": [process for process in processes if process.session.kind != "worker"],
        "attempts": _lately_interrupted(timezone.now() - timedelta(days=1)),
    }
    return page(request, "workers", context)


def _process(session: catalogue.SessionInfo, jobs: list[Job]) -> Process:
    details = dict(session.details)
    details.pop("horizon", None)  # the overview shows that
    polling = details.pop("polling", None)
    slots = details.pop("slots", None)
    queues = details.pop("queues", [])
    return Process(
        session=session,
        jobs=jobs,
        slots=slots if isinstance(slots, int) else None,
        queues=[str(name) for name in queues] if isinstance(queues, list) else [],
        draining=bool(details.pop("draining", False)),
        paused=bool(details.pop("paused", False)),
        polling=polling if isinstance(polling, bool) else None,
        details=details,
    )


def _lately_interrupted(since: datetime) -> list[Attempt]:
    newest = Attempt.objects.filter(outcome=Attempt.Outcome.INTERRUPTED).select_related("job").order_by("-id")
    return [one for one in newest[:OVERVIEW_ROWS] if one.ended_at is not None and one.ended_at >= since]


def count(**condition: Any) -> int:
    """How many jobs; stops at the catalogue's limit, so that it costs the same with ten million of them."""
    return Job.objects.filter(**condition).order_by()[: catalogue.COUNT_LIMIT].count()


def page(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    """`console/<name>.html`, or `console/_<name>.html`, its part that changes, when htmx asks."""
    partial = bool(request.headers.get("HX-Request"))
    response = render(request, f"console/{'_' if partial else ''}{name}.html", context)
    response["Vary"] = "HX-Request"
    response["Cache-Control"] = "no-store"
    return response
