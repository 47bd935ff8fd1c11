"""A testing kit: jobs without a worker. docs/topics/testing-jobs.md shows each.

    run_inline(task, ...)           one function, no database
    with inline(): ...              what is enqueued runs at once
    run_due()                       run all that is due, and what that brings
    advance(seconds)                let time pass: delays, pauses, expiry, windows, schedules
    assert_enqueued(task, a=1)      was it asked for?

All but the first work on the test's own database, through the statements that workers use, in the test's transaction
if there is one.
"""

import asyncio
import inspect
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django.db import connection

from apps.jobs import outcomes, registry, schedules, submit
from apps.jobs.channels import EVENTS
from apps.jobs.context import JobContext, at_work
from apps.jobs.ending import note, send_reply
from apps.jobs.models import Event, Job, Progress
from apps.jobs.queries import query
from apps.jobs.registry import Task, to_json
from apps.jobs.steps import KeptSteps, MemorySteps
from msgweb.errors import MsgwebError

WORKER = "inline@test"
RUNS_LIMIT = 10_000  # jobs in one `run_due`: a task that asks for itself never ends


@dataclass(slots=True)
class InlineRun:
    """What a task did and said (`apps.jobs.context.Transport`).

    Attributes:
        result: what it returned, as the job would keep it: by way of JSON.
        log_lines: (level, line), in order.
        marks: what `context.progress` was told: (done, total, text).
        steps: the results of finished steps, by name.
        cancel_when: see `run_inline`.
    """

    result: Any = None
    log_lines: list[tuple[str, str]] = field(default_factory=list)
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    steps: dict[str, Any] = field(default_factory=dict)
    cancel_when: Callable[["InlineRun"], bool] = lambda _run: False

    def progress(self, done: int, total: int, text: str) -> None:
        """Keep it."""
        self.marks.append((done, total, text))

    def log(self, level: str, text: str) -> None:
        """Keep it."""
        self.log_lines.append((level, text))

    @property
    def cancelled(self) -> bool:
        """Whether the test wants the task cancelled now."""
        return self.cancel_when(self)


def run_inline(
    task: Task[..., Any],
    *,
    namespace: str,
    job_id: uuid.UUID | None = None,
    attempt: int = 1,
    cancel_when: Callable[[InlineRun], bool] = lambda _run: False,
    steps: dict[str, Any] | None = None,
    **arguments: Any,
) -> InlineRun:
    """Run a task in this thread. Needs no database of its own.

    Args:
        job_id, attempt: what the task shall believe, such as a second attempt of the same job.
        cancel_when: asked at each checkpoint whether somebody has cancelled.
        steps: results of steps that an earlier attempt finished.

    Raises:
        BadArguments: the arguments do not fit the task.
        JobCancelled: at a checkpoint, after a cancel.
        ValueError: the result is no JSON.
        Exception: whatever the task raises.
    """
    task.check(arguments)
    run = InlineRun(cancel_when=cancel_when, steps={} if steps is None else steps)
    context = JobContext(job_id or uuid.uuid4(), attempt, namespace, run, MemorySteps(run.steps), attempt - 1, WORKER)
    with at_work(context):
        run.result = json.loads(to_json(_called(task, context, json.loads(to_json(arguments)))))
    return run


class _Recorded:
    """What a job says goes where a worker would write it (`apps.jobs.context.Transport`).

    What a coroutine says is written when it has ended: Django's connections are not for event loops.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._later: list[tuple[Event.Kind, dict[str, Any]]] = []

    def progress(self, done: int, total: int, text: str) -> None:
        """Write it."""
        self._write(Event.Kind.PROGRESS, {"done": done, "total": total, "text": text})

    def log(self, level: str, text: str) -> None:
        """Write it."""
        self._write(Event.Kind.LOG, {"level": level, "text": text})

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel."""
        if _in_event_loop():
            return False
        return Job.objects.filter(id=self._job.id, cancel_requested_at__isnull=False).exists()

    def close(self) -> None:
        """Write what is left."""
        for kind, data in self._later:
            self._write(kind, data)

    def _write(self, kind: Event.Kind, data: dict[str, Any]) -> None:
        if _in_event_loop():
            self._later.append((kind, data))
            return
        if kind == Event.Kind.PROGRESS:
            Progress.objects.update_or_create(job=self._job, defaults=data)
        note(self._job, kind, data)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_job(job: Job) -> Job:
    """Run one attempt of a job here and now, whether or not it is due; refreshed.

    A failure is the job's, not the caller's: see its `state` and `error`. What has ended, is held, or waits for its
    turn is left as it is.
    """
    job.refresh_from_db()
    if job.is_final or job.held_at is not None or job.state == Job.State.RUNNING or job.waits_for.exists():
        return job
    if job.limits is not None and not _admitted(job):
        job.refresh_from_db()
        return job
    with connection.cursor() as cursor:
        start: dict[str, Any] = {
            "ids": [job.id],
            "deliveries": [1],
            "again": [job.id],
            "worker": 0,
            "host": "test",
            "pid": None,
        }
        cursor.execute(query("start"), start)
        _, attempt, name, namespace, arguments, failures, _ = cursor.fetchone()
    outcome = _perform(job, attempt, name, namespace, json.loads(arguments), failures)
    with connection.cursor() as cursor:
        ending: dict[str, Any] = {
            "ids": [job.id],
            "outcomes": [outcome.name],
            "results": [outcome.result],
            "errors": [None if outcome.error is None else to_json(outcome.error)],
            "again": [outcome.again],
            "notes": [None],
            "pauses": [outcome.pause],
        }
        cursor.execute(query("finish"), ending)
        after = Job.objects.get(id=job.id)
        if after.is_final and after.reply_to:
            send_reply(after)
        cursor.execute(query("follow"), {"ids": [job.id]})
        cursor.execute(query("notify"), {"channel": EVENTS, "ids": [job.id]})
    job.refresh_from_db()
    return job


