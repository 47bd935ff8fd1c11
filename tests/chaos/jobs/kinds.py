"""Tasks of all kinds, and what may become of a job of each. Each run of a job is written down in a file."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from apps.jobs import Backoff, Concurrency, JobContext, task

QUEUE = "chaos"
DEATHS = frozenset({"slot_died"})
SOON = Backoff(first=0.05, longest=0.5)


@dataclass(frozen=True, slots=True)
class Kind:
    """What may become of a job.

    Attributes:
        weight: how many of a hundred jobs are of this kind.
        ends: the states that it may end in.
        unless: codes of errors that may end it otherwise, since the deaths of processes used up its attempts.
        once: it must never begin twice.
        seconds: it takes up to so many.
    """

    weight: int
    ends: frozenset[str] = frozenset({"succeeded"})
    unless: frozenset[str] = frozenset()
    once: bool = False
    seconds: float = 0.0


KINDS = {
    "quick": Kind(40),
    "sleepy": Kind(15, seconds=0.5),
    "steps": Kind(8, seconds=0.3),
    "flaky": Kind(8, unless=DEATHS),
    "hopeless": Kind(4, frozenset({"failed"})),
    "once": Kind(8, unless=frozenset({"worker_died", "slot_died"}), once=True, seconds=0.5),
    "limited": Kind(5, seconds=0.1),
    "breathing": Kind(5, seconds=0.5),
    "talkative": Kind(3),
    "suicidal": Kind(2),
    "endless": Kind(2, frozenset({"failed"}), seconds=30.0),
}


def note(context: JobContext, what: str) -> None:
    """Write down that something of a job happens. One write: it is there whole, or not."""
    line = f"{what} {context.job_id} {context.attempt} {os.getpid()}\n"
    descriptor = os.open(Path(os.environ["CHAOS_FOLDER"]) / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def sleep(context: JobContext, seconds: float) -> None:
    """Sleep, and stop when asked to."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        context.checkpoint()
        time.sleep(min(left, 0.02))


@task(name="chaos.quick", queue=QUEUE, max_attempts=1000, backoff=SOON)
def quick(context: JobContext, *, number: int, seconds: float) -> int:
    """Nothing, at once."""
    note(context, "begin")
    return number


@task(name="chaos.sleepy", queue=QUEUE, max_attempts=1000, backoff=SOON)
def sleepy(context: JobContext, *, number: int, seconds: float) -> int:
    """Take a while."""
    note(context, "begin")
    context.progress(1, 2, "half way")
    sleep(context, seconds)
    return number


@task(name="chaos.steps", queue=QUEUE, max_attempts=1000, backoff=SOON)
def steps(context: JobContext, *, number: int, seconds: float) -> int:
    """Three steps, each recorded."""
    note(context, "begin")

    def step(name: str) -> int:
        note(context, name)
        sleep(context, seconds / 3)
        return 1

    return number + sum(context.step(name, step, name) for name in ("first", "second", "third")) - 3


@task(name="chaos.flaky", queue=QUEUE, max_attempts=4, backoff=SOON)
def flaky(context: JobContext, *, number: int, seconds: float) -> int:
    """Fail twice."""
    note(context, "begin")
    if context.failures < 2:
        raise ValueError(f"failure {context.failures + 1}")
    return number


@task(name="chaos.hopeless", queue=QUEUE, max_attempts=2, backoff=SOON)
def hopeless(context: JobContext, *, number: int, seconds: float) -> int:
    """Fail whenever it is tried."""
    note(context, "begin")
    raise ValueError("no hope")


@task(name="chaos.once", queue=QUEUE, max_attempts=3, on_worker_death="fail")
def once(context: JobContext, *, number: int, seconds: float) -> int:
    """What must not be begun twice."""
    note(context, "begin")
    sleep(context, seconds)
    return number


@task(name="chaos.limited", queue=QUEUE, max_attempts=1000, backoff=SOON, concurrency=Concurrency(limit=2))
def limited(context: JobContext, *, number: int, seconds: float) -> int:
    """Two at a time."""
    note(context, "begin")
    sleep(context, seconds)
    return number


@task(name="chaos.breathing", queue=QUEUE, max_attempts=1000, backoff=SOON)
async def breathing(context: JobContext, *, number: int, seconds: float) -> int:
    """A coroutine."""
    note(context, "begin")
    await asyncio.sleep(seconds)
    return number


@task(name="chaos.talkative", queue=QUEUE, max_attempts=1000, backoff=SOON)
def talkative(context: JobContext, *, number: int, seconds: float) -> int:
    """Say a lot."""
    note(context, "begin")
    for line in range(200):
        print(f"line {line}")
    return number


@task(name="chaos.suicidal", queue=QUEUE, max_attempts=1000, backoff=SOON)
def suicidal(context: JobContext, *, number: int, seconds: float) -> int:
    """End the process that it runs in, the first time."""
    note(context, "begin")
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@task(name="chaos.endless", queue=QUEUE, max_attempts=1, timeout=0.3, on_worker_death="retry")
def endless(context: JobContext, *, number: int, seconds: float) -> int:
    """Take longer than it may."""
    note(context, "begin")
    sleep(context, seconds)
    return number
