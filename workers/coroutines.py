"""Jobs that share a slot: coroutines in one event loop, plain functions in threads."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from apps.jobs import outcomes
from apps.jobs.context import JobCancelled, JobTimeout
from msgweb.errors import MsgwebError
from workers import wire
from workers.running import Desk, Finished, do, ended
from workers.transport import Supervisor

Key = tuple[str, int]


class Loop:
    """An event loop in a thread of its own, for the coroutines of a slot."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[Key, asyncio.Task[Any]] = {}
        supervisor.on_cancel = lambda key: self._call(self._cancel, key)
        threading.Thread(target=self._loop.run_forever, name="coroutines", daemon=True).start()

    def start(self, desk: Desk, job: wire.RunJob) -> "Future[wire.Ended]":
        """Begin a job; its outcome comes later."""
        return asyncio.run_coroutine_threadsafe(self._do(desk, job), self._loop)

    async def _do(self, desk: Desk, job: wire.RunJob) -> wire.Ended:
        began = time.monotonic()
        key = job.job, job.attempt
        with desk.at_work(job) as context:
            try:
                task, arguments = desk.prepare(job)
            except MsgwebError as error:
                return ended(job, outcomes.impossible(error), began)
            coroutine: Coroutine[Any, Any, Any] = task(context, **arguments)
            running = self._tasks[key] = self._loop.create_task(coroutine)
            if self._supervisor.cancelled(key):
                running.cancel()
            try:
                outcome = outcomes.succeeded(await running)
            except asyncio.CancelledError as error:  # what JobCancelled is for those who ask
                why = self._supervisor.cancelled(key)
                told = error if why is None else JobTimeout() if why == "timeout" else JobCancelled()
                outcome = outcomes.failed(task, told, job.failures)
            except BaseException as error:  # noqa: BLE001  whatever a task raises is the job's failure
                outcome = outcomes.failed(task, error, job.failures)
            finally:
                del self._tasks[key]
        return ended(job, outcome, began)

    def _call(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def _cancel(self, key: Key) -> None:
        running = self._tasks.get(key)
        if running is not None:
            running.cancel()


class SharedRunner:
    """Several jobs at a time in one slot."""

    def __init__(self, desk: Desk, threads: int) -> None:
        self._desk = desk
        self._threads = threads
        self._room = threading.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="job")

    def __call__(self, job: wire.RunJob, finished: Finished) -> None:
        def ended(future: "Future[wire.Ended]") -> None:
            try:
                finished(job, future.result())
            finally:
                self._room.release()

        self._room.acquire()
        if self._desk.is_async(job):
            future = self._desk.loop.start(self._desk, job)
        else:
            future = self._pool.submit(do, self._desk, job)
        future.add_done_callback(ended)
        with self._room:  # what is taken from the channel has begun: wait for room
            pass

    def close(self) -> None:
        """Wait until all have ended."""
        for _ in range(self._threads):
            self._room.acquire()
