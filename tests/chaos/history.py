"""A history: what clients asked for and saw, and what was done to the servers, with the times of one clock.

The recorder writes an event down before it acts on it (a SEND before its bytes leave, a cut before the socket closes)
and after it has seen it (a RECEIPT, a MESSAGE). So a beginning is never too late and an outcome never too early, and
the checker may reason from them. All times are `time.monotonic()`, which the processes of one machine share.

An operation without an `Outcome` is unknown: it may have taken effect, may take effect yet, or never.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verb = Literal["ack", "nack", "nack-later"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at a time in seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class Opened(Event):
    """A connection is logged in.

    Attributes:
        server: the process at the other end, one life of it: `a.2` is gateway a, started for the third time.
    """

    connection: str
    server: str


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """A connection is over.

    Attributes:
        by: `client` (the time is before the act), `server` or `error` (the time is when the client saw it).
    """

    connection: str
    by: Literal["client", "server", "error"]


@dataclass(frozen=True, slots=True)
class Subscribing(Event):
    """A SUBSCRIBE is about to leave.

    Attributes:
        credit: its prefetch.
        patient: the queue lets wait what was refused, or what a consumer died over.
    """

    subscription: str
    connection: str
    queue: str
    credit: int
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribing(Event):
    """An UNSUBSCRIBE is about to leave: what the subscription holds is released."""

    subscription: str


@dataclass(frozen=True, slots=True)
class Sending(Event):
    """A SEND is about to leave.

    Attributes:
        op: its number among the operations of the history.
        message: what the body says, unique for ever: no message is sent twice.
        lane: within which the producer's order holds: the queue and the priority, or the queue and the group.
        number: the message's place in the lane.
        transaction: it takes effect with that one's commit.
    """

    op: int
    connection: str
    message: str
    producer: str
    queue: str
    lane: str
    number: int
    persistent: bool = True
    group: str | None = None
    transaction: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered(Event):
    """A MESSAGE was seen.

    Attributes:
        tag: of this delivery, unique in the history.
        subscription: which got it.
        message: what the body says; an unreadable body is shown as it is.
        queue: where the MESSAGE says that it comes from.
        count: its `delivery-count`; 1 where there is none.
        redelivered: its `redelivered`.
    """

    tag: int
    subscription: str
    message: str
    queue: str
    count: int = 1
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Settling(Event):
    """An ACK or NACK is about to leave.

    Attributes:
        verb: `nack-later` asks for a delay.
        tags: the deliveries that it covers.
        transaction: it takes effect with that one's commit.
        asked: whether a receipt was asked for.
    """

    op: int
    connection: str
    verb: Verb
    tags: tuple[int, ...]
    transaction: str | None = None
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Ending(Event):
    """A COMMIT or an ABORT is about to leave."""

    op: int
    connection: str
    transaction: str
    commit: bool


@dataclass(frozen=True, slots=True)
class Outcome(Event):
    """An operation's outcome was seen.

    Attributes:
        result: `done`: it took effect. `refused`: it did not, for certain. `open`: nobody will ever know.
    """

    op: int
    result: Literal["done", "refused", "open"]


@dataclass(frozen=True, slots=True)
class Fault(Event):
    """Something was done to a server; the time is before the act.

    Attributes:
        kind: see `FATAL` and `DISTURBING`.
        server: a process's life as in `Opened`, or `postgres`.
    """

    kind: str
    server: str


@dataclass(frozen=True, slots=True)
class SessionOver(Event):
    """Postgres' own note that a process's session ended: whatever the process held is ready for others since then.

    The time is shortly before the commit that did it.
    """

    server: str


@dataclass(frozen=True, slots=True)
class Remaining(Event):
    """Messages that the final drain did not get out of a queue, though nobody held them back."""

    queue: str
    messages: int
    state: str


#: Faults after which a process is no more.
FATAL = frozenset({"gateway-kill", "gateway-term", "worker-kill", "worker-term"})
#: Faults by which a process's transaction in Postgres may be aborted, with all that it had locked.
DISTURBING = FATAL | {"gateway-freeze", "worker-freeze", "backend-kill", "postgres-kill"}
#: From this one on until the other, non-persistent messages may go: what is left of a killed server works on until
#: the next one has started.
CRASH = "postgres-kill"
RECOVERED = "postgres-back"

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Opened,
        Closed,
        Subscribing,
        Unsubscribing,
        Sending,
        Delivered,
        Settling,
        Ending,
        Outcome,
        Fault,
        SessionOver,
        Remaining,
    )
}


class Recorder:
    """Writes a history down. Its events are in the order of their writing, which is that of their times."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._numbers = 0

    def number(self) -> int:
        """A fresh number for an operation or a delivery."""
        self._numbers += 1
        return self._numbers

    def write(self, kind: type[Event], **fields: Any) -> None:
        """An event, now."""
        self.events.append(kind(time.monotonic(), **fields))


def to_json(event: Event) -> str:
    """An event as a line of JSON."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)})


def from_json(line: str) -> Event:
    """The inverse of `to_json`."""
    fields = json.loads(line)
    kind = _KINDS[fields.pop("event")]
    if "tags" in fields:
        fields["tags"] = tuple(fields["tags"])
    return kind(**fields)


def save(events: Iterable[Event], path: Path) -> None:
    """A file of JSON lines, for `make chaos ARGS="--check FILE"`."""
    path.write_text("".join(f"{to_json(event)}\n" for event in events))


def load(path: Path) -> list[Event]:
    """The inverse of `save`."""
    return [from_json(line) for line in path.read_text().splitlines()]


def in_order(events: Iterable[Event]) -> list[Event]:
    """By time; what is recorded at the same instant stays in its order."""
    return sorted(events, key=lambda event: event.at)


def describe(events: Iterable[Event]) -> Iterator[str]:
    """Lines for people, with times from the first event on, in milliseconds."""
    zero: float | None = None
    for event in events:
        zero = event.at if zero is None else zero
        fields = dataclasses.asdict(event)
        del fields["at"]
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        yield f"{(event.at - zero) * 1000:10.2f} ms  {type(event).__name__:<13} {shown}"
