"""What a broker engine is: the seam between those who carry messages and whatever keeps them.

The gateway, the workers and the event stream know a broker by this Protocol alone; `apps.broker.postgres` implements
it. The hot verbs (`send`, `ack`, `nack`, `release`, `transact`) return at once and report through a callback, so that
carrying a message costs no task: whatever is asked for while a transaction is in flight goes into the next one.
All of it belongs to one event loop and is not thread-safe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NewType, Protocol

from apps.broker.horizon import Horizon
from msgweb.errors import BadDestination, MsgwebError

MessageId = NewType("MessageId", int)
SessionId = NewType("SessionId", int)
Kind = Literal["queue", "topic"]

#: Called once when an operation took effect (None) or was refused (the reason). Never called before the verb returned.
Done = Callable[[MsgwebError | None], None]

NAME_LIMIT = 255  # characters of a queue's or topic's name
PRIORITIES = range(10)
DEFAULT_PRIORITY = 4
#: A queue of this name is a reply queue: `/reply-queue/x` on the wire. Nobody may name one as `/queue/...`.
REPLY_PREFIX = "$reply."


class Address(NamedTuple):
    """Where a message goes: a queue or topic of a namespace. A tuple: it is a dictionary key on the hot path."""

    namespace: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"/{self.kind}/{self.name}"


def parse_address(namespace: str, destination: str) -> Address:
    """`/queue/x`, `/topic/x` or a bare `x` (a queue) in a namespace.

    Raises:
        BadDestination: no name, a name over 255 characters or with control characters, one of the server's own names,
            or another prefix.
    """
    kind: Kind = "queue"
    name = destination
    if destination.startswith("/queue/"):
        name = destination[7:]
    elif destination.startswith("/topic/"):
        kind, name = "topic", destination[7:]
    elif destination.startswith("/"):
        raise BadDestination(f"{destination!r} is no destination: it begins neither with /queue/ nor with /topic/")
    if not name:
        raise BadDestination(f"{destination!r} is no destination: the name is missing")
    if len(name) > NAME_LIMIT:
        raise BadDestination(f"a destination's name has at most {NAME_LIMIT} characters, not {len(name)}")
    if name.startswith(REPLY_PREFIX):
        raise BadDestination(
            f"names that begin with {REPLY_PREFIX} are the server's own; a reply queue is /reply-queue/x"
        )
    if not name.isprintable():
        raise BadDestination("a destination's name may not hold control characters")
    return Address(namespace, kind, name)


@dataclass(frozen=True, slots=True)
class Repeat:
    """When a message is sent again.

    Attributes:
        cron: five fields; an alternative to `period`.
        timezone: of the cron expression, an IANA name.
        period: seconds between two runs.
        count: how many runs there are, the first included; None: without end.
    """

    cron: str | None = None
    timezone: str = "UTC"
    period: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What few messages ask for, beyond a place in a queue. Topics ignore all but `ttl`.

    Attributes:
        ttl: seconds from when it is available until it expires.
        delay: seconds until it is available.
        group: messages of one group are processed one at a time, in the order of their sends.
        deduplication: a second message with this key within the queue's window is dropped, and reported done.
        repeat: it is sent again and again; `delay` is then until the first run.
    """

    ttl: float | None = None
    delay: float = 0.0
    group: str | None = None
    deduplication: str | None = None
    repeat: Repeat | None = None


@dataclass(slots=True)
class Message:
    """A message on its way in.

    Attributes:
        headers: the sender's own headers, ready for the wire: `name:value\\n` each, escaped as STOMP 1.2 does, in the
            sender's order. Never `destination`, `receipt`, `transaction`, `content-length` or `message-id`.
        persistent: survives a crash of Postgres. Topics ignore it.
        priority: 0 to 9, higher first. Topics ignore it.
        options: None for most.
    """

    address: Address
    body: bytes
    headers: bytes = b""
    persistent: bool = False
    priority: int = DEFAULT_PRIORITY
    options: Options | None = None


@dataclass(slots=True)
class Delivery:
    """A message on its way out, held by a subscription until it is acked, nacked or released.

    Attributes:
        id: 0 for a topic's message, which nobody holds: it needs no ack.
        deliveries: how often it has been handed out, this time included; above 1 it counts as redelivered.
        group: its message group.
        place: where it stands in its queue, among those of its priority; 0: behind all that is known.
        expires: whether it has a time after which it must not be delivered.
    """

    id: MessageId
    address: Address
    headers: bytes
    body: bytes
    persistent: bool
    deliveries: int
    group: str | None = None
    priority: int = DEFAULT_PRIORITY
    expires: bool = False
    place: int = 0


