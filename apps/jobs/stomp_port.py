"""The STOMP gateway's door to jobs (`apps.stomp.gateway.ports.TaskPort`): asking, and working outside.

Django's ORM in threads of its own, so that the gateway's event loop never waits for the database.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections

from apps.jobs import outside
from apps.jobs.errors import UnknownJob
from apps.jobs.submit import submit
from msgweb.errors import BadArguments, BadMessage, Unavailable

T = TypeVar("T")

THREADS = 4  # each holds a connection to the database


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

    async def job_event(
        self,
        *,
        namespace: str,
        job_id: str,
        body: bytes,
        headers: dict[str, str],
        requested_by: str,
        attempt: int | None = None,
        ending: str | None = None,
    ) -> outside.Heard:
        """What a worker outside says about its job (`job-event: progress | log | result | error | cancelled`).

        Args:
            attempt: of which it is said; None: as the header `job-attempt` says, else nobody knows.
            ending: why the speaker was asked to stop, if it was: `cancelled` or `timeout`.

        Raises:
            UnknownJob, Conflict, BadMessage: see `apps.jobs.outside.job_event`.
            Unavailable: the database is away.
        """
        job = _uuid(job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id!r}")
        content = _content(body, headers.get("content-type"))
        event = headers.get("job-event", "result")
        if attempt is None:
            attempt = _attempt(headers.get("job-attempt"))

        def call() -> outside.Heard:
            return outside.job_event(namespace, job, event, content, requested_by, attempt=attempt, ending=ending)

        return await self._in_thread(call)

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


def _attempt(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise BadMessage(f"job-attempt is the number that came with the job, not {text[:40]!r}")
    return int(text)


def _uuid(text: str | None) -> uuid.UUID | None:
    """Only the canonical form: a text that merely can be read as a UUID is not meant as one."""
    try:
        value = uuid.UUID(text or "")
    except ValueError:
        return None
    return value if str(value) == (text or "").lower() else None
