"""End a job, or note something of it, from Django: in the caller's transaction, with its row locked.

The worker's counterpart, in batches, is `apps.jobs.recorder`; both use the same statements.
"""

import uuid
from typing import Any

from django.db import connection, transaction

from apps.broker import outbox
from apps.jobs import replies
from apps.jobs.channels import EVENTS
from apps.jobs.errors import UnknownJob
from apps.jobs.models import Event, Job
from apps.jobs.queries import query
from apps.jobs.registry import to_json
from msgweb.errors import MsgwebError


def locked(job_id: uuid.UUID) -> Job:
    """The job, its row locked until the end of the transaction.

    Raises:
        UnknownJob: there is none of that id.
    """
    job = Job.objects.select_for_update(no_key=True).filter(id=job_id).first()
    if job is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job


def note(job: Job, kind: Event.Kind, data: dict[str, Any]) -> None:
    """Append an event to a job whose row is locked (or which this transaction made)."""
    Event.objects.create(job=job, kind=kind, data=data)
    notify(EVENTS, job.id)


def notify(channel: str, job_id: uuid.UUID) -> None:
    """Notify at COMMIT."""
    with connection.cursor() as cursor:
        cursor.execute(query("notify"), {"channel": channel, "ids": [job_id]})


def finish(
    job: Job,
    outcome: str,
    *,
    result: str | None = None,
    error: dict[str, str] | None = None,
    text: str = "",
    again: bool = False,
    pause: float | None = None,
) -> None:
    """End a job whose row is locked, and send its reply. Refreshes `job`.

    Args:
        outcome: succeeded, failed, cancelled or expired.
        result: JSON that can be kept (`registry.to_json`), when it succeeded.
        text: why, for the state event.
        again: after a failure it is tried again, `pause` seconds later, if it has attempts left.
    """
    parameters: dict[str, Any] = {
        "ids": [job.id],
        "outcomes": [outcome],
        "results": [result if outcome == "succeeded" else None],
        "errors": [to_json(error) if error else None],
        "again": [again],
        "notes": [text or None],
        "pauses": [pause],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(query("finish"), parameters)
        job.refresh_from_db()
        if job.reply_to and job.is_final:
            try:
                with transaction.atomic():  # a savepoint: the result matters more than its reply
                    send_reply(job)
            except MsgwebError as refusal:
                line = f"the reply to {job.reply_to} could not be sent: {refusal}"
                note(job, Event.Kind.LOG, {"level": "error", "text": line})
        cursor.execute(query("follow"), {"ids": [job.id]})
        cursor.execute(query("notify"), {"channel": EVENTS, "ids": [job.id]})


def send_reply(job: Job) -> None:
    """Send the one reply to a job that has ended."""
    event, body = replies.outcome(job.state, to_json(job.result), job.error)
    outbox.send(job.namespace, job.reply_to, body, headers=replies.reply_headers(job.id, job.correlation_id, event))
