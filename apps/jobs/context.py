"""What a task gets to know of its job, and how it says how far it is.

The context reaches the outside through a `Transport`, so that the same task runs in a slot process, or inline in a
test (`apps.jobs.testing`).
"""

import uuid
from typing import Protocol

TEXT_LIMIT = 500  # characters of a progress text
LINE_LIMIT = 4000  # characters of a line of the log
LEVELS = ("debug", "info", "warning", "error")


class JobCancelled(BaseException):
    """Raised by `checkpoint` in a task whose job was cancelled.

    Not an `Exception`: a task's own `except Exception` must not swallow it.
    """


class Transport(Protocol):
    """How a context reaches whoever records."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Pass progress on."""

    def log(self, level: str, text: str) -> None:
        """Pass one line of the log on."""

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel."""


def clean(text: str, limit: int) -> str:
    """A text as it can be stored: without NUL and half surrogate pairs, cut to `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


class JobContext:
    """The job as its task sees it.

    Attributes:
        job_id: the job's id.
        attempt: the number of this run, from 1; an interrupted run counts here, though not against `max_attempts`.
        namespace: where the job was asked for.
    """

    __slots__ = ("_transport", "attempt", "job_id", "namespace")

    def __init__(self, job_id: uuid.UUID, attempt: int, namespace: str, transport: Transport) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.namespace = namespace
        self._transport = transport

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Say that `done` of `total` is done. Cheap: what comes quicker than it can be shown is joined.

        Raises:
            ValueError: a negative number, or one over 2^63.
        """
        if not (0 <= done < 2**63 and 0 <= total < 2**63):
            raise ValueError(f"progress is told in numbers from 0, not {done} of {total}")
        self._transport.progress(int(done), int(total), clean(str(text), TEXT_LIMIT))

    def log(self, text: object, level: str = "info") -> None:
        """Add to the job's log, a line for each line of the text.

        Raises:
            ValueError: the level is none of debug, info, warning, error.
        """
        if level not in LEVELS:
            raise ValueError(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
        for line in str(text).splitlines() or [""]:
            self._transport.log(level, clean(line, LINE_LIMIT))

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel. The task should stop soon: after a grace its process is ended."""
        return self._transport.cancelled

    def checkpoint(self) -> None:
        """A place where the task may stop.

        Raises:
            JobCancelled: somebody asked to cancel.
        """
        if self._transport.cancelled:
            raise JobCancelled
