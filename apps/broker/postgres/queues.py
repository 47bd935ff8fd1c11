"""A queue as one process sees it: its local subscriptions, their credit, and whether to look for waiting messages."""

from collections.abc import Iterable

from apps.broker.engine import Address, Delivery, Subscription
from apps.broker.postgres.callbacks import guarded

CLAIM_LIMIT = 500  # messages a claim
CLAIM_BYTES = 8 * 1024 * 1024  # what a claim may bring into memory, by the mean size seen so far


class Queue:
    """The local side of a queue.

    Attributes:
        id: its id in the database; None until resolved.
        owned: a reply queue of this process.
        waiting: whether rows may be ready that nobody here has claimed yet. A claim clears it, unless it
            comes back full.
    """

    __slots__ = ("address", "id", "mean_size", "owned", "rotation", "subscriptions", "waiting")

    def __init__(self, address: Address, owned: bool = False) -> None:
        self.address = address
        self.id: int | None = None
        self.owned = owned
        self.subscriptions: list[Subscription] = []
        self.rotation = 0
        self.waiting = True
        self.mean_size = 1024.0 * 1024  # before anything is known, a claim is small

    def capacity(self) -> int:
        """How many messages the local subscriptions could take now."""
        total = 0
        for subscription in self.subscriptions:
            free = subscription.credit - len(subscription.held)
            if free > 0:
                total += free
        return total

    def claim_limit(self) -> int:
        """How many to claim at once; 0 when nobody could take them."""
        return min(self.capacity(), CLAIM_LIMIT, max(1, int(CLAIM_BYTES / self.mean_size)))

    def distribute(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Hand messages to the subscriptions in turn, each within its credit; returns what nobody could take."""
        subscriptions = self.subscriptions
        if len(subscriptions) == 1:
            only = subscriptions[0]
            free = only.credit - len(only.held)
            self._hand(only, deliveries[:free] if free > 0 else [])
            return deliveries[max(free, 0) :]
        shares: list[list[Delivery]] = [[] for _ in subscriptions]
        free_of = [subscription.credit - len(subscription.held) for subscription in subscriptions]
        count = len(subscriptions)
        place = self.rotation
        taken = 0
        for delivery in deliveries:
            for step in range(count):
                index = (place + step) % count
                if free_of[index] > 0:
                    free_of[index] -= 1
                    shares[index].append(delivery)
                    place = index + 1
                    break
            else:
                break
            taken += 1
        self.rotation = place % count if count else 0
        for subscription, share in zip(list(subscriptions), shares, strict=True):
            self._hand(subscription, share)
        return deliveries[taken:]

    def _hand(self, subscription: Subscription, deliveries: list[Delivery]) -> None:
        if not deliveries:
            return
        held = subscription.held
        for delivery in deliveries:
            held[delivery.id] = delivery.persistent
        mean = _mean(len(d.body) for d in deliveries)
        self.mean_size = max(mean, self.mean_size / 2, 64.0)
        guarded(subscription.consumer.deliver, subscription, deliveries)  # what it fails to take it holds until it goes


def _mean(sizes: Iterable[int]) -> float:
    total = count = 0
    for size in sizes:
        total += size
        count += 1
    return total / count if count else 0.0
