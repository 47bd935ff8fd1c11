"""Django Tasks for tests alone."""

import asyncio
from pathlib import Path
from typing import Any

import django

from apps.jobs import Backoff, Concurrency, Unique, current_job
from apps.jobs.django_tasks import task_options

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task
def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


@task(priority=10, queue_name="mails")
def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """What it was given."""
    return {"args": list(args), "kwargs": kwargs}


@task
async def asleep(n: int) -> int:
    """A coroutine."""
    await asyncio.sleep(0)
    return n


@task(takes_context=True)
def attempts(context: Any, suffix: str) -> str:
    """What the context tells."""
    return f"{context.attempt} {context.task_result.id} {suffix}"


@task
def fails(message: str = "no") -> None:
    """Raise."""
    raise ValueError(message)


@task
def returns_nonsense() -> Any:
    """What is no JSON."""
    return object()


@task
def exits() -> None:
    """Leave."""
    raise SystemExit(3)


@task_options(max_attempts=3, backoff=Backoff(first=10, factor=1, jitter=0), timeout=30, priority=7)
@task
def stubborn(until: int) -> int:
    """Fail until an attempt."""
    job = current_job()
    job.progress(job.attempt, until, "trying")
    if job.attempt < until:
        raise ConnectionError(f"attempt {job.attempt}")
    return job.attempt


@task_options(unique=Unique(by=("customer",)), concurrency=Concurrency(1, "mail {customer}"))
@task
def once_for_each(customer: int, text: str = "") -> int:
    """One at a time for each customer."""
    return customer


@task
def writes(path: str) -> int:
    """Leave a trace, and tell which attempt."""
    with Path(path).open("a") as file:
        file.write("x")
    return current_job().attempt


class Outer:
    """Holds what has no module to itself."""

    class Odd(Exception):
        """An exception that can be neither copied nor made by its text."""

        def __init__(self, one: object, two: object) -> None:
            self.pair = (one, two)


@task
def fails_oddly() -> None:
    """Raise something that is hard to keep."""
    raise Outer.Odd(object(), lambda: None)
