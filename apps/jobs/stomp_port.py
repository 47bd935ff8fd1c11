"""The STOMP gateway's door to jobs (`apps.stomp.gateway.ports.TaskPort`): asking, and working outside.

Django's ORM in threads of its own, so that the gateway's event loop never waits for the database.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections

from apps.jobs import outside
from apps.jobs.errors import UnknownJob
from apps.jobs.log_limit import LogLimiter
from apps.jobs.submit import submit
from apps.jobs.words import Meaning, meaning_of
from msgweb.errors import BadArguments, BadMessage, MsgwebError, Unavailable

T = TypeVar("T")

THREADS = 4  # each holds a connection to the database

#: As it came: its `job-event`, body, content type, and when it came (Unix time).
Word = tuple[str, bytes, str | None, float]


class InThread(Protocol):
    """Calls in a thread that has a connection to the database."""

    async def __call__(self, call: Callable[[], T]) -> T: ...


class JobsTaskPort:
    """Tasks and jobs for STOMP clients."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs")

    async def submit(
        self,
        *,
        namespace: str,
        task: str,
        body: bytes,
        headers: dict[str, str],
        reply_to: str | None,
        requested_by: str,
        delay: float = 0.0,
        expires: float | None = None,
    ) -> str:
        """Ask for a job; returns its id when the request is durable.

        A `correlation-id` that is a UUID becomes the job's id, and asking twice with it is asking once.
        `progress:true` asks for messages on acceptance and progress.

        Raises:
            BadArguments: the body is no JSON object, or its members do not fit the task.
            MsgwebError: what `apps.jobs.submit.submit` raises; Unavailable, when the database is away.
        """
        arguments = _arguments(body)
        correlation_id = headers.get("correlation-id")
        priority = headers.get("priority", "")
        job = await self._in_thread(
            lambda: submit(
                namespace,
                task,
                arguments,
                job_id=_uuid(correlation_id),
                reply_to=reply_to,
                correlation_id=correlation_id,
                wants_progress=headers.get("progress") == "true",
                requested_by=requested_by,
                priority=int(priority) if priority.isdecimal() else None,
                delay=delay or None,
                expires=expires,
            )
        )
        return str(job.id)

    def hearing(self, *, namespace: str, job_id: str, requested_by: str) -> "JobHearing":
        """For what one worker outside says about an attempt at a job."""
        return JobHearing(self._in_thread, namespace, job_id, requested_by)

    def close(self) -> None:
        """End the threads and their connections. Waits for what they are at."""
        all_here = threading.Barrier(THREADS)

        def leave() -> None:
            all_here.wait()  # so that each thread takes one of these
            connections.close_all()

        for _ in range(THREADS):
            self._threads.submit(leave)
        self._threads.shutdown()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        def safely() -> T:
            close_old_connections()
            try:
                return call()
            except (OperationalError, InterfaceError) as error:
                raise Unavailable(f"the database is away: {str(error).strip()}") from error
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._threads, safely)


class JobHearing:
    """What one worker outside says about an attempt at a job (`apps.stomp.gateway.ports.Hearing`).

    Args:
        in_thread: calls what needs the database.
        namespace, job_id: of the job, as the worker named it.
        said_by: the login of the worker.
    """

    __slots__ = ("_in_thread", "_job_id", "_limiter", "_namespace", "_said_by")

    def __init__(self, in_thread: InThread, namespace: str, job_id: str, said_by: str) -> None:
        self._in_thread = in_thread
        self._namespace = namespace
        self._job_id = job_id
        self._said_by = said_by
        self._limiter: LogLimiter | None = None  # most say no line

    async def hear(
        self, words: Sequence[Word], *, attempt: int | None = None, ending: str | None = None
    ) -> list[outside.Heard | MsgwebError]:
        """Record words, in one transaction, and say what became of each: see `apps.jobs.outside.hear`.

        Raises:
            UnknownJob: see there.
            Unavailable: the database is away.
        """
        return await self._in_thread(partial(self._hear, words, attempt, ending))

    async def close(self, attempt: int) -> None:
        """The worker says no more of that attempt, which has not ended: the log is told what was left out of it.

        Raises:
            UnknownJob, Unavailable: as `hear`.
        """
        if self._limiter is not None and self._limiter.left_out:
            await self._in_thread(partial(self._hear, (), attempt, None, last=True))

    def _hear(
        self, words: Sequence[Word], attempt: int | None, ending: str | None, last: bool = False
    ) -> list[outside.Heard | MsgwebError]:
        job = _uuid(self._job_id)
        if job is None:
            raise UnknownJob(f"there is no job {self._job_id[:40]!r}")
        if self._limiter is None:
            self._limiter = LogLimiter()
        said = [_said(*word) for word in words]
        return outside.hear(
            self._namespace, job, said, self._said_by, self._limiter, attempt=attempt, ending=ending, last=last
        )


def _said(event: str, body: bytes, content_type: str | None, at: float) -> outside.Said:
    meaning: Meaning | BadMessage
    try:
        meaning = meaning_of(event, _content(body, content_type))
    except BadMessage as error:
        meaning = error
    return outside.Said(datetime.fromtimestamp(at, UTC), event, meaning)


def _arguments(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadArguments(f"the body is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise BadArguments("the body is no JSON object: it names the task's arguments")
    return arguments


def _content(body: bytes, content_type: str | None) -> Any:
    """A body by its content type: JSON, or text. Without a type, JSON if it is that."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    if is_json or not kind:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            if is_json:
                raise BadMessage(f"the body is no JSON: {error}") from error
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BadMessage("what is said of a job is JSON or text in UTF-8") from error


def _uuid(text: str | None) -> uuid.UUID | None:
    """Only the canonical form: a text that merely can be read as a UUID is not meant as one."""
    try:
        value = uuid.UUID(text or "")
    except ValueError:
        return None
    return value if str(value) == (text or "").lower() else None
