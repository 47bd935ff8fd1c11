"""A random plan from a seed: who sends what, who consumes how, and what is done to the servers meanwhile."""

import random
from dataclasses import dataclass, replace
from typing import Literal

SLOTS = ("a", "b")

#: Faults and how often they are drawn.
FAULTS = {
    "gateway-kill": 6,
    "gateway-term": 3,
    "gateway-freeze": 2,
    "postgres-kill": 3,
    "backend-kill": 6,
    "worker-kill": 6,
    "worker-term": 2,
    "worker-freeze": 2,
}


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """A queue.

    Attributes:
        groups: how many message groups share it; 0: its messages belong to none.
        priorities: those in use.
        retry_delay: its setting, seconds.
        selective: its messages have a header `turn`, 0 or 1, and its consumers selectors that look at it.
    """

    name: str
    groups: int
    priorities: tuple[int, ...]
    retry_delay: float = 0.0
    selective: bool = False


@dataclass(frozen=True, slots=True)
class ProducerPlan:
    """Who sends.

    Attributes:
        kind: `stomp`, or `sql` for one that sends from SQL in transactions of its own.
        queues: to which it sends, by chance.
        messages: how many.
        window: how many may wait for their receipts.
        persistent: the share of persistent messages.
        transactions: the share of messages sent in transactions; those have up to `unit` messages.
        aborted: the share of transactions that end otherwise than by COMMIT.
        hop: the chance, at each message, to wait for all receipts and go on at the other gateway.
        cut: the chance, at each message, to break the connection with receipts open.
        patience: seconds of silence after which it breaks the connection by itself.
        size: of bodies, at the most.
        work: the most seconds between two messages.
    """

    name: str
    kind: Literal["stomp", "sql"]
    slot: str
    queues: tuple[QueuePlan, ...]
    messages: int
    window: int
    persistent: float
    transactions: float
    unit: int
    aborted: float
    hop: float
    cut: float
    patience: float
    size: int
    work: float


