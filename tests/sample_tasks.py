"""Tasks for tests alone; loaded by `MSGWEB_TASK_MODULES=tests.sample_tasks`.

Those that hold append a line to a file when they begin, and go on when another file is there: a test sees where they
are, and decides when they end.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from apps.jobs import Backoff, Concurrency, JobContext, Rate, Unique, external_task, task

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
    (Path(folder) / "ended").touch()
    return context.attempt


@task(name="samples.mostly_quick", queue=QUEUE)
def mostly_quick(context: JobContext, *, folder: str = "") -> int:
    """Nothing, at once; but with a folder, hold."""
    return hold(context, folder=folder) if folder else 0


@task(name="samples.quick_steps", queue=QUEUE)
def quick_steps(context: JobContext) -> int:
    """The number of the attempt, by way of a step."""
    return context.step("only", lambda: context.attempt)


@task(name="samples.once", queue=QUEUE, max_attempts=3, on_worker_death="fail")
def once(context: JobContext, *, folder: str) -> int:
    """The same for work that must not be done twice."""
    return hold(context, folder=folder, polite=False)


@task(name="samples.patient", queue=QUEUE, max_attempts=3, backoff=Backoff(first=3600))
def patient(context: JobContext, *, folder: str) -> int:
    """The same with an hour between its attempts."""
    return hold(context, folder=folder)


@task(name="samples.leave", queue=QUEUE)
def leave(context: JobContext, *, status: int) -> None:
    """End the process that it runs in, without a word."""
    os._exit(status)


@task(name="samples.kill_itself", queue=QUEUE, max_attempts=2)
def kill_itself(context: JobContext, *, folder: str) -> None:
    """End the process that it runs in."""
    with (Path(folder) / "begun").open("a") as file:
        file.write(f"{context.attempt} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="samples.kill_worker", queue=QUEUE, max_deaths=3, backoff=Backoff(first=0.2, jitter=0))
def kill_worker(context: JobContext, *, folder: str) -> None:
    """End all processes of the worker that it runs in."""
    with (Path(folder) / "begun").open("a") as file:
        file.write(f"{context.attempt} {os.getpid()}\n")
    os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)  # the main process and the supervisor
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="samples.fragile", queue=QUEUE, max_deaths=1)
def fragile(context: JobContext, *, folder: str = "") -> None:
    """End at once; in a folder all processes of the worker that it runs in."""
    if folder:
        os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
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


@task(name="samples.ask_database", queue=QUEUE)
def ask_database(context: JobContext, *, folder: str = "") -> int:
    """Ask Django's connection for the process of the server that it leads to; and with a folder, hold."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = int(cursor.fetchone()[0])
    if folder:
        hold(context, folder=folder)
    return backend


@task(name="samples.converse", queue=QUEUE)
def converse(context: JobContext, *, name: str, folder: str) -> None:
    """Speak in turns with another job: each line waits for the other's one before."""
    other = "b" if name == "a" else "a"
    for number in range(20):
        print(f"{name}{number}")
        (Path(folder) / f"{name}{number}").touch()
        while not (Path(folder) / f"{other}{number}").exists():
            time.sleep(0.001)


@task(name="samples.take_turns", queue=QUEUE)
def take_turns(context: JobContext, *, turns: int) -> None:
    """Speak in turns with child processes."""
    for turn in range(turns):
        print(f"by print {turn}")
        subprocess.run(["echo", f"by a child {turn}"], check=True)
        logging.getLogger("samples").warning("by logging %d", turn)
        subprocess.run(["echo", f"by another child {turn}"], check=True)


@task(name="samples.fork", queue=QUEUE)
def fork(context: JobContext) -> int | None:
    """Have a process of one's own, and end it; its exit code."""
    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=_speak_and_wait, args=(writing,))
    print("before")
    child.start()
    os.read(reading, 1)
    print("after")
    child.terminate()
    child.join(10)
    return child.exitcode


def _speak_and_wait(writing: int) -> None:
    print("in the child")
    logging.getLogger("samples").warning("too")
    os.write(writing, b"x")
    time.sleep(60)


@task(name="samples.grow", queue=QUEUE)
def grow(context: JobContext, *, mebibytes: int) -> None:
    """Take memory, and keep it."""
    _kept.append(bytearray(os.urandom(1024) * 1024 * mebibytes))


