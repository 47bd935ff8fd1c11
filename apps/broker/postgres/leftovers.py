"""What was handed over and may wait for some more batches, in the hope that it never has to be written."""

from collections.abc import Callable

from apps.broker.engine import Address
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue

PASSES = 3  # batches that a message may wait for at the most
WORTH_WAITING = 0.5  # of a queue's messages that waited for more batches this share was acked by then, of late


def divide(
    operations: list[Operation], queue_of: Callable[[Address], Queue], *, probe: bool
) -> tuple[list[Operation], list[Operation]]:
    """Where one batch follows the other, let what was handed over wait for one more, `PASSES` times at the most: where
    consumers are quick, it is acked by then and need not be written. A message gets its position when it is written,
    so none waits behind which another one of its queue is written.

    Args:
        probe: whether to try it, once, where it was not worth it of late.

    Returns:
        What goes into this batch, and what waits; each in order.
    """
    acked = {message_id for operation in operations for message_id, _ in operation.acks}
    named = {message_id for operation in operations for message_id in operation.named()}
    now, later = [], []
    written: set[Address] = set()
    for operation in reversed(operations):
        if not operation.holder:
            written.update(message.address for message in operation.sends)
        elif operation.handed not in acked:
            address = operation.sends[0].address
            waits = not (operation.passed >= PASSES or operation.handed in named or address in written)
            if waits and (queue_of(address).settling > WORTH_WAITING or (probe and not operation.passed)):
                operation.passed += 1
                later.append(operation)
                continue
            written.add(address)
        now.append(operation)
    return now[::-1], later[::-1]