@dataclass(frozen=True, slots=True)
class ConsumerPlan:
    """Who consumes.

    Attributes:
        kind: `stomp`, or `worker` for a process of its own with an engine inside; that one neither loses connections
            nor stalls by itself.
        mode: STOMP's ack mode.
        confirmed: the share of ACKs with a receipt.
        shuffled: whether it acks in random order, where the mode allows.
        nack, later: the chance, at each message, of a NACK, at once or with a delay.
        transactions: the share of messages acked in transactions; those have up to `unit` messages.
        aborted: the share of transactions that end otherwise than by COMMIT.
        forward: to which queue its transactions send, one message for each that they ack.
        cut, unsubscribe, stall: the chance, at each message, to break the connection, to unsubscribe and subscribe
            again, to stop reading for a while.
        hop: whether it comes back at any gateway.
        work: the most seconds that it works on a message.
        priority: among the consumers of its queue.
        selector: what it selects, if not all. Some other consumer selects the rest.
    """

    name: str
    kind: Literal["stomp", "worker"]
    slot: str
    queue: QueuePlan
    credit: int
    mode: Literal["client-individual", "client"]
    confirmed: float
    shuffled: bool
    nack: float
    later: float
    transactions: float
    unit: int
    aborted: float
    forward: QueuePlan | None
    cut: float
    unsubscribe: float
    stall: float
    hop: bool
    work: float
    priority: int = 0
    selector: str | None = None


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What is done to a server, once that share of the run's sends and deliveries is over.

    Attributes:
        slot: a gateway's, or the name of a consumer that is a worker.
    """

    at: float
    kind: str
    slot: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    queues: tuple[QueuePlan, ...]
    producers: tuple[ProducerPlan, ...]
    consumers: tuple[ConsumerPlan, ...]
    faults: tuple[FaultPlan, ...]

    def describe(self) -> str:
        """For people."""
        parts = [f"seed {self.seed}", *self.queues, *self.producers, *self.consumers, *self.faults]
        return "\n  ".join(str(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Features:
    """What the broker under test can do.

    Attributes:
        groups: message groups.
        stomp_groups: STOMP's JMSXGroupID; without it groups are sent from SQL alone.
        delayed_nacks: NACK with `x-delay`.
        workers: consumers that are workers.
        retry_delay: the queues' setting of that name.
        selectors: consumers with selectors.
        consumer_priorities: consumers of several priorities.
        faults: the kinds to draw from; none: a quiet run.
    """

    groups: bool = True
    stomp_groups: bool = True
    delayed_nacks: bool = True
    workers: bool = True
    retry_delay: bool = True
    selectors: bool = True
    consumer_priorities: bool = True
    faults: tuple[str, ...] = tuple(FAULTS)


def plan(seed: int, features: Features) -> Plan:
    """The plan of a seed; always the same for the same features."""
    chance = random.Random(seed)
    queues = tuple(_queue(chance, f"q{number}", features) for number in range(chance.choice((1, 1, 2, 3))))
    sink = QueuePlan("sink", 0, (4,))
    forwarding = chance.random() < 0.5
    calm = chance.random() < 0.25  # a run in which clients behave: what goes wrong then is the faults' doing alone
    producers = tuple(_producer(chance, f"p{number}", queues, features, calm) for number in range(chance.randint(1, 4)))
    consumers = [
        _ranked(
            chance,
            _consumer(chance, f"c{queue.name}{number}", queue, sink if forwarding else None, features, calm),
            number,
            count,
            features,
        )
        for queue in queues
        for count in (chance.choice((1, 1, 2, 3)) + queue.selective,)
        for number in range(count)
    ]
    if forwarding:
        consumers.append(_consumer(chance, "csink", sink, None, features, calm))
        queues = (*queues, sink)
    workers = tuple(consumer.name for consumer in consumers if consumer.kind == "worker")
    return Plan(seed, queues, producers, tuple(consumers), _faults(chance, features, workers))


def _queue(chance: random.Random, name: str, features: Features) -> QueuePlan:
    groups = chance.choice((1, 2, 5, 20)) if features.groups and chance.random() < 0.4 else 0
    priorities = (4,) if chance.random() < 0.5 else tuple(sorted(chance.sample(range(10), chance.randint(2, 4))))
    retry_delay = chance.choice((0.02, 0.2)) if features.retry_delay and chance.random() < 0.2 else 0.0
    selective = features.selectors and chance.random() < 0.25
    return QueuePlan(name, groups, priorities, retry_delay, selective)


def _producer(
    chance: random.Random, name: str, queues: tuple[QueuePlan, ...], features: Features, calm: bool
) -> ProducerPlan:
    paced = chance.random() < 0.3
    chosen = tuple(chance.sample(queues, chance.randint(1, len(queues))))
    from_sql = chance.random() < 0.15 or (not features.stomp_groups and any(queue.groups for queue in chosen))
    return ProducerPlan(
        name=name,
        kind="sql" if from_sql else "stomp",
        slot=chance.choice(SLOTS),
        queues=chosen,
        messages=chance.choice((20, 50, 100, 200)),
        window=chance.choice((1, 1, 5, 50, 500)),
        persistent=chance.choice((1.0, 1.0, 0.5, 0.0)),
        transactions=chance.choice((0.0, 0.0, 0.2, 1.0)),
        unit=chance.choice((1, 3, 10)),
        aborted=0.0 if calm else 0.3,
        hop=0.0 if calm else chance.choice((0.0, 0.0, 0.02, 0.2)),
        cut=0.0 if calm else chance.choice((0.0, 0.0, 0.005, 0.03)),
        patience=chance.choice((0.5, 5.0, 5.0)),
        size=chance.choice((0, 0, 100, 3_000, 50_000)),
        work=chance.choice((0.001, 0.005)) if paced else 0.0,
    )


def _consumer(
    chance: random.Random, name: str, queue: QueuePlan, sink: QueuePlan | None, features: Features, calm: bool
) -> ConsumerPlan:
    cumulative = chance.random() < 0.2
    return ConsumerPlan(
        name=name,
        kind="worker" if features.workers and chance.random() < 0.2 else "stomp",
        slot=chance.choice(SLOTS),
        queue=queue,
        credit=chance.choice((1, 1, 2, 10, 100)),
        mode="client" if cumulative else "client-individual",
        confirmed=chance.choice((0.0, 0.5, 1.0, 1.0)),
        shuffled=chance.random() < 0.3,
        nack=0.0 if calm else chance.choice((0.0, 0.05, 0.2)),
        later=chance.choice((0.0, 0.05)) if features.delayed_nacks and not calm else 0.0,
        transactions=chance.choice((0.0, 0.2, 1.0)) if sink is None or chance.random() < 0.3 else 1.0,
        unit=chance.choice((1, 3, 10)),
        aborted=0.0 if calm else chance.choice((0.0, 0.3)),
        forward=sink,
        cut=0.0 if calm else chance.choice((0.0, 0.0, 0.01, 0.05)),
        unsubscribe=0.0 if calm else chance.choice((0.0, 0.0, 0.02)),
        stall=0.0 if calm else chance.choice((0.0, 0.0, 0.01)),
        hop=not calm and chance.random() < 0.3,
        work=chance.choice((0.0, 0.0, 0.001, 0.004)),
    )


def _ranked(chance: random.Random, consumer: ConsumerPlan, number: int, count: int, features: Features) -> ConsumerPlan:
    """A consumer with its priority and its selector; the first two of a selective queue select all of it."""
    priority = chance.choice((0, 0, 1, 5)) if features.consumer_priorities and chance.random() < 0.4 else 0
    selector = None
    if consumer.queue.selective and count > 1 and (number < 2 or chance.random() < 0.5):
        selector = f"turn = {number % 2}"
    return replace(consumer, priority=priority, selector=selector)


def _faults(chance: random.Random, features: Features, workers: tuple[str, ...]) -> tuple[FaultPlan, ...]:
    known = [kind for kind in FAULTS if kind in features.faults and (workers or not kind.startswith("worker"))]
    count = chance.choice((0, 1, 1, 2, 3)) if known else 0
    kinds = chance.choices(known, [FAULTS[kind] for kind in known], k=count) if count else []
    faults = []
    for kind in kinds:
        on_worker = kind.startswith("worker") or (kind == "backend-kill" and workers and chance.random() < 0.3)
        faults.append(FaultPlan(chance.random(), kind, chance.choice(workers if on_worker else SLOTS)))
    return tuple(sorted(faults, key=lambda fault: fault.at))
