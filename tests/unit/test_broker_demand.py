"""What is heard before something is claimed."""

from apps.broker.engine import Address, Delivery, Subscription
from apps.broker.postgres.demand import Demand
from apps.broker.postgres.queues import Queue


class Ears:
    """Counts how often what others said was taken."""

    deaf = False

    def __init__(self) -> None:
        self.heard = 0

    def hear(self) -> None:
        self.heard += 1


class Nobody:
    """A consumer who is not here for what it gets."""

    def deliver(self, subscription: Subscription, deliveries: list[Delivery]) -> None:
        raise AssertionError

    def lost(self, subscription: Subscription) -> None:
        raise AssertionError


def demand_of(*queues: Queue) -> tuple[Demand, Ears]:
    ears = Ears()
    return Demand(lambda: queues, None, ears, None, lambda _: None), ears  # type: ignore[arg-type]


def test_where_nobody_consumes_a_batch_asks_nobody():
    demand, ears = demand_of()
    assert demand.claimable() == ([], [], [])
    assert not demand.wanting()
    assert not ears.heard


def test_what_others_said_is_known_before_a_claim_is_made():
    queue = Queue(Address("n", "queue", "q"))
    queue.id, queue.joined = 7, True
    queue.add(Subscription(queue.address, Nobody(), 5))
    queue.waiting = False
    demand, ears = demand_of(queue)
    hear = ears.hear

    def somebody_sent() -> None:
        hear()
        queue.waiting = True

    ears.hear = somebody_sent  # type: ignore[method-assign]
    claims, _, _ = demand.claimable()
    assert [claimed for claimed, _ in claims] == [queue]
    assert ears.heard == 1
