"""Ask for a job: its row, its first event and its message, in the caller's own transaction."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction

from apps.broker import outbox
from apps.jobs import registry, replies
from apps.jobs.ending import locked, note, send_reply
from apps.jobs.errors import JobExists
from apps.jobs.links import status_url
from apps.jobs.models import Event, Job
from msgweb.errors import BadRequest

CORRELATION_LIMIT = 255


def submit(
    namespace: str,
    task_name: str,
    arguments: Mapping[str, Any],
    *,
    job_id: uuid.UUID | None = None,
    reply_to: str | None = None,
    correlation_id: str | None = None,
    wants_progress: bool = False,
    requested_by: str = "",
    priority: int = 4,
) -> Job:
    """Ask for a job. Nobody sees it before COMMIT.

    Args:
        namespace: whose queue it waits in, such as `firebrand.development`.
        job_id: the asker's own id: to ask twice with it is to ask once.
        reply_to: where the one reply goes when the job has ended: `/queue/x`, `/topic/x`, `/reply-queue/x`.
        correlation_id: comes back with each reply.
        wants_progress: tell `reply_to` of the acceptance and of progress too.
        requested_by: who asks, for people.
        priority: 0 to 9, higher first.

    Returns:
        The new job, or the one that was asked for before with this `job_id`. Its reply then goes to the new `reply_to`,
        at once if it has ended: an asker that lost its connection, and its reply queue with it, asks again.

    Raises:
        UnknownTask: no task has that name.
        BadArguments: the arguments do not fit the task.
        LimitExceeded: the arguments take more than 1 MiB.
        BadDestination: a reply cannot go to `reply_to`.
        BadMessage: the priority is not 0 to 9.
        JobExists: `job_id` is taken by another request.
        NotFound: there is no such namespace.
    """
    task = registry.find(task_name)
    task.check(arguments)
    if reply_to:
        replies.check_reply_to(reply_to)
    if correlation_id and (len(correlation_id) > CORRELATION_LIMIT or "\0" in correlation_id):
        raise BadRequest(f"a correlation-id has at most {CORRELATION_LIMIT} characters, and no NUL")
    job = Job(
        id=job_id or uuid.uuid4(),
        namespace=namespace,
        task=task.name,
        queue=task.queue,
        arguments=dict(arguments),
        priority=priority,
        max_attempts=task.max_attempts,
        reply_to=reply_to or "",
        correlation_id=correlation_id or "",
        wants_progress=wants_progress,
        requested_by=requested_by[:200].replace("\0", ""),
    )
    try:
        with transaction.atomic():
            job.save(force_insert=True)
            _announce(job)
    except IntegrityError:
        existing = Job.objects.filter(id=job.id).first()
        if existing is None:
            raise
        return _asked_again(existing, job)
    return job


def _announce(job: Job) -> None:
    note(job, Event.Kind.STATE, {"state": job.state, "attempt": 0})
    outbox.send(
        job.namespace,
        f"/queue/{job.queue}",
        registry.to_json(job.arguments),
        headers={"job-id": str(job.id), "task": job.task, "reply-to": f"/job/{job.id}"},
        content_type=replies.JSON_TYPE,
        priority=job.priority,
    )
    _accept(job)


def _accept(job: Job) -> None:
    """Tell the asker, if it wants to know, that the job is there."""
    if job.reply_to and job.wants_progress:
        outbox.send(
            job.namespace,
            job.reply_to,
            json.dumps({"job": str(job.id), "status_url": status_url(job.id)}),
            headers=replies.reply_headers(job.id, job.correlation_id, "accepted"),
            persistent=False,
        )


def _asked_again(existing: Job, asked: Job) -> Job:
    """The job that was asked for before. An asker with a new reply queue, after it lost its connection, gets the reply
    there; at once, if the job has ended."""
    same = existing.namespace == asked.namespace and existing.task == asked.task
    # Compared as JSON: a tuple was kept as a list.
    if not same or existing.arguments != json.loads(registry.to_json(asked.arguments)):
        raise JobExists(f"job {asked.id} exists already and was asked for with another task or other arguments")
    if not asked.reply_to or asked.reply_to == existing.reply_to:
        return existing
    with transaction.atomic():
        job = locked(asked.id)
        job.reply_to, job.correlation_id = asked.reply_to, asked.correlation_id
        job.wants_progress = asked.wants_progress
        job.save(update_fields=["reply_to", "correlation_id", "wants_progress"])
        _accept(job)
        if job.is_final:
            send_reply(job)
    return job
