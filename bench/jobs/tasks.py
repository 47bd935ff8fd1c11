"""What the benchmarks' jobs do in Msgweb; the bodies are jobbench's, as for every peer."""

import os
import time
from typing import Any

from apps.jobs import JobContext, task


def _note(*words: Any) -> None:
    with open(os.environ["JOBBENCH_LOG"], "ab", buffering=0) as log:
        log.write((" ".join(map(str, words)) + "\n").encode())


@task(name="bench.noop", queue="bench")
def noop(context: JobContext) -> None:
    """Nothing."""


@task(name="bench.breathe", queue="bench")
async def breathe(context: JobContext) -> None:
    """Nothing, as a coroutine."""


@task(name="bench.stamp", queue="bench")
def stamp(context: JobContext, *, sent_ns: int) -> None:
    """How long ago it was asked for."""
    _note("lag", time.time_ns() - sent_ns)


@task(name="bench.doze", queue="bench", max_attempts=3)
def doze(context: JobContext, *, seconds: float, tag: str) -> None:
    """Sleep."""
    _note("start", tag, time.time(), os.getpid())
    time.sleep(seconds)
    _note("end", tag, time.time(), os.getpid())