class Consumer(Protocol):
    """Who receives: a STOMP connection, a worker, an event stream."""

    def deliver(self, subscription: "Subscription", deliveries: Sequence[Delivery]) -> None:
        """Take messages, in order. For a queue: never more than the subscription's credit left."""

    def lost(self, subscription: "Subscription") -> None:
        """The session was fenced off: what this queue subscription held is with others, and its ids are void.

        The subscription itself lives on under a new session.
        """


@dataclass(slots=True, eq=False, weakref_slot=True)
class Subscription:
    """A consumer's place at a destination. Made by `Engine.subscribe`; compared by identity.

    Attributes:
        credit: how many messages it may hold unacked (a queue's), or may have waiting in memory (a topic's: above
            that, messages are dropped and counted).
        held: the messages that it holds, by id, in order of delivery; True where the message is persistent.
        priority: of a queue's consumers, in whichever process, those of the highest get messages first, while they
            have credit. Those with a selector count so in their own process alone.
        selector: only messages that it matches are delivered.
        drops: topic messages that the consumer dropped because its own reader was slow, by topic: how many, and their
            bytes; the consumer says so by `drop`, and the engine takes them from here.
    """

    address: Address
    consumer: Consumer
    credit: int
    priority: int = 0
    selector: "Selector | None" = None
    held: dict[MessageId, bool] = field(default_factory=dict)
    drops: dict[Address, tuple[int, int]] = field(default_factory=dict)
    closed: bool = False

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Count messages that were delivered and go no further."""
        for delivery in deliveries:
            number, size = self.drops.get(delivery.address, (0, 0))
            self.drops[delivery.address] = number + 1, size + len(delivery.headers) + len(delivery.body)


class Selector(Protocol):
    """Which messages a consumer wants; `apps.broker.selectors` makes them."""

    def matches(self, headers: Mapping[str, str]) -> bool:
        """Whether a message with these headers is wanted."""


class Refusal(NamedTuple):
    """What a nack asks for.

    Attributes:
        delay: seconds until the messages come again; None: as the queue's back-off says.
        dead_letter: no further attempt; to the queue's dead letters at once.
    """

    delay: float | None = None
    dead_letter: bool = False


AGAIN = Refusal()


@dataclass(slots=True)
class Unit:
    """Sends, acks and nacks that take effect together or not at all."""

    sends: list[Message] = field(default_factory=list)
    acks: list[tuple[Subscription, list[MessageId]]] = field(default_factory=list)
    nacks: list[tuple[Subscription, list[MessageId], "Refusal"]] = field(default_factory=list)


#: What a companion asks with one claim: its parameters, binary, and who is called with the rows, before any of what was
#: claimed is delivered.
Asking = tuple[Sequence[bytes], Callable[[Sequence[Sequence[bytes | None]]], None]]


@dataclass(frozen=True, slots=True)
class Companion:
    """A part of the statement that claims: what it writes takes effect with the claim, for no round trip and no commit
    of its own. It must wait for no lock and raise no error, for the claim would wait or fail with it.

    Attributes:
        parts: of a WITH clause of the engine's database, the last of them named `along`: at most one row for each
            claimed message, if there is something to say of it, that message's id first. They read `taken` (id,
            deliveries, headers), the claimed messages; `%(session)s` is the session.
        names: of the parameters, as `%(name)s` in the text, in their order.
        ask: called before each claim that it can go along with, with the session; None: nothing is asked with this one.
            Of what is claimed some may be delivered later, or go back undelivered and be claimed, and told of, again.
            Nobody is called with the rows of a claim that failed, or whose answer was lost: it may have taken effect.
        without: called before each other claim (of a queue that holds messages of groups).
    """

    parts: str
    names: Sequence[str]
    ask: Callable[[SessionId], Asking | None]
    without: Callable[[], None] = lambda: None


class Engine(Protocol):
    """A broker.

    What it promises. A message whose send was reported done is delivered until it is acked, whatever dies
    (persistent), or while Postgres lives (non-persistent); unless its queue's settings say otherwise (expiry, dead
    letters, a bounded length that drops). One consumer holds it at a time. Messages of one producer and one priority
    are delivered in the order of their sends; a released message goes back to its own place. A repeat says so
    (`deliveries` > 1). A message may be delivered before it is reported done, never before a unit that it is part of
    took effect. Topics are best effort.
    """

    #: Names of optional features that this engine has; a test suite and the gateway ask here.
    capabilities: frozenset[str]

    @property
    def session(self) -> SessionId:
        """Under which this process holds messages; changes when it was fenced off."""

    @property
    def healthy(self) -> bool:
        """Whether the database answers."""

    @property
    def polling(self) -> bool:
        """Whether what other processes do is not heard as it happens, but found within seconds; their topic messages
        are missed then."""

    @property
    def horizon(self) -> Horizon:
        """Who holds up VACUUM, as of some seconds ago."""

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that senders should be paused."""

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once, when no longer congested (soon, if it is not congested now)."""

    def accompany(self, companion: Companion) -> None:
        """Run a statement along with each claim from now on. Before `start`; of an engine that is capable of
        `companions`."""

    def attend(self, channel: str, heard: Callable[[str | None], None]) -> None:
        """Hear what is notified on a channel of the database that is not the engine's own, on the connection that it
        listens on itself. Before `start`; of an engine that is capable of `channels`.

        Args:
            heard: called with each payload, or with None where what was notified meanwhile is not known.
        """

    async def start(self) -> None:
        """Connect, open a session, listen.

        Raises:
            Unavailable: the database does not answer.
        """

    async def close(self) -> None:
        """Finish what was asked for, release what is held, end the session."""

    def send(self, message: Message, done: Done | None = None, since: float = 0.0) -> None:
        """Send to a queue (done when it is durable as asked) or a topic (done when handed on, and when the queues that
        are bound to it have it).

        Args:
            since: when its sender came to this process, by `time.monotonic()`: what it sent by another process before,
                and was reported done, comes before this message. 0: it was always here.

        Raises:
            BadDestination: a pattern of topics.
        """

    def subscribe(
        self,
        address: Address,
        consumer: Consumer,
        credit: int,
        done: Done | None = None,
        *,
        priority: int = 0,
        selector: Selector | None = None,
        exclusive: bool = False,
    ) -> Subscription:
        """Receive from a queue or a topic (or a pattern of topics). Deliveries may begin before `done`, never before
        this returns.

        Args:
            exclusive: the queue has one consumer at a time from now on (its setting `exclusive`); others wait for
                their turn.
        """

    def unsubscribe(self, subscription: Subscription, done: Done | None = None, *, failed: bool = False) -> None:
        """Stop receiving and release what is held. Nothing is delivered after this returns.

        Args:
            failed: the consumer died: the first message that it holds counts as a failed delivery, as if it had been
                nacked.
        """

    def bind(self, topic: Address, queue: Address, done: Done | None = None) -> None:
        """From now on a queue (made if it is missing) gets what is sent to a topic or a pattern of topics: a durable
        subscription. Consuming from `Consumer.X.VirtualTopic.Y` binds that queue to the topic `VirtualTopic.Y`.

        Raises:
            BadDestination: a pattern that is none.
        """

    def end_durable(self, queue: Address, done: Done | None = None) -> None:
        """A durable subscription ends: its queue goes, with what waits in it."""

    def set_credit(self, subscription: Subscription, credit: int) -> None:
        """Allow more or fewer unacked messages; 0 pauses the subscription."""

    def ack(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The messages are dealt with. Ids that the subscription does not hold are reported as NotFound."""

    def nack(
        self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None, refusal: Refusal = AGAIN
    ) -> None:
        """The consumer refuses the messages: a failed delivery. Back to their place, to be delivered again, as the
        queue's settings or the refusal say."""

    def release(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The consumer gives messages back that it did nothing with: to their place, for whoever has credit. No failed
        delivery."""

    def transact(self, unit: Unit, done: Done | None = None) -> None:
        """Take effect together or not at all. The unit belongs to the engine from now on."""

    def open_reply_queue(self, namespace: str, name: str, done: Done | None = None) -> Address:
        """A queue for replies that ends with this session or with `close_reply_queue`; sends to an ended one are
        dropped."""

    def close_reply_queue(self, address: Address) -> None:
        """End a reply queue and what waits in it."""
