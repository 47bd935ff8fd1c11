"""What a task gets to know of its job, and how it says how far it is.

The context reaches the outside through a `Transport`, so that the same task runs in a slot process, or inline in a
test (`apps.jobs.testing`).
"""

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.db import transaction

if TYPE_CHECKING:
    from apps.jobs.steps import Steps

R = TypeVar("R")

TEXT_LIMIT = 500  # characters of a progress text
LINE_LIMIT = 4000  # characters of a line of the log
LEVELS = ("debug", "info", "warning", "error")


class JobCancelled(BaseException):
    """Raised by `checkpoint` in a task whose job was cancelled.

    Not an `Exception`: a task's own `except Exception` must not swallow it.
    """


class JobTimeout(BaseException):
    """Raised by `checkpoint` in a task that took too long. No `Exception`, for the same reason."""

    code = "timeout"

    def __str__(self) -> str:
        return "it took too long"


class Transport(Protocol):
    """How a context reaches whoever records."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Pass progress on."""

    def log(self, level: str, text: str) -> None:
        """Pass one line of the log on."""

    @property
    def cancelled(self) -> bool | str | None:
        """Whether the job should stop; `timeout`: because it took too long."""


def clean(text: str, limit: int) -> str:
    """A text as it can be stored: without NUL and half surrogate pairs, cut to `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


class JobContext:
    """The job as its task sees it.

    `progress`, `log`, `step` and `checkpoint` are places where a task stops whose job was cancelled, or took too long.

    Attributes:
        job_id: the job's id.
        attempt: the number of this run, from 1; an interrupted run counts here, though not against `max_attempts`.
        namespace: where the job was asked for.
        failures: how often the job has failed before.
        worker: who runs it; another one each time that a worker starts.
    """

    __slots__ = (
        "_shielded",
        "_steps",
        "_stopped",
        "_transport",
        "attempt",
        "failures",
        "job_id",
        "namespace",
        "worker",
    )

    def __init__(
        self,
        job_id: uuid.UUID,
        attempt: int,
        namespace: str,
        transport: Transport,
        steps: "Steps | None" = None,
        failures: int = 0,
        worker: str = "",
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.namespace = namespace
        self.failures = failures
        self.worker = worker
        self._transport = transport
        self._steps = steps
        self._shielded = 0
        self._stopped = False

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Say that `done` of `total` is done. Cheap: what comes quicker than it can be shown is joined.

        Raises:
            ValueError: a negative number, or one over 2^63.
            JobCancelled, JobTimeout: as `checkpoint`, but once.
        """
        if not (0 <= done < 2**63 and 0 <= total < 2**63):
            raise ValueError(f"progress is told in numbers from 0, not {done} of {total}")
        self._transport.progress(int(done), int(total), clean(str(text), TEXT_LIMIT))
        self._stop_once()

    def log(self, text: object, level: str = "info") -> None:
        """Add to the job's log, a line for each line of the text.

        Raises:
            ValueError: the level is none of debug, info, warning, error.
            JobCancelled, JobTimeout: as `checkpoint`, but once.
        """
        if level not in LEVELS:
            raise ValueError(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
        for line in str(text).splitlines() or [""]:
            self._transport.log(level, clean(line, LINE_LIMIT))
        self._stop_once()

    def step(self, name: str, work: Callable[..., R], *args: Any, atomic: bool = False, **kwargs: Any) -> R:
        """Do a part of the job, unless an earlier attempt has done it; its result, by way of JSON, either way.

        What the step does may happen twice, if the process ends between its end and its being recorded; with `atomic`
        what it does in the database, and the record, happen together or not at all.

        Args:
            name: unique within the job.
            work: called with the arguments that follow.
            atomic: do it within a transaction.

        Raises:
            ValueError: the name is empty, or over 200 characters; the result is no JSON.
            Superseded: another attempt has the job.
            JobCancelled, JobTimeout: as `checkpoint`, but once, before the step begins.
        """
        if not name or len(name) > 200 or "\0" in name:
            raise ValueError(f"a step's name has 1 to 200 characters and no NUL, not {name[:210]!r}")
        self._stop_once()
        if self._steps is None:
            return work(*args, **kwargs)
        found = self._steps.find(name)
        if found is not None:
            self._transport.log("debug", f"step {name}: done by an earlier attempt")
            return found.result  # type: ignore[no-any-return]
        if not atomic:
            return self._steps.keep(name, work(*args, **kwargs))  # type: ignore[no-any-return]
        with transaction.atomic():
            return self._steps.keep(name, work(*args, **kwargs))  # type: ignore[no-any-return]

    async def astep(self, name: str, work: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
        """The same, in a task that is a coroutine function; `work` is one too. Never within a transaction.

        Raises:
            ValueError, Superseded: as `step`.
        """
        if not name or len(name) > 200 or "\0" in name:
            raise ValueError(f"a step's name has 1 to 200 characters and no NUL, not {name[:210]!r}")
        self._stop_once()
        if self._steps is None:
            return await work(*args, **kwargs)
        found = await sync_to_async(self._steps.find)(name)
        if found is not None:
            self._transport.log("debug", f"step {name}: done by an earlier attempt")
            return found.result  # type: ignore[no-any-return]
        return await sync_to_async(self._steps.keep)(name, await work(*args, **kwargs))  # type: ignore[no-any-return]

    def forget_steps(self) -> None:
        """Forget what earlier attempts did: this one begins anew."""
        if self._steps is not None:
            self._steps.forget()

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop, because somebody cancelled its job or it took too long.

        After a grace its process is ended.
        """
        return bool(self._transport.cancelled)

    def checkpoint(self) -> None:
        """A place where the task may stop.

        Raises:
            JobCancelled: somebody asked to cancel.
            JobTimeout: the attempt took too long.
        """
        if not self._shielded and (why := self._transport.cancelled):
            self._stopped = True
            raise JobTimeout if why == "timeout" else JobCancelled

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Within it nothing stops the task: what is done past the point of no return."""
        self._shielded += 1
        try:
            yield
        finally:
            self._shielded -= 1

    def _stop_once(self) -> None:
        # Only once: whoever clears up after a cancel must be able to say so.
        if not self._stopped:
            self.checkpoint()


_current: ContextVar[JobContext | None] = ContextVar("msgweb_job", default=None)


def current_job() -> JobContext:
    """The context of the job that this code runs for: for tasks that are not handed one.

    Raises:
        LookupError: it runs for none.
    """
    context = _current.get()
    if context is None:
        raise LookupError("this code runs for no job")
    return context


def enter(context: JobContext | None) -> None:
    """From now on `current_job` is this one, in this thread or asynchronous task; None: there is none."""
    _current.set(context)


@contextmanager
def at_work(context: JobContext) -> Iterator[None]:
    """Within it, `current_job` is this one."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
