"""A batch: the operations that one transaction carries, as statements to run and results to spread."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from psycopg import pq

from apps.broker.engine import Address, Delivery, Done, Message, MessageId
from apps.broker.postgres import packing
from apps.broker.postgres.pipeline import Step
from apps.broker.postgres.queues import Queue

WAKE_LIMIT = 500  # queues a notification: 11 bytes each at the most, and a notification holds 7,999


@dataclass(slots=True, eq=False)
class Operation:
    """What one call of a verb asked for; it takes effect as a whole.

    Attributes:
        acks: held messages to delete, with whether each is persistent.
        releases: held messages to make ready again.
        session: which holds the acks and releases; without those 0.
        closes: ids of reply queues to end.
        size: bytes of memory, about.
        unit: a transaction, whose topic messages wait for the commit.
    """

    sends: Sequence[Message] = ()
    acks: Sequence[tuple[MessageId, bool]] = ()
    releases: Sequence[MessageId] = ()
    session: int = 0
    closes: Sequence[int] = ()
    done: Done | None = None
    size: int = 0
    unit: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Operations, claims and topic payloads of one transaction. Made anew for each attempt to write it."""

    number: int
    session: int
    operations: list[Operation]
    claims: list[tuple[Queue, int]]
    payloads: list[bytes]
    large_payloads: list[bytes]
    announce: bool
    touched: set[int] = field(default_factory=set)
    sent: list[tuple[Queue, Message]] = field(default_factory=list)
    hand: list[bool] = field(default_factory=list)
    insert_step: int = -1
    claim_steps: int = 0

    def steps(self, queues: dict[Address, Queue], touched: set[int]) -> list[Step]:
        """The statements, in order: acks and releases, sends, claims, wake-ups.

        Args:
            queues: every queue of a message in the batch, resolved; an id of 0 drops its messages (a reply queue
                that has ended).
            touched: further destinations in which something may have become ready.
        """
        session = packing.int4(self.session)
        steps: list[Step] = [("enter_batch", (session, packing.int8(self.number)))]
        acked: tuple[list[int], list[int]] = ([], [])
        released: list[int] = []
        for operation in self.operations:
            for message_id, persistent in operation.acks:
                acked[persistent].append(message_id)
            released.extend(operation.releases)
            for queue_id in operation.closes:
                steps.append(("close_reply_queue", (packing.int4(queue_id), session)))
            for message in operation.sends:
                if message.address.kind == "queue":
                    queue = queues[message.address]
                    if queue.id:
                        self.sent.append((queue, message))
        if acked[1]:
            steps.append(("ack_persistent", (packing.int8_array(acked[1]), session)))
        if acked[0]:
            steps.append(("ack_transient", (packing.int8_array(acked[0]), session)))
        if released:
            steps.append(("release", (packing.int8_array(released), session)))
        if self.sent:
            self.insert_step = len(steps)
            steps.append(self._insert(session))
            for place, (queue, _) in enumerate(self.sent):
                if not self.hand[place]:
                    touched.add(queue.id or 0)
        elif not self.claims and all(operation.done is None for operation in self.operations):
            steps.append(("relax", ()))
        self.claim_steps = len(steps)
        for queue, limit in self.claims:
            queue.waiting = False  # a wake-up that comes while the claim is under way sets it again
            steps.append(("claim", (packing.int4(queue.id or 0), packing.int4(limit), session)))
        if self.announce:
            names = sorted(touched)
            for begin in range(0, len(names), WAKE_LIMIT):
                steps.append(("wake", (packing.int4_array(names[begin : begin + WAKE_LIMIT]),)))
            steps.extend(("publish", (payload,)) for payload in self.payloads)
            own = str(self.session).encode()
            steps.extend(("publish_large", (own, payload)) for payload in self.large_payloads)
        return steps

    def _insert(self, session: bytes) -> Step:
        self.hand = _choose_hand_over(self.sent, {id(queue) for queue, _ in self.claims})
        candidates = {queue.id or 0 for (queue, _), hand in zip(self.sent, self.hand, strict=True) if hand}
        return (
            "insert_messages",
            (
                packing.int4_array([queue.id or 0 for queue, _ in self.sent]),
                packing.int2_array([message.priority for _, message in self.sent]),
                packing.bool_array([message.persistent for _, message in self.sent]),
                packing.bool_array(self.hand),
                packing.bytes_array(packing.BYTEA, [message.headers for _, message in self.sent]),
                packing.bytes_array(packing.BYTEA, [message.body for _, message in self.sent]),
                session,
                packing.int4_array(list(candidates)),
            ),
        )

    def deliveries(self, results: Sequence[pq.abc.PGresult]) -> list[tuple[Queue, list[Delivery]]]:
        """What the session holds since the commit: handed over from memory, and claimed. In order for each queue.

        Sets `queue.waiting` by what the results say.
        """
        handed: dict[Queue, list[tuple[int, Delivery]]] = {}
        if self.insert_step >= 0:
            value = results[self.insert_step].get_value
            for place, (queue, message) in enumerate(self.sent):
                if value(place, 1) != b"\x01":
                    queue.waiting = True
                    continue
                message_id = MessageId(int.from_bytes(value(place, 0) or b"", "big"))
                delivery = Delivery(message_id, message.address, message.headers, message.body, message.persistent, 1)
                handed.setdefault(queue, []).append((-message.priority, delivery))
        spread = []
        for queue, ranked in handed.items():
            ranked.sort(key=itemgetter(0))  # stable: within a priority the order of the sends stays
            spread.append((queue, [delivery for _, delivery in ranked]))
        for step, (queue, limit) in enumerate(self.claims, self.claim_steps):
            result = results[step]
            if result.ntuples >= limit:
                queue.waiting = True
            if result.ntuples:
                spread.append((queue, _claimed(queue.address, result)))
        return spread


def _choose_hand_over(sent: list[tuple[Queue, Message]], claiming: set[int]) -> list[bool]:
    """Which messages may go straight to a local consumer: those of queues with nothing waiting, within the credit,
    the higher priority first."""
    hand = [False] * len(sent)
    places: dict[Queue, list[int]] = {}
    for place, (queue, _) in enumerate(sent):
        if queue.subscriptions and not queue.waiting and id(queue) not in claiming:
            places.setdefault(queue, []).append(place)
    for queue, candidates in places.items():
        capacity = queue.capacity()
        if capacity < len(candidates):
            candidates.sort(key=lambda place: (-sent[place][1].priority, place))
        for place in candidates[:capacity]:
            hand[place] = True
    return hand


def _claimed(address: Address, result: pq.abc.PGresult) -> list[Delivery]:
    value = result.get_value
    return [
        Delivery(
            MessageId(packing.unpack_int(value(row, 0))),
            address,
            value(row, 3) or b"",
            value(row, 4) or b"",
            value(row, 1) == b"\x01",
            packing.unpack_int(value(row, 2)),
        )
        for row in range(result.ntuples)
    ]
