"""A job in a slot, from its task's name to its outcome."""

import contextvars
import inspect
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from django.db import close_old_connections, connections
from django.db.backends.signals import connection_created

from apps.jobs import django_tasks, outcomes, registry
from apps.jobs.context import LINE_LIMIT, JobContext, clean, enter
from apps.jobs.steps import KeptSteps
from msgweb.errors import MsgwebError
from workers import output, wire
from workers.transport import Output, SlotTransport, Supervisor

if TYPE_CHECKING:
    from workers.coroutines import Loop

Finished = Callable[[Sequence[tuple[wire.RunJob, wire.Ended]]], None]

#: Whether a connection to a database was opened in this thread: most short tasks need none, and to look through those
#: of Django before and after each job would cost them a third of their time.
_opened = threading.local()


def _note_opening(**_: object) -> None:
    _opened.any = True


connection_created.connect(_note_opening)

_read = json.JSONDecoder().decode  # `json.loads`, without its look at what it was given

#: The transport of the job that this code runs for. Threads that a task starts itself do not inherit it.
_current: contextvars.ContextVar[SlotTransport | None] = contextvars.ContextVar("job", default=None)


class Runner(Protocol):
    """Runs jobs."""

    def room(self) -> int:
        """How many jobs could begin at once; waits until it is one at least."""

    def __call__(self, jobs: Sequence[wire.RunJob], finished: Finished) -> None:
        """Run jobs, for which there is room, now or at the side."""

    def close(self) -> None:
        """Wait for those at the side."""


class Desk:
    """What all jobs of a slot share: the way to the supervisor, and what is printed and logged."""

    def __init__(self, supervisor: Supervisor, raw: Output) -> None:
        self._supervisor = supervisor
        self._raw = raw
        self._host = socket.gethostname()
        self._running: dict[str, SlotTransport] = {}
        self._in_sink = contextvars.ContextVar("in_sink", default=False)
        self._streams = output.take_over(self._sink)
        self._forked = False
        self._async: dict[str, bool] = {}
        self._session: object = None  # of the worker, as of the latest job
        self._worker = ""
        os.register_at_fork(after_in_child=self._let_go)

    @cached_property
    def loop(self) -> "Loop":
        """Where coroutines run; made for the first of them."""
        from workers.coroutines import Loop  # asyncio, which few slots need

        return Loop(self._supervisor)

    def is_async(self, job: wire.RunJob) -> bool:
        """Whether the job's task is a coroutine function."""
        known = self._async.get(job.task)
        if known is None:
            try:
                known = inspect.iscoroutinefunction(registry.load(job.task).function)
            except MsgwebError:
                return False
            self._async[job.task] = known
        return known

    def prepare(self, job: wire.RunJob) -> tuple[registry.Task[..., Any], dict[str, Any]]:
        """The task and its arguments.

        Raises:
            MsgwebError: another version of the code made this job.
        """
        task = registry.load(job.task)
        arguments: dict[str, Any] = _read(job.arguments)
        task.check_names(arguments)
        return task, arguments

    def begin(self, job: wire.RunJob) -> JobContext:
        """The job runs from now on: in this thread's, or task's, context whatever is said is its log."""
        transport = self._running[job.job] = SlotTransport(self._supervisor, job)
        _current.set(transport)
        job_id = uuid.UUID(job.job)
        if job.worker != self._session:
            self._session, self._worker = job.worker, django_tasks.worker_id(job.worker, self._host)
        steps = KeptSteps(job_id, job.attempt, transport.record if job.deferred else None)
        context = JobContext(job_id, job.attempt, job.namespace, transport, steps, job.failures, self._worker)
        enter(context)
        return context

    def end(self, job: wire.RunJob) -> None:
        """It has ended, in the context that it began in."""
        try:
            for stream in self._streams:
                stream.end_line()
            if len(self._running) == 1:  # of several nobody could tell whose output it is
                self._raw.drain(end=True)
            self._running[job.job].close()
        finally:
            enter(None)
            _current.set(None)
            self._running.pop(job.job, None)

    def _let_go(self) -> None:
        """A task has forked: the child has no part in this process's socket. What it says is raw output."""
        self._forked = True

    def printed(self, line: str) -> None:
        """A line of raw output: of the job that runs, where there is but one."""
        transport = self._only()
        if transport is not None:
            transport.log("info", line)
        else:
            self._supervisor.send(wire.Log("", time.time(), "info", line))

    def _only(self) -> SlotTransport | None:
        running = list(self._running.values())
        return running[0] if len(running) == 1 else None

    def _sink(self, level: str, line: str) -> bool:
        transport = _current.get() or self._only()
        if transport is None or self._forked or self._in_sink.get():
            return False
        token = self._in_sink.set(True)
        try:
            self._raw.drain()
            transport.log(level, clean(line, LINE_LIMIT))
        finally:
            self._in_sink.reset(token)
        return True


def do(desk: Desk, job: wire.RunJob) -> wire.Ended:
    """Run a job in this thread."""
    began = time.monotonic()
    if getattr(_opened, "any", False):
        close_old_connections()
    context = desk.begin(job)
    try:
        try:
            task, arguments = desk.prepare(job)
        except MsgwebError as error:
            outcome = outcomes.impossible(error)
        else:
            try:
                context.checkpoint()
                outcome = outcomes.succeeded(task(context, **arguments))
            except BaseException as error:  # noqa: BLE001  whatever a task raises, SystemExit too, is the job's failure
                outcome = outcomes.failed(task, error, job.failures)
    finally:
        desk.end(job)
    clean_up()
    return ended(job, outcome, began)


def ended(job: wire.RunJob, outcome: outcomes.Outcome, began: float) -> wire.Ended:
    """What an attempt came to, for the supervisor. `began` by `time.monotonic()`."""
    seconds = round(time.monotonic() - began, 6)  # more digits take longer to write than to measure
    return wire.Ended(job.job, outcome.name, seconds, outcome.result, outcome.error, outcome.again, outcome.pause)


def clean_up() -> None:
    """See to this thread's database connections: a task may have left a transaction open."""
    if not getattr(_opened, "any", False):
        return
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.get_autocommit():
            connection.close()
    close_old_connections()
    _opened.any = any(one.connection is not None for one in connections.all(initialized_only=True))


class SerialRunner:
    """One job at a time, in the slot's main thread; a coroutine in the event loop's."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def room(self) -> int:
        """One."""
        return 1

    def __call__(self, jobs: Sequence[wire.RunJob], finished: Finished) -> None:
        (job,) = jobs
        if self._desk.is_async(job):
            ended = threading.Event()
            self._desk.loop.start(self._desk, jobs, finished, lambda _count: ended.set())
            ended.wait()
        else:
            finished([(job, do(self._desk, job))])

    def close(self) -> None:
        """There are none at the side."""
