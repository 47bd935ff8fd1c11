"""What a word of a worker outside means: its `job-event` and its body."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from apps.jobs.context import LEVELS, LINE_LIMIT, TEXT_LIMIT, clean
from apps.jobs.registry import to_json
from msgweb.errors import BadMessage

EVENTS = ("progress", "log", "result", "error", "cancelled")

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # those of str.splitlines
_LINE = re.compile(f"([^{_LINE_ENDS}]*)(?:\r\n|[{_LINE_ENDS}]|$)")


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the work is."""

    done: int
    total: int
    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A text for the log. It may be as long as a frame, and all line ends: what is not kept is counted, not split."""

    level: str
    text: str

    def __len__(self) -> int:
        """How many lines it has, as `str.splitlines` has them."""
        text = self.text
        if not text:
            return 0
        ends = sum(map(text.count, _LINE_ENDS)) - text.count("\r\n")
        return ends + (text[-1] not in _LINE_ENDS)

    def first(self, count: int) -> Iterator[str]:
        """The first of them, as they can be kept; `count` is at most how many there are."""
        for found in islice(_LINE.finditer(self.text), count):
            yield clean(self.text[found.start(1) : min(found.end(1), found.start(1) + LINE_LIMIT + 1)], LINE_LIMIT)


@dataclass(frozen=True, slots=True)
class Ending:
    """The worker's own end of its attempt.

    Attributes:
        outcome: succeeded, failed or cancelled.
        result: JSON that can be kept, when it succeeded.
        again: a failure may be followed by another attempt.
    """

    outcome: str
    result: str | None = None
    error: dict[str, str] | None = None
    again: bool = True


Meaning = Mark | Lines | Ending


def meaning_of(event: str, body: Any) -> Meaning:
    """What a word means.

    Args:
        event: progress, log, result, error, or cancelled (it stopped, as it was asked to).
        body: progress: {"done", "total", "text"?}; log: a text or {"text", "level"?}; result: any JSON value;
            error: a text or {"message", "code"?, "again"?}: if the job has attempts left it is tried again, with a new
            message, unless `again` is false; cancelled: anything.

    Raises:
        BadMessage: an event or a body that means nothing.
    """
    match event:
        case "progress":
            return _mark(body)
        case "log":
            return _lines(body)
        case "result":
            try:
                return Ending("succeeded", result=to_json(body))
            except ValueError as error:
                raise BadMessage(f"the result cannot be kept: {error}") from error
        case "error":
            again = not isinstance(body, Mapping) or body.get("again") is not False
            return Ending("failed", error=_error(body), again=again)
        case "cancelled":
            return Ending("cancelled")
    raise BadMessage(f"job-event is one of {', '.join(EVENTS)}, not {event[:40]!r}")


def _mark(body: Any) -> Mark:
    if not isinstance(body, Mapping):
        raise BadMessage("the body of job-event progress is a JSON object")
    text = clean(str(body.get("text") or ""), TEXT_LIMIT)
    return Mark(_amount(body.get("done")), _amount(body.get("total")), text)


def _amount(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
        raise BadMessage("progress is told by whole numbers from 0, done and total")
    return number


def _lines(body: Any) -> Lines:
    told = body if isinstance(body, Mapping) else {"text": body}
    level = told.get("level") or "info"
    if level not in LEVELS:
        raise BadMessage(f"a level is one of {', '.join(LEVELS)}, not {level!r}")
    return Lines(level, str(told.get("text", "")))


def _error(body: Any) -> dict[str, str]:
    told = body if isinstance(body, Mapping) else {"message": body}
    return {
        "code": clean(str(told.get("code") or "task_failed"), 100),
        "message": clean(str(told.get("message") or "the work failed"), 2000),
        "traceback": clean(str(told.get("traceback") or ""), 20_000),
    }
