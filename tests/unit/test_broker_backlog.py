"""What waits for credit while it waits to be written: its order, and until when it does."""

from apps.broker.engine import Address, Message, Options, Subscription
from apps.broker.postgres.ahead import QUICK, ReadAhead
from apps.broker.postgres.backlog import BATCH_OPERATIONS, Backlog
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue


class Nobody:
    def deliver(self, subscription: Subscription, deliveries: object) -> None: ...

    def lost(self, subscription: Subscription) -> None: ...


def consumed() -> Queue:
    queue = Queue(Address("unit.test", "queue", "q"))
    queue.add(Subscription(queue.address, Nobody(), 1))
    return queue


def send(
    backlog: Backlog, queue: Queue, body: bytes, *, priority: int = 4, ttl: float | None = None, unit: bool = False
) -> Operation:
    options = None if ttl is None else Options(ttl=ttl)
    message = Message(queue.address, body, priority=priority, options=options)
    operation = Operation((message,), unhanded=(queue,), unit=unit, plain=not unit)
    backlog.add(operation)
    return operation


def bodies(queue: Queue) -> list[bytes]:
    return [operation.sends[0].body for operation in queue.pending]


def test_the_higher_priority_stands_before_the_lower_and_a_priority_in_the_order_of_its_sends() -> None:
    backlog, queue = Backlog(), consumed()
    for body, priority in ((b"c", 4), (b"a", 9), (b"d", 4), (b"b", 9), (b"e", 0)):
        send(backlog, queue, body, priority=priority)
    assert bodies(queue) == [b"a", b"b", b"c", b"d", b"e"]
    assert backlog.stalled == {queue}


def test_nothing_passes_over_what_is_never_handed_over() -> None:
    backlog, queue = Backlog(), consumed()
    send(backlog, queue, b"a")
    send(backlog, queue, b"unit", unit=True)
    send(backlog, queue, b"mortal", ttl=1.0)
    send(backlog, queue, b"b", priority=9)
    assert bodies(queue) == [b"a", b"unit", b"mortal", b"b"]


def test_what_found_no_credit_at_the_end_of_a_turn_stands_before_what_came_after_it() -> None:
    backlog, queue = Backlog(), consumed()
    gathered = [Operation((Message(queue.address, body),), holder=1, plain=True) for body in (b"a", b"b")]
    for operation in gathered:
        backlog.add(operation)
    send(backlog, queue, b"unit", unit=True)
    for operation in gathered:
        operation.holder, operation.unhanded = 0, (queue,)
    backlog.stall(queue, gathered)
    assert bodies(queue) == [b"a", b"b", b"unit"]


def test_what_a_batch_carries_does_not_wait_for_credit_any_more_nor_does_it_when_it_comes_back() -> None:
    backlog, queue = Backlog(), consumed()
    for number in range(BATCH_OPERATIONS + 2):
        send(backlog, queue, b"%d" % number, priority=9 if number == BATCH_OPERATIONS else 4)
    carried = backlog.take()
    assert len(carried) == BATCH_OPERATIONS
    assert bodies(queue) == [b"%d" % number for number in (BATCH_OPERATIONS, BATCH_OPERATIONS + 1)]
    backlog.put_back(carried)
    assert len(queue.pending) == 2
    backlog.take()
    backlog.take()
    assert not queue.pending
    assert not backlog.stalled


def test_where_nobody_consumes_nothing_waits_for_credit() -> None:
    backlog, queue = Backlog(), Queue(Address("unit.test", "queue", "q"))
    send(backlog, queue, b"a")
    assert not queue.pending
    assert not backlog.stalled


def test_consumers_that_waited_for_a_slow_claim_are_quick_if_they_wanted_more_before_it() -> None:
    ahead = ReadAhead()
    ahead.moved, ahead.freed = 1.0, 1.0 + QUICK / 2
    assert ahead.quick(9.0, spare=False)
    assert not ahead.quick(9.0, spare=True)
    assert ahead.quick(1.0 + QUICK / 2, spare=True)
    ahead.freed = 1.0 + 2 * QUICK
    assert not ahead.quick(9.0, spare=False)
    ahead.freed = 0.5  # they have had credit all the time, and nothing came since
    assert not ahead.quick(9.0, spare=False)
    assert not ReadAhead().quick(9.0, spare=False)  # of new ones nothing is known
