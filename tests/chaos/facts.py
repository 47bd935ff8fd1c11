"""What a history says of each message, delivery and transaction, with bounds for what nobody could see.

A client sees a MESSAGE some time after it was handed out, and a broken connection some time after it broke. So for each
delivery there are two bounds: `low`, before which it cannot have been handed out, and `until`, up to which its consumer
held it for certain. Rules that compare deliveries use them, and never claim more than was seen.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.history import (
    CRASH,
    DISTURBING,
    FATAL,
    RECOVERED,
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
    in_order,
)

#: After a consumer ended nothing is taken for it any more, but what was may be on its way for a moment.
NEIGHBOUR_SECONDS = 2.0

#: done: it took effect. never: it did not and will not. unknown: either.
Fate = Literal["done", "never", "unknown"]


@dataclass(slots=True, eq=False)
class Connection:
    """A connection.

    Attributes:
        end: not before this did it end.
    """

    name: str
    server: str
    opened: float
    end: float = math.inf


@dataclass(slots=True, eq=False)
class Place:
    """A subscription."""

    event: Subscribing
    connection: Connection
    deliveries: "list[Delivery]" = field(default_factory=list)
    end: float = math.inf


@dataclass(slots=True, eq=False)
class Transaction:
    """A transaction of a client.

    Attributes:
        at: when its COMMIT left; None: it never did.
        seen: when its outcome was.
    """

    name: str
    fate: Fate = "never"
    at: float | None = None
    rank: int = -1
    seen: float | None = None
    seen_rank: int = -1
    sends: "list[Send]" = field(default_factory=list)
    settlements: "list[Settlement]" = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Send:
    """A message, as its sender knows it.

    Attributes:
        at: from when on it could take effect.
        seen: when the sender knew that it had.
        rank: of what makes it take effect, in the order of the history.
    """

    event: Sending
    fate: Fate
    at: float
    rank: tuple[int, int]
    seen: float | None = None
    transaction: Transaction | None = None
    deliveries: "list[Delivery]" = field(default_factory=list)

    @property
    def name(self) -> str:
        """The message's name."""
        return self.event.message

    @property
    def existed(self) -> bool:
        """Whether the broker had it for certain."""
        return self.fate == "done" or bool(self.deliveries)


@dataclass(slots=True, eq=False)
class Settlement:
    """An ACK or NACK that may have taken effect.

    Attributes:
        at: from when on it could.
        seen: when the client knew that it had.
    """

    verb: Verb
    fate: Fate
    at: float
    seen: float | None
    seen_rank: int
    transaction: Transaction | None
    deliveries: "list[Delivery]" = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Delivery:
    """A message, as a consumer saw it.

    Attributes:
        rank: its place in the history.
        place: its subscription, and `order` its number there.
        low: it was not handed out before.
        until: the consumer held it from `event.at` to then, for certain; before `event.at`: nothing is certain.
        settlement: what the consumer said of it, unless that did not take effect for certain.
        tried: it said something, whether that took effect or not.
    """

    event: Delivered
    rank: int
    place: Place
    order: int
    low: float
    until: float = math.inf
    settlement: Settlement | None = None
    tried: bool = False

    @property
    def at(self) -> float:
        """When it was seen."""
        return self.event.at

    def surely_after(self, other: "Delivery") -> bool:
        """Whether this was handed out after the other, for certain."""
        if self.place is other.place:
            return self.order > other.order
        return self.low > other.at

    @property
    def held(self) -> bool:
        """Whether there was a time when the consumer held it for certain."""
        return self.until > self.at


