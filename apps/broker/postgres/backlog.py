"""What waits to be written, in order, and how much of it the next batch takes."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from apps.broker.engine import Address, MessageId
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue

BATCH_OPERATIONS = 2_000
BATCH_BYTES = 16 * 1024 * 1024
CONGESTED_OPERATIONS = 20_000
CONGESTED_BYTES = 64 * 1024 * 1024
HEAVY = 512  # bytes an operation, acks included: for less, writing costs less than finding out what need not be written


class Backlog:
    """The operations of a process that no batch carries yet.

    Attributes:
        parked_names: destinations that an application's open transaction is making. What names them is set aside, and
            everything later that shares a destination with that: the order of a producer holds.
        returning: how many of the operations give something back that no consumer has seen. Until they are written,
            what a claim brings may come before them.
        isolating: so many of the next operations go one by one: one of them is refused by the database.
        stalled: the queues with something that no batch has carried yet, and that may be handed over once there is
            credit (`Queue.pending`). Not what was put back: it was in a batch, and waits until it is written.
    """

    def __init__(self) -> None:
        self._pending: deque[Operation] = deque()
        self._bytes = 0
        self._parked: list[Operation] = []
        self._parked_bytes = 0
        self.parked_names: set[Address] = set()
        self.returning = 0
        self.isolating = 0
        self.stalled: set[Queue] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Operation]:
        """All of them, those set aside included."""
        yield from self._parked
        yield from self._pending

    @property
    def empty(self) -> bool:
        """Nothing waits, and nothing is set aside."""
        return not (self._pending or self._parked)

    @property
    def congested(self) -> bool:
        """More waits than a few batches carry."""
        return (
            len(self._pending) + len(self._parked) > CONGESTED_OPERATIONS
            or self._bytes + self._parked_bytes > CONGESTED_BYTES
        )

    @property
    def heavy(self) -> bool:
        """Whether writing is expensive, by the size of the operations."""
        return self._bytes > HEAVY * len(self._pending)

    @property
    def patient(self) -> bool:
        """Whether there is something, and nobody waits for any of it."""
        return bool(self._pending) and all(operation.patient for operation in self._pending)

    def add(self, operation: Operation) -> None:
        """Behind all others."""
        self._pending.append(operation)
        self._bytes += operation.size
        self.returning += bool(operation.recalls)
        for queue in operation.unhanded:
            if queue.subscriptions:
                self.stalled.add(queue)
                _line_up(queue.pending, operation)

    def stall(self, queue: Queue, operations: Iterable[Operation]) -> None:
        """What was added before was to be handed over, and found no credit at the end of the turn of the event loop. So
        it stands before all else that waits for credit: none of that could be handed over, or it would not wait."""
        queue.pending.extendleft(reversed(list(operations)))
        self.stalled.add(queue)

    def give_back(self, ids: list[MessageId], session: int) -> None:
        """Claimed messages that no consumer has seen, before all others: the next claim must find them."""
        self._pending.appendleft(Operation(recalls=ids, session=session))
        self.returning += 1

    def put_back(self, operations: Sequence[Operation]) -> None:
        """They were taken and not written."""
        self._pending.extendleft(reversed(operations))
        self._bytes += sum(operation.size for operation in operations)
        self.returning += sum(bool(operation.recalls) for operation in operations)

    def take_without_sends(self) -> list[Operation]:
        """All but what sends, a handed-over message apart: its ack may be among the rest. Isolated ones go first."""
        if self.isolating:
            return self.take()
        waiting = [operation for operation in self._pending if operation.sends and not operation.holder]
        if len(waiting) == len(self._pending):
            return []
        operations = [operation for operation in self._pending if operation.holder or not operation.sends]
        self._pending = deque(waiting)
        self._bytes = sum(operation.size for operation in waiting)
        self.returning = 0
        return operations

    def take(self) -> list[Operation]:
        """As many as a batch carries."""
        pending = self._pending
        if self.isolating and pending:
            self.isolating -= 1
            operations = [pending.popleft()]
        elif len(pending) <= BATCH_OPERATIONS and self._bytes <= BATCH_BYTES:
            operations = list(pending)
            pending.clear()
        else:
            operations, size = [], 0
            while pending and len(operations) < BATCH_OPERATIONS and (not operations or size < BATCH_BYTES):
                operations.append(pending.popleft())
                size += operations[-1].size
        self._bytes = self._bytes - sum(operation.size for operation in operations) if pending else 0
        if self.stalled:
            self._carry(operations)
        if self.returning:
            self.returning -= sum(bool(operation.recalls) for operation in operations)
        return operations

    def _carry(self, operations: list[Operation]) -> None:
        """A batch carries these."""
        if self._pending:
            carried = set(operations)
            for queue in self.stalled:
                queue.pending = deque(operation for operation in queue.pending if operation not in carried)
            self.stalled = {queue for queue in self.stalled if queue.pending}
        else:
            self.unstall()

    def unstall(self) -> None:
        """Nothing of all this is handed over before it is written."""
        for queue in self.stalled:
            queue.pending.clear()
        self.stalled.clear()

    def clear(self) -> list[Operation]:
        """Take all of them."""
        operations = list(self)
        self._pending.clear()
        self._parked.clear()
        self.unstall()
        return operations

    # -- what has to wait for somebody else's transaction

    def unparked(self, operations: list[Operation]) -> list[Operation]:
        """Set aside what has to wait; returns the others."""
        names = self.parked_names
        if not names:
            return operations
        free = []
        for operation in operations:
            if any(message.address in names for message in operation.sends):
                names.update(message.address for message in operation.sends)
                self._parked.append(operation)
                self._parked_bytes += operation.size
            else:
                free.append(operation)
        return free

    def unpark(self) -> None:
        """What was set aside is tried again."""
        self.parked_names.clear()
        parked, self._parked, self._parked_bytes = self._parked, [], 0
        self.put_back(parked)


def _line_up(pending: deque[Operation], operation: Operation) -> None:
    """A send found no credit. It stands behind all others of its priority, and passes over nothing that is not
    `simple`: that is never handed over, and what its sender sent later may not come before."""
    place = len(pending)
    if operation.simple:
        priority = operation.sends[0].priority
        while place and pending[place - 1].simple and pending[place - 1].sends[0].priority < priority:
            place -= 1
    pending.insert(place, operation)
