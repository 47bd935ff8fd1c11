"""What was handed over waits for more batches where that saves writing it, and not for long."""

from apps.broker.engine import Address, Message, MessageId
from apps.broker.postgres.leftovers import PASSES, divide
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue

ADDRESS = Address("ns", "queue", "q")


def handed(number: int) -> Operation:
    """A message that was handed over."""
    return Operation((Message(ADDRESS, b""),), handed=MessageId(number), holder=1, plain=True)


def test_what_nobody_acks_waits_for_so_many_batches_and_no_more() -> None:
    queue, operation = Queue(ADDRESS), handed(1)
    for _ in range(PASSES):
        assert divide([operation], lambda _: queue, probe=False) == ([], [operation])
    assert divide([operation], lambda _: queue, probe=False) == ([operation], [])


def test_nothing_waits_behind_which_another_one_is_written() -> None:
    queue, first, second = Queue(ADDRESS), handed(1), handed(2)
    second.passed = PASSES
    assert divide([first, second], lambda _: queue, probe=False) == ([first, second], [])


def test_what_is_acked_does_not_wait() -> None:
    queue, first, second = Queue(ADDRESS), handed(1), handed(2)
    ack = Operation(acks=[(MessageId(1), 1)], session=1)
    assert divide([first, second, ack], lambda _: queue, probe=False) == ([first, ack], [second])


def test_where_it_is_not_worth_it_a_probe_waits_once() -> None:
    queue, operation = Queue(ADDRESS), handed(1)
    queue.settling = 0.0
    assert divide([operation], lambda _: queue, probe=False) == ([operation], [])
    assert divide([operation], lambda _: queue, probe=True) == ([], [operation])
    assert divide([operation], lambda _: queue, probe=True) == ([operation], [])