def _admitted(job: Job) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(query("admit"), {"ids": [job.id]})
        return all(verdict == "go" for _, verdict in cursor.fetchall())


def _perform(
    job: Job, attempt: int, name: str, namespace: str, arguments: dict[str, Any], failures: int
) -> outcomes.Outcome:
    try:
        task = registry.load(name)
        task.check(arguments)
    except MsgwebError as error:
        return outcomes.impossible(error)
    steps = KeptSteps(job.id, attempt)
    transport = _Recorded(job)
    context = JobContext(job.id, attempt, namespace, transport, steps, failures, WORKER)
    try:
        with at_work(context):
            return outcomes.succeeded(_called(task, context, arguments))
    except (Exception, outcomes.JobCancelled, outcomes.JobTimeout) as error:  # noqa: BLE001  whatever a task raises
        return outcomes.failed(task, error, failures)
    finally:
        transport.close()


def _called(task: Task[..., Any], context: JobContext, arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(task.function):
        return async_to_sync(task.function)(context, **arguments)
    return task(context, **arguments)


def due() -> list[Job]:
    """The jobs that a worker could begin now, those of due schedules too, in the order in which it would."""
    schedules.run_due()
    with connection.cursor() as cursor:
        cursor.execute(query("upkeep"), {"thorough": True})
    ready = Job.objects.filter(state=Job.State.READY, held_at=None, blocked_on=None)
    return list(ready.order_by("-priority", "created_at"))


def run_due() -> list[Job]:
    """Run all that is due, and what becomes due by that, such as the next job of a chain; in the order of the runs.

    A job that is to be tried again waits for its pause: `advance` the time.

    Raises:
        AssertionError: it does not end.
    """
    done: list[Job] = []
    while ready := due():
        for job in ready:
            before = job.attempt
            if run_job(job).attempt > before:
                done.append(job)
            if len(done) > RUNS_LIMIT:
                raise AssertionError(f"{RUNS_LIMIT} jobs have run, and there are more: does a task ask for itself?")
    return done


@contextmanager
def inline() -> Iterator[None]:
    """Within it, what is enqueued runs at once, before `enqueue` returns; what is scheduled later does not.

    A job whose attempt failed, and which may be tried again, waits for that: see `run_due`.
    """
    before, submit.after_enqueue = submit.after_enqueue, _run_if_ready
    try:
        yield
    finally:
        submit.after_enqueue = before


def _run_if_ready(job_id: uuid.UUID) -> None:
    job = Job.objects.get(id=job_id)
    if job.state == Job.State.READY:
        run_job(job)


def advance(seconds: float) -> None:
    """Let time pass for all jobs: whatever lies ahead of them comes so much nearer, and what was is so much longer ago.

    It is the moments in the tables that move: the database's clock is everybody's.
    """
    with connection.cursor() as cursor:
        cursor.execute(query("advance"), {"seconds": seconds})
        cursor.execute(query("upkeep"), {"thorough": True})


def enqueued(task: Any, **arguments: Any) -> list[Job]:
    """The jobs that were asked for of a task, ended ones too, oldest first.

    Args:
        task: one of ours, or a Django Task.
        arguments: only those with (at least) these. Of a Django Task: its keyword arguments, or `args`.
    """
    name = task.name if isinstance(task, Task) else task.module_path
    found = []
    for job in Job.objects.filter(task=name).order_by("created_at"):
        given = job.arguments if isinstance(task, Task) else {**job.arguments["kwargs"], "args": job.arguments["args"]}
        if all(name in given and given[name] == json.loads(to_json(value)) for name, value in arguments.items()):
            found.append(job)
    return found


def assert_enqueued(task: Any, *, count: int | None = None, **arguments: Any) -> Job:
    """Check that a task was asked for, with (at least) these arguments; returns the newest such job.

    Args:
        count: exactly so often; None: at least once.

    Raises:
        AssertionError: it was not; the message says what was.
    """
    found = enqueued(task, **arguments)
    if len(found) == count or (count is None and found):
        return found[-1] if found else Job()
    others = [f"{job.task} {job.arguments}" for job in Job.objects.order_by("created_at")[:50]]
    wanted = "at least once" if count is None else f"{count} times"
    raise AssertionError(
        f"{getattr(task, 'name', task)} with {arguments} was enqueued {len(found)} times, not {wanted}. "
        + ("Enqueued were: " + "; ".join(others) if others else "Nothing was.")
    )


def assert_not_enqueued(task: Any, **arguments: Any) -> None:
    """Check that a task was not asked for, with these arguments.

    Raises:
        AssertionError: it was.
    """
    assert_enqueued(task, count=0, **arguments)
