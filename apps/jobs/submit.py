"""Ask for a job: its row, its first event and its message, by one statement in the caller's own transaction.

Most are plain, and asked for by a statement that is made for speed (docs/adr/0015).
"""

import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from functools import cache
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models.base import ModelState
from psycopg.errors import QueryCanceled

from apps.broker import outbox
from apps.broker.sqlstates import translated
from apps.jobs import registry, replies
from apps.jobs.asking import NEW, Ask, encoded, made, plain_values, request_of
from apps.jobs.direct import fetch_number
from apps.jobs.ending import locked, send_reply
from apps.jobs.errors import JobExists
from apps.jobs.links import status_url
from apps.jobs.models import Job
from apps.jobs.queries import query

#: Called with the id of each job that was made: see `apps.jobs.testing.inline`.
after_enqueue: Callable[[uuid.UUID], None] | None = None


def submit(
    namespace: str, task_name: str, arguments: Mapping[str, Any], ask: Ask | None = None, /, **given: Any
) -> Job:
    """Ask for a job. Nobody sees it before COMMIT.

    Args:
        namespace: whose queue it waits in, such as `firebrand.development`.
        ask, given: how: an `Ask`, or its attributes.

    Returns:
        The new job; or one that is in its way, if the task's are unique; or the one that was asked for before with this
        `job_id`. Its reply then goes to the new `reply_to`, at once if it has ended: an asker that lost its connection,
        and its reply queue with it, asks again.

    Raises:
        UnknownTask: no task has that name.
        BadArguments: the arguments do not fit the task.
        LimitExceeded: the arguments take more than 1 MiB; or the queue is full.
        BadDestination: a reply cannot go to `reply_to`.
        BadMessage: the priority is not 0 to 9.
        BadRequest: something else of it cannot be.
        JobExists: `job_id` is taken by another request.
        NotFound: there is no such namespace, or nothing to follow.
    """
    return ask_for(registry.find(task_name), namespace, arguments, ask or Ask(**given))


def ask_for(task: registry.Task[..., Any], namespace: str, arguments: Mapping[str, Any], ask: Ask) -> Job:
    """The same, of a task at hand."""
    request = request_of(task, namespace, arguments, ask)
    job_id, outcome, created = enqueue_row(request)
    if outcome == "duplicate":
        return Job.objects.get(id=job_id)
    if outcome == "known":
        return _asked_again(Job.objects.get(id=job_id), request, ask)
    if ask.after or ask.hold:
        return Job.objects.get(id=job_id)
    job = _as_it_is(request, job_id, created, ask, born_ready=outcome == "plain")
    if job.reply_to and job.wants_progress:
        _accept(job)
    return job


def enqueue_row(request: Mapping[str, Any]) -> tuple[uuid.UUID, str, datetime | None]:
    """Ask the database: the id, what became of the request (`new`, `plain`, `known`, `duplicate`), when it was made.

    Raises:
        BadArguments: the request is no JSON that can be kept.
        NotFound, LimitExceeded: as `submit`. The caller's transaction stays usable.
    """
    row = _plain_row(request) or _special_row(request)
    if after_enqueue is not None and row[1] in NEW:
        after_enqueue(row[0])
    return row


def _plain_row(request: Mapping[str, Any]) -> tuple[uuid.UUID, str, datetime] | None:
    """The same where nothing is special about the job; else None, and nothing was written. It needs no savepoint, since
    it refuses nothing."""
    values = plain_values(request)
    if values is None:
        return None
    try:
        answer = fetch_number("enqueue_plain", values, alone="enqueue_plain_alone")
    except OperationalError as error:
        if request["id"] or not (isinstance(error.__cause__, QueryCanceled) and connection.get_autocommit()):
            raise
        answer = fetch_number("enqueued", values[:1])  # it may have been told to stop between its two transactions
        if answer is None:
            raise
    return made(values, answer)


def _special_row(request: Mapping[str, Any]) -> tuple[uuid.UUID, str, datetime | None]:
    # What is refused must leave the caller's transaction usable.
    savepoint = transaction.atomic() if connection.in_atomic_block else nullcontext()
    with translated(), savepoint, connection.cursor() as cursor:
        cursor.execute(query("enqueue"), {"request": encoded(request)})
        row: tuple[uuid.UUID, str, datetime | None] = cursor.fetchone()
    return row


def _as_it_is(request: dict[str, Any], job_id: uuid.UUID, created: Any, ask: Ask, *, born_ready: bool) -> Job:
    """The row that was just made, without asking for it, and without `Model.__init__`, which would take a tenth of the
    time of the whole."""
    later = (ask.run_at is not None and ask.run_at > created) or bool(ask.delay)
    job = Job.__new__(Job)
    job.__dict__.update(_defaults())
    job.__dict__.update(
        _state=ModelState(),
        id=job_id,
        state=Job.State.SCHEDULED if later else Job.State.READY,
        created_at=created,
        run_at=ask.run_at,
        reply_to=ask.reply_to or "",
        correlation_id=ask.correlation_id or "",
        wants_progress=ask.wants_progress,
        requested_by=request.get("requested_by", ""),
        timeout=request.get("timeout"),
        on_death=request.get("on_death", "resume"),
        limits=request.get("limits"),
        batch_id=ask.batch,
        born_ready=born_ready,
        namespace=request["namespace"],
        task=request["task"],
        queue=request["queue"],
        arguments=request["arguments"],
        priority=request["priority"],
        max_attempts=request["max_attempts"],
    )
    job._state.adding = False
    job._state.db = connection.alias
    if after_enqueue is not None or ask.delay or "expires" in request or "unique_key" in request:
        job.refresh_from_db()
    return job


@cache
def _defaults() -> dict[str, Any]:
    """What the columns of a new job hold that nothing was said about; those of `arguments` are never shared."""
    return {field.attname: field.get_default() for field in Job._meta.concrete_fields if field.name != "arguments"}


def _accept(job: Job) -> None:
    """Tell the asker, who wants to know, that the job is there."""
    outbox.send(
        job.namespace,
        job.reply_to,
        json.dumps({"job": str(job.id), "status_url": status_url(job.id)}),
        headers=replies.reply_headers(job.id, job.correlation_id, "accepted"),
        persistent=False,
    )


def _asked_again(existing: Job, request: Mapping[str, Any], ask: Ask) -> Job:
    """The job that was asked for before. An asker with a new reply queue, after it lost its connection, gets the reply
    there; at once, if the job has ended."""
    same = existing.namespace == request["namespace"] and existing.task == request["task"]
    # Compared as JSON: a tuple was kept as a list.
    if not same or existing.arguments != json.loads(registry.to_json(request["arguments"])):
        raise JobExists(f"job {existing.id} exists already and was asked for with another task or other arguments")
    if not ask.reply_to or ask.reply_to == existing.reply_to:
        return existing
    with transaction.atomic():
        job = locked(existing.id)
        job.reply_to, job.correlation_id = ask.reply_to, ask.correlation_id or ""
        job.wants_progress = ask.wants_progress
        job.save(update_fields=["reply_to", "correlation_id", "wants_progress"])
        if job.wants_progress:
            _accept(job)
        if job.is_final:
            send_reply(job)
    return job
