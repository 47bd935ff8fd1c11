"""Jobs that follow others: chains, and batches that are followed as a whole.

first, second = chain(namespace, Link(fetch, {"url": url}), Link(resize, {"width": 300}, result_as="picture"))

with batch(namespace, "thumbnails", then=Link(announce, {"shop": 3}, result_as="outcome")) as pictures:
    for picture in shop.pictures:
        pictures.add(thumbnail, picture=picture.id)
progress_of(pictures.id).percent
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connection, transaction
from django.db.models import Count

from apps.jobs.asking import Ask
from apps.jobs.errors import UnknownBatch
from apps.jobs.models import Batch, Job
from apps.jobs.queries import query
from apps.jobs.registry import Task
from apps.jobs.submit import ask_for
from msgweb.errors import BadRequest

NAME_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Link:
    """A job of a chain, or the one that follows a batch.

    Attributes:
        result_as: the argument that is given the result of what it follows: that of the job before; of a batch
            {"batch", "total", "succeeded", "failed", "cancelled", "expired"}.
        ask: how it is asked for, beside that.
    """

    task: Task[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    result_as: str | None = None
    ask: Ask = field(default_factory=Ask)


def chain(namespace: str, *links: Link) -> list[Job]:
    """Ask for jobs, each of which begins when the one before has succeeded. If one fails, those behind it are
    cancelled. All are there at COMMIT, or none.

    Raises:
        BadArguments: arguments do not fit a task.
        NotFound: there is no such namespace.
    """
    jobs: list[Job] = []
    with transaction.atomic():
        for link in links:
            ask = link.ask
            if jobs:
                ask = replace(ask, after=[*ask.after, jobs[-1].id], result_as=link.result_as)
            elif link.result_as:
                raise BadRequest("the first job of a chain follows none: there is no result to be given")
            jobs.append(ask_for(link.task, namespace, link.arguments, ask))
    return jobs


class OpenBatch:
    """A batch while jobs are added to it."""

    def __init__(self, namespace: str, batch_id: uuid.UUID) -> None:
        self.id = batch_id
        self.total = 0
        self._namespace = namespace

    def add(self, task: Task[..., Any], ask: Ask | None = None, /, **arguments: Any) -> Job:
        """Ask for a job of the batch.

        Raises:
            BadArguments, NotFound: as `Task.enqueue`.
        """
        job = ask_for(task, self._namespace, arguments, replace(ask or Ask(), batch=self.id))
        # One that is in its way, of a unique task, belongs to whatever it was asked for by.
        self.total += job.batch_id == self.id
        return job


@contextmanager
def batch(namespace: str, name: str = "", *, then: Link | None = None) -> Iterator[OpenBatch]:
    """Ask for jobs that belong together, in a transaction: nothing begins before the end of the block.

    Args:
        name: for people.
        then: a job that begins when all have ended, however they did.

    Raises:
        BadRequest: the name is too long.
        NotFound: there is no such namespace.
    """
    if len(name) > NAME_LIMIT or "\0" in name:
        raise BadRequest(f"a batch's name has at most {NAME_LIMIT} characters, and no NUL")
    with transaction.atomic():
        row = Batch.objects.create(namespace=namespace, name=name, total=0)
        opened = OpenBatch(namespace, row.id)
        yield opened
        row.total = opened.total
        row.save(update_fields=["total"])
        if then is not None:
            ask = replace(then.ask, after=[*then.ask.after, row.id], result_as=then.result_as)
            ask_for(then.task, namespace, then.arguments, ask)
        # Where there are none, or all have ended at once (inline), nothing else would come by.
        with connection.cursor() as cursor:
            cursor.execute(query("complete_batches"), {"ids": [row.id]})


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        states: how many of its jobs are in each state.
    """

    id: uuid.UUID
    name: str
    total: int
    states: Mapping[str, int]

    @property
    def done(self) -> int:
        """How many have ended, however they did."""
        return sum(number for state, number in self.states.items() if state in Job.FINAL)

    @property
    def percent(self) -> int:
        """Whole per cents, 0 to 100."""
        return 100 if self.done >= self.total else self.done * 100 // self.total


def progress_of(batch_id: uuid.UUID) -> BatchProgress:
    """How far a batch is.

    Raises:
        UnknownBatch: there is none of that id.
    """
    row = Batch.objects.filter(id=batch_id).first()
    if row is None:
        raise UnknownBatch(f"there is no batch {batch_id}")
    counted = Job.objects.filter(batch=row).order_by().values("state").annotate(number=Count("id"))
    return BatchProgress(row.id, row.name, row.total, {one["state"]: one["number"] for one in counted})
