"""What a worker outside says about the job that it works on: any STOMP consumer of a task's queue, such as PHP.

It takes the job by the first thing that it says. Its word counts while the job runs; what comes after the end (a
repeat, a late line) is dropped.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from apps.broker import outbox
from apps.jobs import registry, replies
from apps.jobs.context import LEVELS, LINE_LIMIT, TEXT_LIMIT, clean
from apps.jobs.ending import finish, locked, note
from apps.jobs.errors import UnknownJob
from apps.jobs.models import Event, Job, Progress
from apps.jobs.queries import query
from msgweb.errors import BadMessage, Conflict

log = logging.getLogger(__name__)

EVENTS = ("progress", "log", "result", "error")
LINES_LIMIT = 1000  # lines of a log in one message


def job_event(namespace: str, job_id: uuid.UUID, event: str, body: Any, said_by: str) -> None:
    """Record what a worker outside says.

    Args:
        namespace: where the speaker is; the job must be of the same.
        event: progress, log, result or error.
        body: progress: {"done", "total", "text"?}; log: a text or {"text", "level"?}; result: any JSON value;
            error: a text or {"message", "code"?, "again"?}: if the job has attempts left it is tried again, with a new
            message, unless `again` is false.
        said_by: the login of the speaker.

    Raises:
        UnknownJob: there is none of that id here.
        Conflict: a worker of ours has it.
        BadMessage: an event or a body that means nothing.
    """
    if event not in EVENTS:
        raise BadMessage(f"job-event is one of {', '.join(EVENTS)}, not {event!r}")
    with transaction.atomic():
        job = locked(job_id)
        if job.namespace != namespace:
            raise UnknownJob(f"there is no job {job_id}")
        if job.is_final:
            log.debug("job %s has ended: %s by %s is dropped", job_id, event, said_by)
            return
        if job.worker is not None:
            raise Conflict(f"job {job_id} is at work elsewhere")
        if job.state != Job.State.RUNNING and not _take(job, said_by):
            return
        if event == "progress":
            _progress(job, _mapping(body, event))
        elif event == "log":
            _log(job, body)
        elif event == "result":
            try:
                finish(job, "succeeded", result=body)
            except ValueError as error:
                raise BadMessage(f"the result cannot be kept: {error}") from error
        else:
            again = not isinstance(body, Mapping) or body.get("again") is not False
            pause = registry.pause_after(job.task, job.failures + 1)
            finish(job, "failed", error=_error(body), again=again, pause=pause)


def _take(job: Job, said_by: str) -> bool:
    """Begin an attempt. False: it came too late.

    Raises:
        Conflict: the job is held back, or waits for others.
    """
    if job.held_at is not None or job.waits_for.exists():
        raise Conflict(f"job {job.id} is held back, or waits for others: leave it")
    if job.attempt == 0 and job.expires_at is not None and job.expires_at <= timezone.now():
        finish(job, "expired")
        return False
    with connection.cursor() as cursor:
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
    return True


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
