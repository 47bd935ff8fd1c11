"""A client's subscriptions: MESSAGE frames out, ids of unacked messages kept."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from apps.broker.engine import Address, Delivery, Engine, MessageId, Subscription
from apps.stomp.gateway.destinations import written
from apps.stomp.gateway.outside import MARK
from apps.stomp.gateway.ports import BrowsedMessage
from apps.stomp.protocol.encoder import MessageEncoder
from apps.stomp.protocol.events import AckMode

TOPICS_LIMIT = 1_000  # topics whose frames' heads a subscription to a pattern keeps


class Outlet(Protocol):
    """What a subscription needs of its connection.

    Attributes:
        held: unacked messages of the client modes, by id, in order of delivery.
        void: ids that were taken away from this process; the client does not know yet.
        clogged: the client does not read.
        delivered: MESSAGE frames so far.
    """

    version: str
    held: "dict[MessageId, ClientSubscription]"
    void: dict[MessageId, None]
    clogged: bool
    delivered: int

    def write_all(self, frames: list[bytes]) -> None:
        """Frames for the client."""

    def confirm_when_written(self, subscription: "ClientSubscription") -> None:
        """Call its `confirm` once what it wrote is no longer in this process's memory, roughly."""

    def take_jobs(
        self, subscription: "ClientSubscription", handle: Subscription, deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Begin those that are jobs; the others are returned. `hand_out_job` follows for each that has begun."""

    def jobs_lost(self, subscription: "ClientSubscription") -> None:
        """The session was fenced off."""

    def taken_away(self, subscription: "ClientSubscription") -> list[MessageId]:
        """The messages of this subscription are no longer held. Returns those of them that transactions would ack."""


class TopicFrames:
    """The frames of the topic message that is being fanned out, so that those who get the same bytes share them.

    A topic's message goes to all its subscribers in a row, as one and the same sequence.
    """

    __slots__ = ("_count", "_frames", "_id", "_prefix", "_source")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = 0
        self._id = b""
        self._source: Sequence[Delivery] | None = None
        self._frames: dict[tuple[str, str | None, bool], list[bytes]] = {}

    def of(
        self, deliveries: Sequence[Delivery], key: tuple[str, str | None, bool], encoder: MessageEncoder
    ) -> list[bytes]:
        """The frames for a subscriber whose frames depend on `key` and the deliveries alone."""
        if deliveries is not self._source:
            self._source = deliveries
            self._frames = {}
            self._id = f"{self._prefix}{self._count}".encode()
            self._count += len(deliveries)
        frames = self._frames.get(key)
        if frames is None:
            first = self._count - len(deliveries)
            frames = [
                encoder.encode(f"{self._prefix}{first + index}".encode(), delivery.headers, delivery.body)
                for index, delivery in enumerate(deliveries)
            ]
            self._frames[key] = frames
        return frames


class ClientSubscription:
    """One SUBSCRIBE, or the implied subscription of a reply queue. The engine's `Consumer`.

    Attributes:
        handle: the engine's side of it; set right after the engine made it.
        credit: how many unacked messages it may hold; set then too.
        prefetch: how many jobs it may have at once where it acknowledges nothing.
        id: by which the client names it.
        cumulative: an ACK covers what was delivered before (`ack:client`).
    """

    __slots__ = (
        "_ackable",
        "_address",
        "_encoder",
        "_encoders",
        "_engine",
        "_key",
        "_outlet",
        "_topic",
        "_unacked",
        "credit",
        "cumulative",
        "handle",
        "id",
        "prefetch",
    )

    credit: int
    handle: Subscription

    def __init__(
        self,
        outlet: Outlet,
        engine: Engine,
        topics: TopicFrames,
        address: Address,
        identifier: str,
        mode: AckMode,
        *,
        shown: bool = True,
        prefetch: int = 1,
    ) -> None:
        self.id = identifier
        self.prefetch = prefetch
        self.cumulative = mode == "client"
        self._ackable = mode != "auto"
        self._outlet = outlet
        self._engine = engine
        self._topic = topics if address.kind == "topic" else None
        self._key = (outlet.version, identifier if shown else None, self._ackable)
        self._address = address
        self._encoder = MessageEncoder(outlet.version, self._key[1], written(address), ackable=self._ackable)
        self._encoders: dict[Address, MessageEncoder] = {}  # of a pattern of topics: one for each topic
        self._unacked: dict[MessageId, None] = {}  # of `client`, in order; of `auto`, until written

    @property
    def auto(self) -> bool:
        """The gateway acks what it writes."""
        return not self._ackable

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Write MESSAGE frames."""
        outlet = self._outlet
        if self._topic is not None:
            if outlet.clogged:
                subscription.drop(deliveries)
                return
            outlet.delivered += len(deliveries)
            encoder = self._encoder
            if deliveries[0].address != self._address:
                encoder = self._encoder_for(deliveries[0].address)
            outlet.write_all(self._topic.of(deliveries, self._key, encoder))
            return
        for delivery in deliveries:
            if MARK in delivery.headers:
                deliveries = outlet.take_jobs(self, subscription, deliveries)
                break
        if deliveries:
            self.hand_out(deliveries)

    def hand_out(self, deliveries: Sequence[Delivery]) -> None:
        """Write a queue's messages."""
        outlet = self._outlet
        outlet.delivered += len(deliveries)
        encode = self._encoder.encode
        outlet.write_all([encode(b"%d" % d.id, d.headers, d.body, d.deliveries) for d in deliveries])
        ids = [delivery.id for delivery in deliveries]
        if self._ackable:
            outlet.held.update(dict.fromkeys(ids, self))
            if self.cumulative:
                self._unacked.update(dict.fromkeys(ids))
        else:
            if not self._unacked:
                outlet.confirm_when_written(self)
            self._unacked.update(dict.fromkeys(ids))

    def hand_out_job(self, delivery: Delivery, attempt: int) -> None:
        """Write a job's message, which is not acked for being written."""
        outlet = self._outlet
        outlet.delivered += 1
        headers = delivery.headers + b"job-attempt:%d\n" % attempt
        name = b"%d" % delivery.id
        outlet.write_all([self._encoder.encode(name, headers, delivery.body, delivery.deliveries)])
        if self._ackable:
            outlet.held[delivery.id] = self
            if self.cumulative:
                self._unacked[delivery.id] = None

    def show(self, messages: Iterable[BrowsedMessage]) -> None:
        """Write what a browser sees; nobody holds it."""
        encode = self._encoder.encode
        self._outlet.write_all([encode(b"%d" % one.id, one.headers, one.body, one.deliveries + 1) for one in messages])

    def show_end(self) -> None:
        """The browser has seen all."""
        self._outlet.write_all([self._encoder.encode(b"0", b"browser:end\n", b"")])

    def _encoder_for(self, address: Address) -> MessageEncoder:
        """For a topic that the pattern matches. A topic's message comes alone."""
        encoder = self._encoders.get(address)
        if encoder is None:
            if len(self._encoders) >= TOPICS_LIMIT:
                self._encoders.clear()
            encoder = MessageEncoder(self._outlet.version, self._key[1], written(address), ackable=self._ackable)
            self._encoders[address] = encoder
        return encoder

    def lost(self, subscription: Subscription) -> None:
        """The session was fenced off: the client's ids are void, and it need not know."""
        outlet = self._outlet
        gone = self._own()
        for message_id in gone:
            del outlet.held[message_id]
        self._unacked.clear()
        outlet.jobs_lost(self)
        outlet.void.update(dict.fromkeys(gone + outlet.taken_away(self)))

    def confirm(self) -> None:
        """The operating system has what was written: in `auto` mode that is as good as an ACK."""
        if self._unacked:
            ids = list(self._unacked)
            self._unacked.clear()
            self._engine.ack(self.handle, ids)

    def take(self, message_id: MessageId) -> list[MessageId]:
        """The ids that an ACK or NACK of this one covers; they are no longer held. It must be held."""
        held = self._outlet.held
        if not self.cumulative:
            del held[message_id]
            return [message_id]
        ids = []
        for one in self._unacked:
            ids.append(one)
            if one == message_id:
                break
        for one in ids:
            del self._unacked[one]
            del held[one]
        return ids

    def put_back(self, ids: list[MessageId]) -> None:
        """A transaction that took them was aborted. They were delivered before all that is unacked now."""
        held = self._outlet.held
        held.update(dict.fromkeys(ids, self))
        if self.cumulative:
            self._unacked = {**dict.fromkeys(ids), **self._unacked}

    def end(self) -> None:
        """The subscription is over; the engine releases what it held."""
        held = self._outlet.held
        for message_id in self._own():
            del held[message_id]
        self._unacked.clear()

    def _own(self) -> list[MessageId]:
        return [message_id for message_id, owner in self._outlet.held.items() if owner is self]
