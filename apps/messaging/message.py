"""What arrives: messages, replies, and news of a request."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from apps.messaging import content
from apps.messaging.errors import BadMessage, JobCancelled, MessagingError
from apps.messaging.joining import Joining

#: A `str` (text), bytes-like (bytes), or anything that JSON can write.
Body = Any

#: How a message answers: destination, body, headers, and whether it must be stored before the call returns.
Answer = Callable[[str, Body, Mapping[str, str], bool], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What the server told about a job that is at work here.

    Attributes:
        attempt: which attempt at the job it speaks of.
        over: the job is this worker's no more; else it is to stop, and still has some seconds for it.
        reason: cancelled, timeout, lost or ended.
    """

    attempt: str
    over: bool
    reason: str


def _nothing(job_id: str) -> Told | None:
    return None


@dataclass(slots=True)
class _Said:
    """What was said of a job. `ended`: what ends it; `raised`: JobCancelled was raised once; `progress`: on its way."""

    ended: bool = False
    raised: bool = False
    progress: Joining = field(default_factory=Joining)


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
    told: Callable[[str], Told | None] = field(default=_nothing, repr=False, compare=False)
    _said: _Said = field(default_factory=_Said, init=False, repr=False, compare=False)

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

    @property
    def is_job(self) -> bool:
        """Whether it is a job's: then the handler's end is the job's, and it may be cancelled."""
        return self.job_id is not None and self.headers.get("reply-to") == f"/job/{self.job_id}"

    @property
    def attempt(self) -> int | None:
        """Which attempt at the job this is, from 1."""
        number = self.headers.get("job-attempt")
        return None if number is None else int(number)

    @property
    def cancelled(self) -> str | None:
        """Why the job is to stop, or None: `cancelled`, `timeout`, `lost` (another worker has it) or `ended`.

        Some seconds after the first two the job is taken away. May be asked in any thread.
        """
        told = self._told()
        return told.reason if told is not None else None

    def checkpoint(self) -> None:
        """Stop here, if the job is to stop. `progress` and `log` do the same, once.

        Raises:
            JobCancelled: let it pass: it tells the server that the work has stopped.
        """
        reason = self.cancelled
        if reason is not None:
            self._said.raised = True
            raise JobCancelled(f"the job is to stop: {reason}", reason)

    def reply(self, body: Body, headers: Mapping[str, str] | None = None) -> None:
        """Answer the asker; a job ends successfully with this body as its result.

        Raises:
            BadMessage: the message has no `reply-to`.
            OutcomeUnknown: see there.
            JobCancelled: it comes too late, and was dropped: the job is not this worker's any more.
        """
        self._answer("result", body, headers or {}, durable=True)
        told = self._told()
        if told is not None and told.over:
            raise JobCancelled("the result came too late: the job is not this worker's any more", told.reason)

    def finish(self, error: Exception | None) -> bool:
        """The handler returned, or raised this; for `Messaging.run`. Whether the message is dealt with; else it goes
        back to the queue.

        Raises:
            OutcomeUnknown, ConnectionFailed, Refused: a job's end could not be told.
        """
        self._said.progress.flush()
        if not self.is_job:
            return error is None
        if self._said.ended:
            return True
        if error is None:
            self._answer("result", None, {}, durable=True)
        elif isinstance(error, JobCancelled):
            if error.code in ("cancelled", "timeout"):  # else there is nothing to end
                self._answer("cancelled", {"reason": error.code}, {}, durable=True)
        else:
            trace = "".join(traceback.format_exception(error))
            told = {"message": f"{type(error).__name__}: {error}", "traceback": trace}
            if isinstance(error, MessagingError):
                told["code"] = error.code
            self._answer("error", told, {}, durable=True)
        return True

    def fail(self, text: str, code: str = "task_failed") -> None:
        """Answer that it cannot be done; a job ends as failed.

        Raises:
            BadMessage: the message has no `reply-to`.
            OutcomeUnknown: see there.
        """
        self._answer("error", {"code": code, "message": text}, {}, durable=True)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell how far the work is: `done` of `total` units of any kind. Best effort.

        Cheap: of what comes quicker than 20 times a second the latest is told, a moment later, and before anything else
        that is said of the work.

        Raises:
            BadMessage: the message has no `reply-to`.
            JobCancelled: as `checkpoint`, once: whoever clears up may still speak.
        """
        self._checkpoint_once()
        self._reply_to()
        body = {"done": done, "total": total, "text": text}
        self._said.progress.tell(partial(self._answer, "progress", body, {}, durable=False))

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the job's log. Best effort; a plain request's asker does not see it.

        Raises:
            BadMessage: the message has no `reply-to`.
            JobCancelled: as `progress`.
        """
        self._checkpoint_once()
        self._answer("log", {"level": level, "text": text}, {}, durable=False)

    def _told(self) -> Told | None:
        if not self.is_job or self.job_id is None:
            return None
        told = self.told(self.job_id)
        return told if told is not None and told.attempt == self.headers.get("job-attempt") else None

    def _checkpoint_once(self) -> None:
        if not self._said.raised:
            self.checkpoint()

    def _reply_to(self) -> str:
        reply_to = self.headers.get("reply-to")
        if not reply_to:
            raise BadMessage("the message has no reply-to: nobody waits for an answer")
        return reply_to

    def _answer(self, event: str, body: Body, headers: Mapping[str, str], durable: bool) -> None:
        reply_to = self._reply_to()
        if event != "progress":
            self._said.progress.flush()
        answer = {**headers, "job-event": event}
        if self.correlation_id is not None:
            answer["correlation-id"] = self.correlation_id
        for name in ("job-id", "job-attempt"):
            if name in self.headers:
                answer[name] = self.headers[name]
        self.answer(reply_to, body, answer, durable)
        self._said.ended |= event in ("result", "error", "cancelled")


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
