"""What the verbs ask for: each call is one operation, which takes effect as a whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apps.broker.engine import Done, Message, MessageId
from apps.broker.postgres.queues import Queue

TRANSIENT, PERSISTENT, SPECIAL = range(3)  # how an ack deletes: SPECIAL are groups, and queues that keep what was acked
UNNUMBERED = MessageId(0)


@dataclass(slots=True, eq=False)
class Operation:
    """What one call of a verb asked for; it takes effect as a whole.

    Attributes:
        handed: the id that the one message of `sends` has already, since it was to be handed over to a local consumer;
            0: it gets one when it is written.
        holder: the session under which it was handed over; 0: it was not, for want of credit. Another session's is held
            no longer.
        acks: held messages to delete, with TRANSIENT, PERSISTENT or SPECIAL.
        releases: held messages to make ready again.
        recalls: the same for messages that no consumer has seen.
        rejects: held messages whose delivery failed: id, seconds until they come again (negative: as the queue says),
            whether they go to the dead letters at once.
        session: which holds the acks, releases, recalls and rejects; without those 0.
        closes: ids of reply queues to end.
        leaves: ids of exclusive queues that this session consumes no longer.
        shares: queues that this session consumes alone no longer.
        ranks: queues at which the priorities of this session's consumers have changed, or the others' are in doubt.
        parts: ids of queues that this session consumes no longer.
        exclusives: queues that have one consumer at a time from now on.
        binds: queues that get what is sent to topics from now on: namespace, pattern, queue's name.
        ends: queues of durable subscriptions that end: namespace, name.
        renew: makes `sends` anew from what the catalogue says now: they hold what topics send to queues.
        since: when who sends it came to this process, by `time.monotonic()`; 0: nothing is to be said of that.
        size: bytes of memory, about.
        unit: a transaction, whose topic messages wait for the commit.
        passed: how often it was left for the next batch.
        plain: it sends one message to a queue and does nothing else, as most do.
        unhanded: the queues of `sends` that were told that something is on its way to them (`Queue.unwritten`).
    """

    sends: Sequence[Message] = ()
    handed: MessageId = UNNUMBERED
    holder: int = 0
    acks: Sequence[tuple[MessageId, int]] = ()
    releases: Sequence[MessageId] = ()
    recalls: Sequence[MessageId] = ()
    rejects: Sequence[tuple[MessageId, float, bool]] = ()
    session: int = 0
    closes: Sequence[int] = ()
    leaves: Sequence[int] = ()
    shares: Sequence[Queue] = ()
    ranks: Sequence[Queue] = ()
    parts: Sequence[int] = ()
    exclusives: Sequence[Queue] = ()
    binds: Sequence[tuple[str, str, str]] = ()
    ends: Sequence[tuple[str, str]] = ()
    renew: Callable[[], Sequence[Message]] | None = None
    done: Done | None = None
    since: float = 0.0
    size: int = 0
    unit: bool = False
    passed: int = 0
    plain: bool = False
    unhanded: Sequence[Queue] = ()

    def arrive(self) -> None:
        """What it sends is no longer on its way."""
        for queue in self.unhanded:
            queue.unwritten -= 1
        self.unhanded = ()

    def named(self) -> list[MessageId]:
        """The held messages that it speaks of."""
        return [
            *(message_id for message_id, _ in self.acks),
            *self.releases,
            *self.recalls,
            *(message_id for message_id, _, _ in self.rejects),
        ]

    @property
    def patient(self) -> bool:
        """Whether nobody waits for it: plain acks without a receipt."""
        return self.done is None and not (
            self.sends
            or self.releases
            or self.recalls
            or self.rejects
            or self.closes
            or self.leaves
            or self.shares
            or self.ranks
            or self.exclusives
            or self.binds
            or self.ends
            or any(kind == SPECIAL for _, kind in self.acks)
        )

    @property
    def simple(self) -> bool:
        """Whether it is one message of which nothing is said but where it goes."""
        return self.plain and self.sends[0].options is None

    @property
    def lasting(self) -> bool:
        """Whether who waits for it wants it on disk."""
        return self.done is not None and (
            self.unit or not self.sends or any(message.persistent for message in self.sends)
        )
