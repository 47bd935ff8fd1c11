"""Histories made by hand, for the tests of the checker: short verbs that write the events, a millisecond apart."""

from typing import Literal

from tests.chaos.checker import check
from tests.chaos.history import (
    Closed,
    Delivered,
    Ending,
    Event,
    Fault,
    Opened,
    Outcome,
    Remaining,
    Sending,
    SessionOver,
    Settling,
    Subscribing,
    Unsubscribing,
    Verb,
)

Answer = Literal["done", "refused"] | None  # None: unknown for ever


class Story:
    """Two servers `a` and `b`; a producer `p` connected to `a`, consumers `c` (at `a`) and `d` (at `b`) of queue `q`.

    Every verb takes a millisecond. A message is named by its number alone, or as told; all are in lane `q/4` unless a
    group is given.

    Args:
        credit: of both consumers.
    """

    def __init__(self, credit: int = 100) -> None:
        self.events: list[Event] = []
        self.now = 0.0
        self._ops = 0
        self._tags: dict[tuple[str, str, int], int] = {}
        self._connections: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self.open("p", "a")
        self.open("c", "a", "q", credit)
        self.open("d", "b", "q", credit)

    def _tick(self) -> float:
        self.now = round(self.now + 0.001, 6)
        return self.now

    def _op(self) -> int:
        self._ops += 1
        return self._ops

    def open(self, connection: str, server: str, queue: str | None = None, credit: int = 100) -> None:
        """A connection, with a subscription of the same name if a queue is given."""
        self.events.append(Opened(self._tick(), connection, server))
        if queue is not None:
            self.events.append(Subscribing(self._tick(), connection, connection, queue, credit))

    def close(self, connection: str, by: Literal["client", "server", "error"] = "client") -> None:
        """The connection ends."""
        self.events.append(Closed(self._tick(), connection, by))

    def unsubscribe(self, subscription: str) -> None:
        """UNSUBSCRIBE."""
        self.events.append(Unsubscribing(self._tick(), subscription))

    def send(
        self,
        *numbers: int,
        answer: Answer = "done",
        by: str = "p",
        producer: str = "p",
        queue: str = "q",
        persistent: bool = True,
        group: str | None = None,
        transaction: str | None = None,
    ) -> None:
        """Messages, each with its outcome at once; in a transaction without one."""
        for number in numbers:
            op = self._op()
            lane = f"{queue}/4" if group is None else f"{queue}/{group}"
            name = str(number) if producer == "p" else f"{producer}{number}"
            sending = Sending(self._tick(), op, by, name, producer, queue, lane, number, persistent, group, transaction)
            self.events.append(sending)
            if transaction is None:
                self._answer(op, answer)

    def deliver(
        self,
        message: int | str,
        to: str = "c",
        count: int | None = None,
        *,
        redelivered: bool | None = None,
        queue: str = "q",
    ) -> None:
        """A message is delivered; the count is the next one, unless told."""
        name = str(message)
        self._counts[name] = count or self._counts.get(name, 0) + 1
        count = self._counts[name]
        tag = self._tags[name, to, count] = self._op()
        marked = count > 1 if redelivered is None else redelivered
        self.events.append(Delivered(self._tick(), tag, to, name, queue, count, marked))

    def settle(
        self,
        verb: Verb,
        *messages: int | str,
        by: str = "c",
        count: int | None = None,
        answer: Answer = "done",
        transaction: str | None = None,
    ) -> None:
        """ACK or NACK of what was delivered last, with its outcome at once; in a transaction without one."""
        op = self._op()
        tags = tuple(self._tags[str(message), by, count or self._counts[str(message)]] for message in messages)
        self.events.append(Settling(self._tick(), op, by, verb, tags, transaction))
        if transaction is None:
            self._answer(op, answer)

    def ack(self, *messages: int | str, by: str = "c", count: int | None = None, answer: Answer = "done") -> None:
        """ACK."""
        self.settle("ack", *messages, by=by, count=count, answer=answer)

    def consume(self, *messages: int | str, to: str = "c") -> None:
        """Deliver and ack, one after the other."""
        for message in messages:
            self.deliver(message, to)
            self.ack(message, by=to)

    def end(self, transaction: str, *, by: str = "c", commit: bool = True, answer: Answer = "done") -> None:
        """COMMIT or ABORT."""
        op = self._op()
        self.events.append(Ending(self._tick(), op, by, transaction, commit))
        self._answer(op, answer)

    def fault(self, kind: str, server: str) -> None:
        """Something is done to a server."""
        self.events.append(Fault(self._tick(), kind, server))

    def session_over(self, server: str) -> None:
        """Postgres notes the end of a session."""
        self.events.append(SessionOver(self._tick(), server))

    def remain(self, messages: int) -> None:
        """The drain leaves messages behind."""
        self.events.append(Remaining(self._tick(), "q", messages, "ready"))

    def _answer(self, op: int, answer: Answer) -> None:
        if answer is not None:
            self.events.append(Outcome(self._tick(), op, answer))


def broken(story: Story) -> set[str]:
    """The rules that a story breaks."""
    return {violation.rule for violation in check(story.events)}
