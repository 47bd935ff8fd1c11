"""Jobs that share a slot: coroutines in one event loop, plain functions in threads."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from apps.jobs import outcomes
from apps.jobs.context import JobCancelled, JobTimeout
from msgweb.errors import MsgwebError
from workers import wire
from workers.running import Desk, Finished, do, ended
from workers.transport import Supervisor

Key = tuple[str, int]


class Loop:
    """An event loop in a thread of its own, for the coroutines of a slot.

    What is begun together costs one waking of the thread, and what ends in one turn of the loop is reported together.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[Key, asyncio.Task[Any]] = {}
        self._done: list[tuple[wire.RunJob, wire.Ended]] = []
        supervisor.on_cancel = lambda key: self._call(self._cancel, key)
        threading.Thread(target=self._loop.run_forever, name="coroutines", daemon=True).start()

    def start(
        self, desk: Desk, jobs: Sequence[wire.RunJob], finished: Finished, ended: Callable[[int], object]
    ) -> None:
        """Begin jobs. `finished` gets their outcomes, and `ended` is told after that how many they were."""
        self._call(self._begin, desk, jobs, finished, ended)

    def _begin(
        self, desk: Desk, jobs: Sequence[wire.RunJob], finished: Finished, ended: Callable[[int], object]
    ) -> None:
        for job in jobs:
            self._tasks[job.job, job.attempt] = self._loop.create_task(self._do(desk, job, finished, ended))

    async def _do(self, desk: Desk, job: wire.RunJob, finished: Finished, told: Callable[[int], object]) -> None:
        began = time.monotonic()
        key = job.job, job.attempt
        context = desk.begin(job)
        try:
            outcome = await self._run(desk, job, context, key)
        finally:
            del self._tasks[key]
            desk.end(job)
        self._done.append((job, ended(job, outcome, began)))
        if len(self._done) == 1:
            self._loop.call_soon(self._report, finished, told)

    async def _run(self, desk: Desk, job: wire.RunJob, context: Any, key: Key) -> outcomes.Outcome:
        try:
            task, arguments = desk.prepare(job)
        except MsgwebError as error:
            return outcomes.impossible(error)
        try:
            if self._supervisor.cancelled(key):
                raise asyncio.CancelledError
            coroutine: Coroutine[Any, Any, Any] = task(context, **arguments)
            return outcomes.succeeded(await coroutine)
        except asyncio.CancelledError as error:  # what JobCancelled is for those who ask
            why = self._supervisor.cancelled(key)
            told = error if why is None else JobTimeout() if why == "timeout" else JobCancelled()
            return outcomes.failed(task, told, job.failures)
        except BaseException as error:  # noqa: BLE001  whatever a task raises is the job's failure
            return outcomes.failed(task, error, job.failures)

    def _report(self, finished: Finished, told: Callable[[int], object]) -> None:
        done, self._done = self._done, []
        try:
            finished(done)
        finally:
            told(len(done))

    def _call(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def _cancel(self, key: Key) -> None:
        running = self._tasks.get(key)
        # What is cancelled before its first step never runs, and nobody would say that it has ended: it looks itself.
        if running is not None and inspect.getcoroutinestate(_coroutine(running)) != inspect.CORO_CREATED:
            running.cancel()


def _coroutine(task: "asyncio.Task[Any]") -> Coroutine[Any, Any, Any]:
    found = task.get_coro()
    assert isinstance(found, Coroutine)
    return found


class SharedRunner:
    """Several jobs at a time in one slot."""

    def __init__(self, desk: Desk, threads: int) -> None:
        self._desk = desk
        self._threads = threads
        self._free = threads
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="job")

    def room(self) -> int:
        """How many jobs could begin at once; waits until it is one at least."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            return self._free

    def __call__(self, jobs: Sequence[wire.RunJob], finished: Finished) -> None:
        with self._changed:
            self._free -= len(jobs)
        coroutines = [job for job in jobs if self._desk.is_async(job)]
        if coroutines:
            self._desk.loop.start(self._desk, coroutines, finished, self._ended)
        if len(coroutines) < len(jobs):
            for job in jobs:
                if not self._desk.is_async(job):
                    self._pool.submit(self._do, job, finished)

    def _do(self, job: wire.RunJob, finished: Finished) -> None:
        try:
            finished([(job, do(self._desk, job))])
        finally:
            self._ended(1)

    def _ended(self, count: int) -> None:
        with self._changed:
            self._free += count
            self._changed.notify()

    def close(self) -> None:
        """Wait until all have ended."""
        with self._changed:
            while self._free < self._threads:
                self._changed.wait()
