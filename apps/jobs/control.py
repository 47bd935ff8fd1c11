"""What may be done with a job from outside: cancel, retry, hold, release, edit, run again.

`apps.jobs.selection` does it with many.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from apps.broker.engine import parse_address
from apps.jobs import registry
from apps.jobs.asking import Ask
from apps.jobs.channels import CONTROL
from apps.jobs.ending import finish, locked, note, notify
from apps.jobs.errors import JobIsFinal, WrongState
from apps.jobs.models import Event, Job
from apps.jobs.queries import query
from apps.jobs.submit import ask_for
from msgweb.errors import BadDestination, BadMessage, BadRequest

#: The states in which a job waits, for whatever.
OPEN = frozenset({Job.State.SCHEDULED, Job.State.READY, Job.State.WAITING})


def cancel(job_id: uuid.UUID, by: str) -> Job:
    """Cancel a job: at once while it waits; one that a worker has is asked to stop, and ended after a grace.

    To cancel a job that is cancelled, or being cancelled, changes nothing.

    Args:
        by: who wants it, for people.

    Raises:
        UnknownJob: there is none of that id.
        JobIsFinal: it has ended otherwise.
    """
    with transaction.atomic():
        job = locked(job_id)
        if job.state == Job.State.CANCELLED:
            return job
        if job.is_final:
            raise JobIsFinal(f"job {job_id} has {job.state}: it cannot be cancelled any more")
        # A job that a consumer outside works on is ended here: nobody there can be asked to stop.
        if not (job.worker is not None if job.state == Job.State.RUNNING else _in_hands(job)):
            finish(job, "cancelled", text=_text("cancelled", by))
        elif job.cancel_requested_at is None:
            job.cancel_requested_at = timezone.now()
            job.save(update_fields=["cancel_requested_at"])
            note(job, Event.Kind.LOG, {"level": "warning", "text": _text("asked to cancel", by)})
            notify(CONTROL, job.id)
    return job


def retry(job_id: uuid.UUID, by: str) -> Job:
    """Try a job again, now: one that failed, was cancelled or expired, with all its attempts anew; or one that waits
    for its next attempt.

    What its steps have done stays done. Jobs that were cancelled since it had not succeeded wait for it again, and
    those behind them. Who asked for it, or for these, had the reply already, and gets no second.

    Raises:
        UnknownJob: there is none of that id.
        WrongState: it succeeded (run it again as another job), is at work, or waits for its first attempt.
    """
    with transaction.atomic():
        job = locked(job_id)
        if job.state not in (Job.State.FAILED, Job.State.CANCELLED, Job.State.EXPIRED, Job.State.WAITING):
            raise WrongState(f"job {job_id} is {job.state}: it cannot be tried again")
        ended = job.is_final
        if not ended:
            _must_wait(job, "tried again")
        if ended:
            job.failures = job.deaths = 0
            job.reply_to = ""
            if job.batch is not None and job.batch.finished_at is not None:
                job.batch = None  # that is complete without it
        job.state = Job.State.READY
        job.run_at = job.expires_at = job.finished_at = job.cancel_requested_at = job.held_at = None
        job.save()
        note(job, Event.Kind.STATE, {"state": job.state, "attempt": job.attempt, "text": _text("tried again", by)})
        if ended:
            with connection.cursor() as cursor:
                cursor.execute(query("revive"), {"id": job.id})
        _issue(job)
    return job


def hold(job_id: uuid.UUID, by: str) -> Job:
    """Hold a job back that waits: it does not begin until it is released. To hold one that is held changes nothing.

    Raises:
        UnknownJob: there is none of that id.
        WrongState: it is at work or about to begin, or has ended.
    """
    with transaction.atomic():
        job = locked(job_id)
        _must_wait(job, "held back")
        if job.held_at is not None:
            return job
        job.held_at = timezone.now()
        job.ticket += 1  # its message is void
        job.blocked_on = None
        job.save(update_fields=["held_at", "ticket", "blocked_on"])
        note(job, Event.Kind.STATE, {"state": job.state, "attempt": job.attempt, "text": _text("held back", by)})
        if job.limits is not None:
            with connection.cursor() as cursor:
                cursor.execute(query("return_permits"), {"id": job.id})
    return job


def release(job_id: uuid.UUID, by: str) -> Job:
    """Let a job go on that is held. To release one that is not held changes nothing.

    Raises:
        UnknownJob: there is none of that id.
        WrongState: it has ended.
    """
    with transaction.atomic():
        job = locked(job_id)
        if job.is_final:
            raise WrongState(f"job {job_id} has {job.state}: there is nothing to release")
        if job.held_at is None:
            return job
        job.held_at = None
        job.save(update_fields=["held_at"])
        note(job, Event.Kind.STATE, {"state": job.state, "attempt": job.attempt, "text": _text("released", by)})
        if not job.waits_for.exists():
            _issue(job)
    return job


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is changed of jobs that wait, one or many; None: it stays.

    Attributes:
        priority: 0 to 9, higher first.
        queue: another queue of the job's namespace.
        run_at: not before that; a moment that has passed: now.

    Raises:
        BadMessage: the priority is not 0 to 9.
        BadDestination: there can be no such queue.
        BadRequest: the moment has no time zone.
    """

    priority: int | None = None
    queue: str | None = None
    run_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.priority is not None and not 0 <= self.priority <= 9:
            raise BadMessage(f"a priority is 0 to 9, not {self.priority}")
        if self.queue is not None and parse_address("", self.queue).name != self.queue:
            raise BadDestination(f"give the bare name of a queue, not {self.queue!r}")
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise BadRequest("run_at has no time zone")


