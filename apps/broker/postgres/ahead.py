"""What was claimed beyond the consumers' credit, so that a quick consumer need not wait for a commit a message."""

from collections.abc import Iterable

from apps.broker.engine import Delivery, MessageId

LIMIT = 500  # messages a queue
QUICK = 0.02  # seconds: consumers who wait again so soon after they got something are quick
IDLE = 0.1  # seconds after which it goes back if nobody took any of it


class ReadAhead:
    """A queue's messages that this process holds and no consumer has yet, in the order of delivery.

    It is empty unless consumers run dry between two commits, grows until they do not, and goes back as soon as they are
    slow: what lies here, nobody else can have. Whatever could change the order of delivery recalls it.

    Attributes:
        reach: how many messages it aims at.
        moved: when something was last handed to the queue's consumers, by `time.monotonic()`.
        freed: when they last had credit again while they waited for a claim.
        last: nothing in it stands behind this place.
    """

    __slots__ = ("_deliveries", "freed", "last", "moved", "reach")

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self.reach = 0
        self.moved = 0.0
        self.freed = 0.0
        self.last = 0

    def __len__(self) -> int:
        return len(self._deliveries)

    @property
    def lowest(self) -> int:
        """The lowest priority in it. It must not be empty."""
        return self._deliveries[-1].priority

    def ids(self) -> list[MessageId]:
        """Of all that is in it."""
        return [delivery.id for delivery in self._deliveries]

    def merged(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Take out everything, with newly claimed messages in their places."""
        before, self._deliveries = self._deliveries, []
        if not before:
            return deliveries
        whole = before + deliveries
        if deliveries and _place(deliveries[0]) < _place(before[-1]):
            whole.sort(key=_place)
        return whole

    def keep(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Put messages in, as many as it aims at; returns the others. It must be empty.

        A message that may expire is not kept: its time is looked at when it is claimed.
        """
        count = 0
        for delivery in deliveries:
            if count >= self.reach or delivery.expires:
                break
            count += 1
        self._deliveries = deliveries[:count]
        self.last = max((delivery.place for delivery in self._deliveries), default=0)
        return deliveries[count:]

    def take(self, count: int) -> list[Delivery]:
        """The first ones."""
        taken = self._deliveries[:count]
        del self._deliveries[:count]
        return taken

    def put_back(self, deliveries: Iterable[Delivery]) -> None:
        """Nobody took them: first again."""
        self._deliveries[:0] = deliveries

    def quick(self, now: float, *, spare: bool) -> bool:
        """Whether the consumers wanted more soon after they had got something.

        Args:
            now: a claim has come back.
            spare: it found less than there was credit for. If not, they waited for it, and however long that took says
                nothing of them.
        """
        wanted = now if spare or self.freed <= self.moved else self.freed
        return wanted - self.moved < QUICK

    def grow(self, credit: int) -> None:
        """Quick consumers had so much credit left when a claim came back: aim at more."""
        if credit > 0:
            self.reach = min(max(2 * self.reach, credit), LIMIT)

    def empty(self) -> list[MessageId]:
        """It goes back; begin small again."""
        ids = self.ids()
        self._deliveries.clear()
        self.reach = 0
        return ids


def _place(delivery: Delivery) -> tuple[int, int]:
    return -delivery.priority, delivery.place
