"""Parts of a job that are done stay done: `context.step`."""

import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from django.db import connection

from apps.jobs.errors import Superseded
from apps.jobs.queries import query
from apps.jobs.registry import to_json


class Kept(NamedTuple):
    """A step that is done."""

    result: Any


class Steps(Protocol):
    """Where the results of a job's steps are kept."""

    def find(self, name: str) -> Kept | None:
        """A step that is done; None: it is not."""

    def keep(self, name: str, value: object) -> Any:
        """A step is done; its result, by way of JSON."""

    def forget(self) -> None:
        """None is done."""


class KeptSteps:
    """In the database, by an attempt that is still the job's."""

    def __init__(self, job_id: uuid.UUID, attempt: int, record: Callable[[], None] | None = None) -> None:
        """`record` is called once, before the first look: it sees to it that the attempt is on record."""
        self._job_id = job_id
        self._attempt = attempt
        self._record = record
        self._known: dict[str, Any] | None = None

    def find(self, name: str) -> Kept | None:
        """A step that is done; None: it is not."""
        if self._known is None:
            self._see_to_record()
            with connection.cursor() as cursor:
                cursor.execute(query("steps"), {"id": self._job_id})
                self._known = {row[0]: json.loads(row[1]) for row in cursor.fetchall()}
        return Kept(self._known[name]) if name in self._known else None

    def keep(self, name: str, value: object) -> Any:
        """A step is done; its result, by way of JSON.

        Raises:
            Superseded: the job has gone on to another attempt, or was given to another worker.
            ValueError: the result is no JSON that can be kept.
        """
        text = to_json(value)
        self._see_to_record()
        with connection.cursor() as cursor:
            cursor.execute(
                query("keep_step"), {"id": self._job_id, "attempt": self._attempt, "name": name, "result": text}
            )
            if cursor.fetchone() is None:
                raise Superseded(f"job {self._job_id} is not in attempt {self._attempt} any more")
        result = json.loads(text)
        self._known = {**(self._known or {}), name: result}
        return result

    def forget(self) -> None:
        """None is done."""
        self._see_to_record()
        with connection.cursor() as cursor:
            cursor.execute(query("forget_steps"), {"id": self._job_id, "attempt": self._attempt})
        self._known = {}

    def _see_to_record(self) -> None:
        if self._record is not None:
            self._record()
            self._record = None


class MemorySteps:
    """In memory: for a task that is run by hand, in tests."""

    def __init__(self, known: dict[str, Any] | None = None) -> None:
        self.known: dict[str, Any] = {} if known is None else known

    def find(self, name: str) -> Kept | None:
        """A step that is done; None: it is not."""
        return Kept(self.known[name]) if name in self.known else None

    def keep(self, name: str, value: object) -> Any:
        """A step is done; its result, by way of JSON."""
        self.known[name] = json.loads(to_json(value))
        return self.known[name]

    def forget(self) -> None:
        """None is done."""
        self.known.clear()
