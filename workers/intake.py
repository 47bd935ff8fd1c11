"""Which queues a worker takes messages from, and in what order."""

import asyncio
import fnmatch
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from apps.broker.engine import Address, Consumer, Engine, Subscription
from workers.claims import Claim

ACTIVE_SECONDS = 1.0  # a queue that brought something so short a time ago gets a larger share of the credit
PATIENCE = 0.05  # seconds that a message may be held without a slot for it


@dataclass(frozen=True, slots=True)
class Choice:
    """Queues that a worker was told to serve: a name, or a pattern with `*`; with a weight."""

    pattern: str
    weight: float = 1.0

    def matches(self, queue: str) -> bool:
        """Whether that queue is meant."""
        return fnmatch.fnmatchcase(queue, self.pattern)


def parse_choices(texts: Sequence[str]) -> tuple[Choice, ...]:
    """`a,b*=3` as given with --queue: names or patterns, each with a weight.

    Raises:
        ValueError: a weight is no positive number.
    """
    choices: dict[str, Choice] = {}
    for text in texts:
        for part in filter(None, text.split(",")):
            pattern, _, weight = part.partition("=")
            value = float(weight) if weight else 1.0
            if not (0 < value < math.inf):
                raise ValueError(f"a queue's weight is a number above 0, not {weight}")
            choices.setdefault(pattern, Choice(pattern, value))
    return tuple(choices.values())


@dataclass(slots=True, eq=False)
class _Queue:
    """A queue that is served.

    Attributes:
        rank: its place in the order in which the queues were named.
        turn: how much it has been served, divided by its weight: who has the least is next.
        waiting: what is held and has no slot.
        held: what is held at all.
        brought_at: when it brought something last, by the loop's clock,
        modest_until: unless that had to go back: until then it gets no more than could begin at once.
    """

    subscription: Subscription
    rank: int
    weight: float
    turn: float = 0.0
    waiting: deque[Claim] = field(default_factory=deque)
    held: set[Claim] = field(default_factory=set)
    brought_at: float = -math.inf
    modest_until: float = -math.inf


class Intake:
    """Subscribes, shares out the credit, and says whose message is next.

    Args:
        strict: the queues in the order in which they were named, one after the other; else in turns, by weight.
        known: the queues that patterns are held against.
    """

    def __init__(
        self,
        engine: Engine,
        consumer: Consumer,
        choices: Sequence[Choice],
        *,
        strict: bool,
        known: Callable[[], Sequence[str]],
    ) -> None:
        self._engine = engine
        self._consumer = consumer
        self._choices = choices
        self._strict = strict
        self._known = known
        self._queues: dict[Subscription, _Queue] = {}
        self._by_address: dict[Address, _Queue] = {}
        self._clock = 0.0

    # -- queues

    def names(self) -> list[str]:
        """The queues that are meant, in their order."""
        found: dict[str, None] = {}
        for choice in self._choices:
            if "*" in choice.pattern:
                found.update(dict.fromkeys(name for name in self._known() if choice.matches(name)))
            else:
                found[choice.pattern] = None
        return list(found)

    def serve(self, namespaces: Sequence[str]) -> None:
        """Subscribe to these queues in these namespaces, and to no others once nothing is held of them."""
        names = self.names()
        wanted = {Address(namespace, "queue", name) for namespace in namespaces for name in names}
        for rank, name in enumerate(names):
            weight = next(choice.weight for choice in self._choices if choice.matches(name))
            for namespace in namespaces:
                address = Address(namespace, "queue", name)
                if address not in self._by_address:
                    subscription = self._engine.subscribe(address, self._consumer, 0)
                    queue = _Queue(subscription, rank, weight, self._clock)
                    self._queues[subscription] = self._by_address[address] = queue
        for address in self._by_address.keys() - wanted:
            queue = self._by_address[address]
            if not queue.held:
                del self._by_address[address], self._queues[queue.subscription]
                self._engine.unsubscribe(queue.subscription)

    def grant(self, free: int, room: int) -> None:
        """Share credit out: for so many jobs that could begin at once, and so many that there is room for.

        Together the queues may get more than that, since any of them may be the one with work; what arrives in excess
        goes back. Those that brought something just now share all of the room.
        """
        now = asyncio.get_running_loop().time()
        spare = room - sum(len(queue.waiting) for queue in self._queues.values())
        active = [queue for queue in self._queues.values() if _is_active(queue, now)]
        share = -(-spare // len(active)) if active and spare > 0 else 0
        least = -(-free // len(self._queues)) if free > 0 and spare > 0 and self._queues else 0
        for queue in self._queues.values():
            credit = len(queue.held) + max(least, share if _is_active(queue, now) else 0)
            if credit != queue.subscription.credit:
                self._engine.set_credit(queue.subscription, credit)

    # -- messages

    def arrive(self, claim: Claim, now: float) -> None:
        """It is held, and waits for a slot. `now` by the loop's clock."""
        queue = self._queues[claim.subscription]
        if not queue.waiting:
            queue.turn = max(queue.turn, self._clock)  # it has saved nothing up while it was empty
        queue.held.add(claim)
        queue.waiting.append(claim)
        queue.brought_at = now

    def next(self, placed: Callable[[Claim], bool]) -> Claim | None:
        """The next one, if it can be placed; else the first one of the queue that comes next, and so on. None: nothing
        that waits can."""
        waiting = [queue for queue in self._queues.values() if queue.waiting]
        if not waiting:
            return None
        if len(waiting) > 1:
            waiting.sort(key=lambda queue: (queue.rank if self._strict else 0, queue.turn))
        for queue in waiting:
            if placed(queue.waiting[0]):
                claim = queue.waiting.popleft()
                queue.turn += 1 / queue.weight
                self._clock = max(self._clock, queue.turn - 1 / queue.weight)
                return claim
        return None

    def again(self, claim: Claim) -> None:
        """Its slot is gone: it is the first of its queue."""
        self._queues[claim.subscription].waiting.appendleft(claim)

    def forget(self, claim: Claim) -> None:
        """It is held no longer."""
        queue = self._queues.get(claim.subscription)
        if queue is not None:
            queue.held.discard(claim)
            if claim.run is None and claim in queue.waiting:
                queue.waiting.remove(claim)

    def disappointed(self, claim: Claim) -> None:
        """It goes back, since no slot was free for it in time."""
        self._queues[claim.subscription].modest_until = asyncio.get_running_loop().time() + ACTIVE_SECONDS

    def waiting(self) -> list[Claim]:
        """All that has no slot."""
        return [claim for queue in self._queues.values() for claim in queue.waiting]

    def held(self, subscription: Subscription) -> list[Claim]:
        """What is held of a queue."""
        queue = self._queues.get(subscription)
        return list(queue.held) if queue is not None else []

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not any(queue.held for queue in self._queues.values())

    def impatient(self, now: float) -> list[Claim]:
        """What has waited for a slot for too long."""
        return [claim for claim in self.waiting() if now - claim.arrived > PATIENCE]


def _is_active(queue: _Queue, now: float) -> bool:
    return now - queue.brought_at < ACTIVE_SECONDS and now >= queue.modest_until
