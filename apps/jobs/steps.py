"""Parts of a job that are done stay done: `context.step`."""

import json
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from django.db import connection, transaction

from apps.jobs.errors import Superseded
from apps.jobs.queries import query
from apps.jobs.registry import to_json

NAME_LIMIT = 200


class Steps(Protocol):
    """Where the results of a job's steps are kept."""

    def run(self, name: str, work: Callable[[], Any], *, atomic: bool) -> tuple[Any, bool]:
        """The step's result, by way of JSON; and whether it was kept from before."""

    def forget(self) -> None:
        """None is done."""


class KeptSteps:
    """In the database, by an attempt that is still the job's."""

    def __init__(self, job_id: uuid.UUID, attempt: int) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._known: dict[str, Any] | None = None

    def run(self, name: str, work: Callable[[], Any], *, atomic: bool) -> tuple[Any, bool]:
        """Do the step unless it is done.

        Raises:
            Superseded: the job has gone on to another attempt, or was given to another worker.
            ValueError: the result is no JSON that can be kept.
        """
        if self._known is None:
            with connection.cursor() as cursor:
                cursor.execute(query("steps"), {"id": self._job_id})
                self._known = {row[0]: json.loads(row[1]) for row in cursor.fetchall()}
        if name in self._known:
            return self._known[name], True
        if atomic:
            with transaction.atomic():
                result = self._keep(name, work())
        else:
            result = self._keep(name, work())
        self._known[name] = result
        return result, False

    def forget(self) -> None:
        """None is done."""
        with connection.cursor() as cursor:
            cursor.execute(query("forget_steps"), {"id": self._job_id, "attempt": self._attempt})
        self._known = {}

    def _keep(self, name: str, value: object) -> Any:
        text = to_json(value)
        with connection.cursor() as cursor:
            cursor.execute(
                query("keep_step"), {"id": self._job_id, "attempt": self._attempt, "name": name, "result": text}
            )
            if cursor.fetchone() is None:
                raise Superseded(f"job {self._job_id} is not in attempt {self._attempt} any more")
        return json.loads(text)


class MemorySteps:
    """In memory: for a task that is run by hand, in tests."""

    def __init__(self, known: dict[str, Any] | None = None) -> None:
        self.known: dict[str, Any] = {} if known is None else known

    def run(self, name: str, work: Callable[[], Any], *, atomic: bool) -> tuple[Any, bool]:
        """Do the step unless it is done."""
        if name in self.known:
            return self.known[name], True
        self.known[name] = json.loads(to_json(work()))
        return self.known[name], False

    def forget(self) -> None:
        """None is done."""
        self.known.clear()
