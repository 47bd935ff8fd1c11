"""Coroutines in a slot: a cancel that comes before the first step of its job."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from workers import wire
from workers.coroutines import Loop
from workers.running import Desk

JOB = wire.RunJob("0199c0de-0000-7000-8000-000000000001", 1, "samples.unit", "samples.never", "{}")
KEY = (JOB.job, JOB.attempt)


class Supervisor:
    """Wants the job cancelled."""

    on_cancel: Callable[[tuple[str, int]], None]

    def cancelled(self, key: tuple[str, int]) -> str | None:
        return "cancelled" if key == KEY else None


def test_a_job_that_is_cancelled_before_its_first_step_ends_and_is_told() -> None:
    begun: list[str] = []

    def task(_context: object) -> None:
        begun.append("its code")

    desk = SimpleNamespace(
        begin=lambda job: begun.append(job.job),
        prepare=lambda _job: (task, {}),
        end=lambda _job: begun.append("end"),
    )
    before = set(threading.enumerate())
    loop = Loop(cast(Any, Supervisor()))
    (thread,) = set(threading.enumerate()) - before
    told: list[wire.Ended] = []
    over = threading.Event()

    def begin_and_cancel() -> None:  # in one turn of the loop
        loop._begin(cast(Desk, desk), [JOB], lambda done: told.extend(end for _, end in done), lambda _: over.set())
        loop._cancel(KEY)

    loop._call(begin_and_cancel)
    assert over.wait(30)
    assert [(end.job, end.outcome) for end in told] == [(JOB.job, "cancelled")]
    assert begun == [JOB.job, "end"]
    loop._call(loop._loop.stop)
    thread.join()
    loop._loop.close()