_kept: list[bytearray] = []


@task(name="samples.flood", queue=QUEUE)
def flood(context: JobContext, *, lines: int) -> None:
    """Say far too much."""
    for number in range(lines):
        print(f"line {number}")


by_others_again = external_task(name="samples.by_others_again", queue="samples.outside", max_attempts=2, expires=60)
parcels = external_task(
    name="samples.parcels",
    queue="shop.parcels",
    required=("order",),
    optional=("parcels", "seconds"),
    concurrency=Concurrency(2, "order {order}"),
)
outside_twos = external_task(
    name="samples.outside_twos",
    queue="samples.outside",
    required=("customer",),
    concurrency=Concurrency(2, "outside {customer}"),
)
outside_paced = external_task(name="samples.outside_paced", queue="samples.outside", rate=Rate(2, per=60))
outside_quick = external_task(name="samples.outside_quick", queue="samples.outside", timeout=0.05, max_attempts=2)
outside_once = external_task(name="samples.outside_once", queue="samples.outside", on_worker_death="fail")
by_others = external_task(name="samples.by_others", queue="samples.outside", required=("order",), optional=("note",))


@task(name="samples.unique", queue=QUEUE, unique=Unique())
def unique(context: JobContext, *, a: int) -> int:
    """One at a time of each."""
    return a


@task(name="samples.unique_hour", queue=QUEUE, unique=Unique("{a}", window=3600, states=frozenset({"succeeded"})))
def unique_hour(context: JobContext, *, a: int, b: int = 0) -> int:
    """Not again within an hour of its success."""
    return a


@task(name="samples.two_at_a_time", queue=QUEUE, concurrency=Concurrency(2, "samples {customer}"), max_attempts=2)
def two_at_a_time(context: JobContext, *, customer: int) -> int:
    """At most two of a customer."""
    return customer


@task(name="samples.paced", queue=QUEUE, rate=Rate(2, per=60))
def paced(context: JobContext) -> None:
    """At most two a minute."""


@task(name="samples.expires", queue=QUEUE, expires=60)
def expires(context: JobContext) -> None:
    """Not later than in a minute."""


@task(name="samples.only_once", queue=QUEUE, max_attempts=5, on_worker_death="fail")
def only_once(context: JobContext) -> None:
    """Never begun again after a worker's death."""


@task(name="samples.begins_anew", queue=QUEUE, max_attempts=5, on_worker_death="retry")
def begins_anew(context: JobContext) -> None:
    """From the beginning, after a worker's death."""


@task(name="samples.tell", queue=QUEUE)
def tell(context: JobContext, *, what: Any = None) -> Any:
    """What it was told."""
    return what


@task(name="samples.too_long", queue=QUEUE, timeout=0.3, max_attempts=2, backoff=Backoff(first=0, jitter=0))
def too_long(context: JobContext, *, polite: bool) -> None:
    """Never end by itself."""
    while True:
        if polite:
            context.checkpoint()
        time.sleep(0.01)


@task(name="samples.dies_between_steps", queue=QUEUE, max_attempts=3, backoff=Backoff(first=0, jitter=0))
def dies_between_steps(context: JobContext, *, folder: str) -> list[int]:
    """Three steps; the process dies behind the second, the first time."""

    def work(number: int) -> int:
        with (Path(folder) / "steps").open("a") as file:
            file.write(f"{number}\n")
        return number

    done = [context.step(f"step {number}", work, number) for number in (1, 2)]
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return [*done, context.step("step 3", work, 3)]


@task(name="samples.crowd", queue=QUEUE, concurrency=Concurrency(2, "crowd"))
def crowd(context: JobContext, *, folder: str) -> int:
    """Tell how many of its kind are at work beside it."""
    mine = Path(folder) / f"in-{context.job_id}"
    mine.touch()
    time.sleep(0.05)
    beside = len(list(Path(folder).glob("in-*")))
    mine.unlink()
    return beside


@task(name="samples.slow_retry", queue=QUEUE, max_attempts=2, backoff=Backoff(first=4, jitter=0))
def slow_retry(context: JobContext) -> float:
    """Fail once, to be tried again four seconds later."""
    if context.attempt == 1:
        raise ValueError("not yet")
    return time.time()
