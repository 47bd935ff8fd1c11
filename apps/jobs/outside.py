"""What a worker outside says about the job that it works on: any STOMP consumer of a task's queue, such as PHP.

A gateway begins an attempt when it hands the job's message out (`workers.outside`), and names the attempt with each
word of that consumer: the fence. What is said of an attempt that is not the job's any more is dropped.

Who has the job's message from elsewhere takes the job by the first thing that it says, within the job's limits. Its
word counts while the job runs; what comes after the end (a repeat, a late line) is dropped.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from apps.broker import outbox
from apps.jobs import registry, replies
from apps.jobs.context import LEVELS, LINE_LIMIT, TEXT_LIMIT, clean
from apps.jobs.ending import finish, locked, note
from apps.jobs.errors import UnknownJob
from apps.jobs.models import Attempt, Event, Job, Progress
from apps.jobs.queries import query
from msgweb.errors import BadMessage, Conflict, MsgwebError

log = logging.getLogger(__name__)

EVENTS = ("progress", "log", "result", "error", "cancelled")
LINES_LIMIT = 1000  # lines of a log in one message
TIMEOUT = {"code": "timeout", "message": "it took too long", "traceback": ""}


class Heard(NamedTuple):
    """What became of a word.

    Attributes:
        counted: it was recorded; else it was dropped, since the job has ended, or the attempt is not its any more.
        state: the job's, now.
    """

    counted: bool
    state: str


def job_event(
    namespace: str,
    job_id: uuid.UUID,
    event: str,
    body: Any,
    said_by: str,
    *,
    attempt: int | None = None,
    ending: str | None = None,
) -> Heard:
    """Record what a worker outside says.

    Args:
        namespace: where the speaker is; the job must be of the same.
        event: progress, log, result, error, or cancelled (it stopped, as it was asked to).
        body: progress: {"done", "total", "text"?}; log: a text or {"text", "level"?}; result: any JSON value;
            error: a text or {"message", "code"?, "again"?}: if the job has attempts left it is tried again, with a new
            message, unless `again` is false; cancelled: anything.
        said_by: the login of the speaker.
        attempt: of which it is said; None: the speaker does not know.
        ending: why the speaker was asked to stop: `cancelled`, `timeout`, or None.

    Raises:
        UnknownJob: there is none of that id here.
        Conflict: a worker of ours has it, or it may not begin now.
        BadMessage: an event or a body that means nothing.
    """
    if event not in EVENTS:
        raise BadMessage(f"job-event is one of {', '.join(EVENTS)}, not {event!r}")
    refusal: MsgwebError | None = None
    with transaction.atomic():
        job = locked(job_id)
        if job.namespace != namespace:
            raise UnknownJob(f"there is no job {job_id}")
        if job.is_final or (attempt is not None and not _is_of(job, attempt, event)):
            log.debug("job %s is %s: %s by %s is dropped", job_id, job.state, event, said_by)
            return Heard(False, job.state)
        if job.state == Job.State.RUNNING:
            if attempt is None and job.worker is not None and not _is_outside(job):
                raise Conflict(f"job {job_id} is at work elsewhere")
        else:
            refusal = _take(job, said_by)
        counted = job.state == Job.State.RUNNING
        if counted:
            _record(job, event, body, ending)
    if refusal is not None:
        raise refusal
    return Heard(counted, job.state)


def _is_of(job: Job, attempt: int, event: str) -> bool:
    """Whether a word about that attempt counts: it is at work; or its worker was lost, nobody has taken the job up
    since, and here is its end all the same."""
    if job.attempt != attempt:
        return False
    if job.state == Job.State.RUNNING:
        return _is_outside(job)
    outcome = Attempt.objects.filter(job=job, number=attempt).values_list("outcome", flat=True).first()
    return event in ("result", "error") and outcome == Attempt.Outcome.INTERRUPTED


def _is_outside(job: Job) -> bool:
    return Attempt.objects.filter(job=job, number=job.attempt, pid=None).exists()


def _record(job: Job, event: str, body: Any, ending: str | None) -> None:
    late = ending == "timeout" and event in ("error", "cancelled")
    if event == "progress":
        _progress(job, _mapping(body, event))
    elif event == "log":
        _log(job, body)
    elif event == "result":
        try:
            finish(job, "succeeded", result=body)
        except ValueError as error:
            raise BadMessage(f"the result cannot be kept: {error}") from error
    elif event == "cancelled" and not late:
        finish(job, "cancelled", text="its worker stopped")
    else:
        again = late or not isinstance(body, Mapping) or body.get("again") is not False
        pause = registry.pause_after(job.task, job.failures + 1)
        finish(job, "failed", error=TIMEOUT if late else _error(body), again=again, pause=pause)


def _take(job: Job, said_by: str) -> MsgwebError | None:
    """Begin an attempt by one's word alone. The job is running then, or has expired, or this is why it may not begin.

    Raises:
        Conflict: the job is held back, or waits for others.
    """
    if job.held_at is not None or job.waits_for.exists():
        raise Conflict(f"job {job.id} is held back, or waits for others: leave it")
    if job.attempt == 0 and job.expires_at is not None and job.expires_at <= timezone.now():
        finish(job, "expired")
        return None
    with connection.cursor() as cursor:
        if job.limits is not None:
            cursor.execute(query("admit"), {"ids": [job.id]})
            if cursor.fetchone()[1] != "go":
                job.refresh_from_db()
                return Conflict(f"job {job.id} waits for its turn at a limit: leave it")
        cursor.execute(
            query("start"),
            {
                "ids": [job.id],
                "deliveries": [job.delivery],
                "again": [job.id],
                "worker": None,
                "host": said_by[:255],
                "pid": None,
            },
        )
    job.refresh_from_db()
    return None


def _progress(job: Job, told: Mapping[str, Any]) -> None:
    done, total, text = told.get("done"), told.get("total"), clean(str(told.get("text") or ""), TEXT_LIMIT)
    for number in (done, total):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
            raise BadMessage("progress is told by whole numbers from 0, done and total")
    data = {"done": done, "total": total, "text": text}
    Progress.objects.update_or_create(job=job, defaults={**data, "updated_at": timezone.now()})
    note(job, Event.Kind.PROGRESS, data)
    if job.reply_to and job.wants_progress:
        headers = replies.reply_headers(job.id, job.correlation_id, "progress")
        body = json.dumps(data, ensure_ascii=False)
        outbox.send(job.namespace, job.reply_to, body, headers=headers, persistent=False)


def _log(job: Job, body: Any) -> None:
    told = body if isinstance(body, Mapping) else {"text": body}
    level = told.get("level") or "info"
    if level not in LEVELS:
        raise BadMessage(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
    for line in str(told.get("text", "")).splitlines()[:LINES_LIMIT]:
        note(job, Event.Kind.LOG, {"level": level, "text": clean(line, LINE_LIMIT)})


def _error(body: Any) -> dict[str, str]:
    told = body if isinstance(body, Mapping) else {"message": body}
    return {
        "code": clean(str(told.get("code") or "task_failed"), 100),
        "message": clean(str(told.get("message") or "the work failed"), 2000),
        "traceback": clean(str(told.get("traceback") or ""), 20_000),
    }


def _mapping(body: Any, event: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise BadMessage(f"the body of job-event {event} is a JSON object")
    return body
