"""Tasks for tests alone; loaded by `MSGWEB_TASK_MODULES=tests.sample_tasks`.

Those that hold append a line to a file when they begin, and go on when another file is there: a test sees where they
are, and decides when they end.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from apps.jobs import JobContext, external_task, task

QUEUE = "samples"


@task(name="samples.add", queue=QUEUE)
def add(context: JobContext, *, a: int, b: int = 1) -> dict[str, int]:
    """The sum, with some progress."""
    for done in range(1, 4):
        context.progress(done, 3, "adding")
    return {"sum": a + b}


@task(name="samples.nothing", queue=QUEUE)
def nothing(context: JobContext) -> int:
    """Do nothing; the number of the attempt."""
    return context.attempt


@task(name="samples.breathe", queue=QUEUE)
async def breathe(context: JobContext, *, seconds: float = 0.0) -> int:
    """Wait without holding up others."""
    await asyncio.sleep(seconds)
    return context.attempt


@task(name="samples.talk", queue=QUEUE)
def talk(context: JobContext) -> None:
    """Speak in all the ways that there are."""
    context.log("by the context", "debug")
    print("by print")
    logging.getLogger("samples").warning("by logging")
    sys.stdout.write("an unfinished line")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)


@task(name="samples.hold", queue=QUEUE, max_attempts=2)
def hold(context: JobContext, *, folder: str, polite: bool = True) -> int:
    """Begin, wait for the file `go`, and end with the number of the attempt."""
    with (Path(folder) / "begun").open("a") as file:
        file.write(f"{context.attempt} {os.getpid()}\n")
    context.progress(context.attempt, 10, "holding")
    while not (Path(folder) / "go").exists():
        if polite:
            context.checkpoint()
        time.sleep(0.01)
    return context.attempt


@task(name="samples.kill_itself", queue=QUEUE, max_attempts=2)
def kill_itself(context: JobContext, *, folder: str) -> None:
    """End the process that it runs in."""
    with (Path(folder) / "begun").open("a") as file:
        file.write(f"{context.attempt} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="samples.fail", queue=QUEUE, max_attempts=2)
def fail(context: JobContext, *, until_attempt: int = 99) -> int:
    """Fail, up to an attempt."""
    if context.attempt < until_attempt:
        raise ValueError(f"attempt {context.attempt} fails")
    return context.attempt


@task(name="samples.returns_nonsense", queue=QUEUE)
def returns_nonsense(context: JobContext) -> Any:
    """Return what is no JSON."""
    return object()


@task(name="samples.leaves_transaction", queue=QUEUE)
def leaves_transaction(context: JobContext) -> bool:
    """Leave a transaction open; and tell whether the one before left one."""
    dirty = not transaction.get_autocommit()
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return dirty


@task(name="samples.flood", queue=QUEUE)
def flood(context: JobContext, *, lines: int) -> None:
    """Say far too much."""
    for number in range(lines):
        print(f"line {number}")


by_others = external_task(name="samples.by_others", queue="samples.outside", required=("order",), optional=("note",))