class Facts:
    """An index over a history.

    Attributes:
        sends: by message.
        deliveries: all, in the order in which they were seen.
        unsent: deliveries of what nobody sent.
        unpaid: deliveries beyond the subscription's credit.
        crashes: when Postgres was crashing: from a kill on until it was back.
        overs: when sessions ended, by server.
        disturbances: when which server's transactions may have been aborted.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = in_order(events)
        self.sends: dict[str, Send] = {}
        self.deliveries: list[Delivery] = []
        self.unsent: list[Delivery] = []
        self.unpaid: list[Delivered] = []
        self.transactions: dict[str, Transaction] = {}
        self.connections: dict[str, Connection] = {}
        self.places: dict[str, Place] = {}
        self._places_of: dict[tuple[str, str], list[Place]] = defaultdict(list)
        self.remaining: list[Remaining] = []
        self.overs: dict[str, list[float]] = defaultdict(list)
        self.crashes: list[tuple[float, float]] = []
        self.disturbances: list[tuple[float, str]] = []
        self._ops: dict[int, tuple[Event, int]] = {}
        self._outcomes: dict[int, tuple[Outcome, int]] = {}
        self._first_pass()
        self._transact()
        self._send()
        by_tag = self._deliver()
        self._settle(by_tag)
        self._follow()
        self._end(by_tag)

    # -- questions

    def crashed(self, after: float, before: float = math.inf) -> bool:
        """Whether Postgres was crashing at a time within these."""
        return any(after <= back and begun <= before for begun, back in self.crashes)

    def over(self, server: str, after: float, before: float = math.inf) -> bool:
        """Whether a session of that process ended then."""
        return any(after <= at <= before for at in self.overs.get(server, ()))

    def claimed_after(self, delivery: Delivery, at: float, server: str) -> bool:
        """Whether a message was taken from its queue after that time, for certain, which is one of a process.

        Within a process taking and handing out are one. But what another process took for one of its consumers it may
        give to the next one, whose credit or whose subscription is younger than that: there `low` says enough only
        where the consumer had no neighbour.
        """
        if delivery.low <= at:
            return False
        return delivery.place.connection.server == server or self._alone(delivery, at)

    def _alone(self, delivery: Delivery, at: float) -> bool:
        place = delivery.place
        key = (place.connection.server, place.event.queue)
        return not any(
            other is not place
            and other.event.at <= delivery.at
            and min(other.end, other.connection.end) >= at - NEIGHBOUR_SECONDS
            for other in self._places_of[key]
        )

    def disturbed(self, other_than: str, queue: str, after: float, before: float) -> bool:
        """Whether a claim on that queue by another process may have been aborted then."""
        consuming = {place.connection.server for place in self.places.values() if place.event.queue == queue}
        consuming.discard(other_than)
        return any(
            after <= at <= before and (server == "postgres" or server in consuming) and consuming
            for at, server in self.disturbances
        )

    # -- inside

    def _first_pass(self) -> None:
        fatal: dict[str, float] = {}
        closed: dict[str, Closed] = {}
        for rank, event in enumerate(self.events):
            match event:
                case Opened():
                    self.connections[event.connection] = Connection(event.connection, event.server, event.at)
                case Closed():
                    closed.setdefault(event.connection, event)
                case Subscribing():
                    place = Place(event, self.connections[event.connection])
                    self.places[event.subscription] = place
                    self._places_of[place.connection.server, event.queue].append(place)
                case Unsubscribing():
                    self.places[event.subscription].end = event.at
                case Sending() | Settling() | Ending():
                    self._ops[event.op] = (event, rank)
                case Outcome():
                    self._outcomes[event.op] = (event, rank)
                case Fault():
                    if event.kind in FATAL:
                        fatal.setdefault(event.server, event.at)
                    if event.kind in DISTURBING:
                        self.disturbances.append((event.at, event.server))
                    if event.kind == CRASH:
                        self.crashes.append((event.at, math.inf))
                    elif event.kind == RECOVERED and self.crashes:
                        self.crashes[-1] = (self.crashes[-1][0], event.at)
                case SessionOver():
                    self.overs[event.server].append(event.at)
                case Remaining():
                    self.remaining.append(event)
        doubtful = self._doubtful()
        for connection in self.connections.values():
            end = closed.get(connection.name)
            bounds = [fatal.get(connection.server, math.inf)]
            if end is not None:
                bounds.append(end.at)
                if end.by != "client":  # the server ended it: over an operation that it has not confirmed
                    bounds.append(doubtful.get(connection.name, math.inf))
            connection.end = min(bounds)

    def _doubtful(self) -> dict[str, float]:
        """For each connection, when the first operation left that came after the last confirmed one."""
        confirmed: dict[str, int] = {}
        for op in self._outcomes:
            if op in self._ops:
                event, rank = self._ops[op]
                name = event.connection  # type: ignore[attr-defined]
                confirmed[name] = max(confirmed.get(name, -1), rank)
        first: dict[str, float] = {}
        for event, rank in self._ops.values():
            name = event.connection  # type: ignore[attr-defined]
            if rank > confirmed.get(name, -1):
                first[name] = min(first.get(name, math.inf), event.at)
        return first

    def _fate(self, op: int) -> tuple[Fate, float | None, int]:
        found = self._outcomes.get(op)
        if found is None:
            return "unknown", None, -1
        outcome, rank = found
        if outcome.result == "open":
            return "unknown", None, -1
        return ("done" if outcome.result == "done" else "never"), outcome.at, rank

    def _transact(self) -> None:
        for event, rank in self._ops.values():
            name = event.transaction  # type: ignore[attr-defined]
            if name is None:
                continue
            transaction = self.transactions.setdefault(name, Transaction(name))
            if isinstance(event, Ending) and event.commit:
                transaction.at, transaction.rank = event.at, rank
                transaction.fate, transaction.seen, transaction.seen_rank = self._fate(event.op)

    def _send(self) -> None:
        for event, rank in self._ops.values():
            if not isinstance(event, Sending):
                continue
            if event.transaction is None:
                fate, seen, _ = self._fate(event.op)
                send = Send(event, fate, event.at, (rank, 0), seen)
            else:
                one = self.transactions[event.transaction]
                at = one.at if one.at is not None else event.at
                send = Send(event, one.fate, at, (one.rank, rank), one.seen, one)
                one.sends.append(send)
            self.sends[event.message] = send

    def _deliver(self) -> dict[int, Delivery]:
        by_tag: dict[int, Delivery] = {}
        confirmed: dict[str, float] = {}  # by connection: when the youngest of its confirmed operations left
        freed = self._freed()
        for rank, event in enumerate(self.events):
            if isinstance(event, Outcome) and event.op in self._ops:
                op = self._ops[event.op][0]
                name = op.connection  # type: ignore[attr-defined]
                confirmed[name] = max(confirmed.get(name, 0.0), op.at)
            if not isinstance(event, Delivered):
                continue
            place = self.places[event.subscription]
            connection = place.connection
            order = len(place.deliveries)
            low = max(place.event.at, confirmed.get(connection.name, 0.0))
            spent = order - place.event.credit  # more than so many must have been given back before
            times = freed.get(event.subscription, [])
            if spent >= 0 and not self.over(connection.server, place.event.at, event.at):
                if spent < len(times) and times[spent] <= event.at:
                    low = max(low, times[spent])
                else:
                    self.unpaid.append(event)
            delivery = Delivery(event, rank, place, order, min(low, event.at))
            place.deliveries.append(delivery)
            by_tag[event.tag] = delivery
            self.deliveries.append(delivery)
            send = self.sends.get(event.message)
            if send is None:
                self.unsent.append(delivery)
            else:
                send.deliveries.append(delivery)
        return by_tag

    def _freed(self) -> dict[str, list[float]]:
        """For each subscription, when credit could come back: once for each message that was settled."""
        where = {event.tag: event.subscription for event in self.events if isinstance(event, Delivered)}
        freed: dict[str, list[float]] = defaultdict(list)
        for event, _ in self._ops.values():
            if isinstance(event, Settling):
                at: float | None = event.at
                if event.transaction is not None:
                    at = self.transactions[event.transaction].at
                if at is not None:
                    for tag in event.tags:
                        freed[where[tag]].append(at)
        for times in freed.values():
            times.sort()
        return freed

    def _settle(self, by_tag: dict[int, Delivery]) -> None:
        for event, _ in self._ops.values():
            if not isinstance(event, Settling):
                continue
            deliveries = [by_tag[tag] for tag in event.tags]
            transaction = None
            if event.transaction is not None:
                transaction = self.transactions[event.transaction]
                if transaction.at is None:
                    continue  # never committed: as if nothing had been said
                fate, seen, seen_rank, at = transaction.fate, transaction.seen, transaction.seen_rank, transaction.at
            else:
                fate, seen, seen_rank = self._fate(event.op)
                at = event.at
            for delivery in deliveries:
                delivery.until = min(delivery.until, at)
                delivery.tried = True
            settlement = Settlement(event.verb, fate, at, seen, seen_rank, transaction, deliveries)
            if transaction is not None:
                transaction.settlements.append(settlement)
            if fate != "never":
                for delivery in deliveries:
                    delivery.settlement = settlement

    def _follow(self) -> None:
        """An ACK names a message, not a delivery. When a session ended and the next one brought the message to the same
        subscription while the ACK for its earlier delivery was on its way, that ACK speaks of the later one."""
        for send in self.sends.values():
            for later in send.deliveries:
                if later.tried:
                    continue
                for earlier in send.deliveries:
                    spoken = earlier.settlement
                    if (
                        earlier.place is later.place
                        and earlier.event.count < later.event.count
                        and spoken is not None
                        and (spoken.seen is None or later.rank < spoken.seen_rank)
                        and self.over(later.place.connection.server, earlier.low, later.at)
                    ):
                        later.settlement = spoken
                        later.until = min(later.until, spoken.at)
                        later.tried = True
                        spoken.deliveries = [later if one is earlier else one for one in spoken.deliveries]

    def _end(self, by_tag: dict[int, Delivery]) -> None:
        for delivery in by_tag.values():
            place = delivery.place
            over = min(
                (at for at in self.overs.get(place.connection.server, ()) if at > delivery.low), default=math.inf
            )
            delivery.until = min(delivery.until, place.end, place.connection.end, over)
