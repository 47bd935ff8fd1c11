"""What arrives: messages, replies, and news of a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from apps.messaging import content
from apps.messaging.errors import BadMessage

#: A `str` (text), bytes-like (bytes), or anything that JSON can write.
Body = Any

#: How a message answers: destination, body, headers, and whether it must be stored before the call returns.
Answer = Callable[[str, Body, Mapping[str, str], bool], None]


@dataclass(frozen=True)
class Message:
    """A message from a queue or a topic.

    Attributes:
        destination: where it was sent to, such as `/queue/mails`.
        headers: all of its headers, the sender's and the server's.
        data: the body's bytes as they came.
    """

    destination: str
    headers: Mapping[str, str]
    data: bytes = field(repr=False)
    answer: Answer = field(repr=False, compare=False)

    @cached_property
    def body(self) -> Body:
        """The body, by its content type: parsed JSON, text, or bytes.

        Raises:
            BadBody: the bytes are not what the content type says. They are still in `data`.
        """
        return content.decode(self.data, self.headers.get("content-type"))

    @property
    def id(self) -> str:
        """The server's id of the message, the same when it is delivered again."""
        return self.headers.get("message-id", "")

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return self.headers.get("redelivered") == "true"

    @property
    def correlation_id(self) -> str | None:
        """What the asker knows its request by."""
        return self.headers.get("correlation-id")

    @property
    def job_id(self) -> str | None:
        """The job that this message asks to work on, if it is one."""
        return self.headers.get("job-id")

    def reply(self, body: Body, headers: Mapping[str, str] | None = None) -> None:
        """Answer the asker; a job ends successfully with this body as its result.

        Raises:
            BadMessage: the message has no `reply-to`.
            OutcomeUnknown: see there.
        """
        self._answer("result", body, headers or {}, durable=True)

    def fail(self, text: str, code: str = "task_failed") -> None:
        """Answer that it cannot be done; a job ends as failed.

        Raises:
            BadMessage: the message has no `reply-to`.
            OutcomeUnknown: see there.
        """
        self._answer("error", {"code": code, "message": text}, {}, durable=True)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell how far the work is: `done` of `total` units of any kind. Best effort.

        Raises:
            BadMessage: the message has no `reply-to`.
        """
        self._answer("progress", {"done": done, "total": total, "text": text}, {}, durable=False)

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the job's log. Best effort; a plain request's asker does not see it.

        Raises:
            BadMessage: the message has no `reply-to`.
        """
        self._answer("log", {"level": level, "text": text}, {}, durable=False)

    def _answer(self, event: str, body: Body, headers: Mapping[str, str], durable: bool) -> None:
        reply_to = self.headers.get("reply-to")
        if not reply_to:
            raise BadMessage("the message has no reply-to: nobody waits for an answer")
        answer = {**headers, "job-event": event}
        if self.correlation_id is not None:
            answer["correlation-id"] = self.correlation_id
        if self.job_id is not None:
            answer["job-id"] = self.job_id
        self.answer(reply_to, body, answer, durable)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has taken a request for a task.

    Attributes:
        job_id: the job's id.
        status_url: the page on which a person can follow it, without logging in.
    """

    job_id: str
    status_url: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is: `done` of `total` units of whatever kind the worker counts."""

    done: int
    total: int
    text: str = ""

    @property
    def percent(self) -> int:
        """0 to 100; 0 while the total is not known."""
        return min(100, self.done * 100 // self.total) if self.total > 0 else 0

    def __str__(self) -> str:
        return f"{self.percent:3d}% {self.text}".rstrip()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Attributes:
        body: parsed JSON, text or bytes, by its content type.
        headers: the reply's headers.
        job_id: the request's correlation id, which is the job's id if a task was asked for.
        status_url: the job's page, if a task was asked for.
    """

    body: Body
    headers: Mapping[str, str]
    job_id: str
    status_url: str | None = None