def edit(
    job_id: uuid.UUID, by: str, changes: Changes | None = None, *, arguments: Mapping[str, Any] | None = None
) -> Job:
    """Change a job that waits.

    Raises:
        UnknownJob: there is none of that id.
        WrongState: it is at work or about to begin, or has ended: run it again as another job.
        BadArguments: they do not fit the task.
    """
    priority, queue, run_at = (changes.priority, changes.queue, changes.run_at) if changes else (None, None, None)
    with transaction.atomic():
        job = locked(job_id)
        _must_wait(job, "edited")
        changed = []
        if arguments is not None:
            task = registry.load(job.task)
            task.check(arguments)
            job.arguments = dict(arguments)
            job.limits = task.options.limits(job.namespace, task.name, task.named(arguments))
            job.unique_key = ""  # it is not what it was asked for any more
            changed.append("arguments")
        if priority is not None:
            job.priority = priority
            changed.append("priority")
        if queue is not None:
            job.queue = queue
            changed.append("queue")
        if run_at is not None:
            job.run_at = run_at
            if not job.waits_for.exists():
                job.state = Job.State.SCHEDULED if run_at > timezone.now() else Job.State.READY
            changed.append("time")
        job.save()
        text = _text(f"edited: {', '.join(changed) or 'nothing'}", by)
        note(job, Event.Kind.STATE, {"state": job.state, "attempt": job.attempt, "text": text})
        if job.held_at is None and not job.waits_for.exists():
            _issue(job)
    return job


def rerun(job_id: uuid.UUID, by: str, *, arguments: Mapping[str, Any] | None = None) -> Job:
    """Ask for the same again, as a new job, with other arguments if given; held by nothing and followed by nobody.

    Raises:
        UnknownJob: there is none of that id.
        UnknownTask: its task is not there any more.
        BadArguments: they do not fit the task.
    """
    with transaction.atomic():
        job = locked(job_id)
        task = registry.load(job.task)
        ask = Ask(priority=job.priority, queue=job.queue, requested_by=by)
        again = ask_for(task, job.namespace, job.arguments if arguments is None else arguments, ask)
        if again.id != job.id:
            note(again, Event.Kind.LOG, {"level": "info", "text": _text(f"run again, after job {job.id}", by)})
    return again


def _must_wait(job: Job, what: str) -> None:
    if job.state not in OPEN:
        raise WrongState(f"job {job.id} is {job.state}: it cannot be {what}")
    if _in_hands(job):
        raise WrongState(f"job {job.id} is about to begin: it cannot be {what}")


def _in_hands(job: Job) -> bool:
    """Whether a worker has the job, though it is not on record that it runs: see `apps.jobs.recorder`."""
    with connection.cursor() as cursor:
        cursor.execute(query("in_hands"), {"id": job.id, "namespace": job.namespace, "queue": job.queue})
        return bool(cursor.fetchone()[0])


def _issue(job: Job) -> None:
    with connection.cursor() as cursor:
        cursor.execute(query("issue"), {"id": job.id})
    job.refresh_from_db()


def _text(what: str, by: str) -> str:
    return f"{what} by {by}" if by else what
