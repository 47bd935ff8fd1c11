"""What consumers get from memory: messages that are not written yet, and those that were claimed ahead of their credit.

Both happen at the end of a turn of the event loop, so that what came together goes out together.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from apps.broker.engine import Delivery, MessageId, SessionId
from apps.broker.postgres.ahead import IDLE
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue

DRAWN = 4096  # ids a drawing: the sequence's increment
DRAW_BELOW = 2048  # so few ids left, and the next batch draws


class Ears(Protocol):
    """Who hears what other processes say."""

    deaf: bool

    def hear(self) -> None:
        """Take what has arrived."""


class Pen(Protocol):
    """Who writes."""

    @property
    def prompt(self) -> bool:
        """Whether what is sent now goes into the next batch, and the database has room for it as far as is known."""

    @property
    def stalled(self) -> Collection[Queue]:
        """The queues with something that no batch has carried yet and that found no credit (`Queue.pending`)."""

    def add(self, operation: Operation) -> None:
        """Write this with the next batch."""

    def stall(self, queue: Queue, operations: Iterable[Operation]) -> None:
        """These were added to be handed over, and found no credit."""

    def give_back(self, ids: list[MessageId], session: int) -> None:
        """Make claimed messages ready again that no consumer has seen."""

    def touch(self, queue: Queue, message_id: int) -> None:
        """Something becomes ready with the next batch: others are to be told."""


class Handover:
    """Hands messages to the consumers of this process.

    Args:
        pen: who writes.
        ears: who hears what others say.
        session: under which this process holds messages, now.
        accompanied: whether there are other processes, now.

    Attributes:
        happened: something was handed over since this was unset.
        seen_id: the highest id that is known to be drawn.
    """

    def __init__(self, pen: Pen, ears: Ears, session: Callable[[], SessionId], accompanied: Callable[[], bool]) -> None:
        self._pen = pen
        self._ears = ears
        self._session = session
        self._accompanied = accompanied
        self._loop = asyncio.get_running_loop()
        self._gathering: list[Queue] = []  # with messages that are handed over at the end of this turn of the loop
        self._refilling: list[Queue] = []  # with messages at hand or on their way, and credit for them
        self._next_id = self._last_id = 0  # of the ids that are this process's own
        self.seen_id = 0
        self.happened = False

    # -- before it is written

    def hand_over(self, queue: Queue, operation: Operation) -> bool:
        """Deliver the one message of an operation at the end of this turn of the loop, if somebody here has credit.

        The message gets an id that was drawn before, and is written as held by this session. Nothing of its queue is
        on its way to the database that was not handed over (`Queue.immediate`). It gets its position when it is
        written, so it stands behind all that was confirmed before, by whichever process.
        """
        if (
            self._ears.deaf
            or not self._pen.prompt
            or self._next_id >= self._last_id
            or (operation.since > queue.looked_at and self._came_anew(queue, operation))
        ):
            return False
        if not queue.gathered:
            if not queue.capacity():
                return False
            queue.gathered_at = queue.lowered
            self._soon(self._gathering, queue)
        operation.handed, operation.holder = MessageId(self._next_id), self._session()
        self._next_id += 1
        queue.gathered.append(operation)
        return True

    def _came_anew(self, queue: Queue, operation: Operation) -> bool:
        """Whether what its sender sent before, by another process, may wait in the queue and is not known here: it came
        to this one after the queue was looked at."""
        return operation.since > queue.looked_at and self._accompanied()

    def take_up(self) -> None:
        """Right before a batch is made: deliver of what it would carry what there is credit for by now.

        Else a queue whose consumers were without credit for a moment would go by the database for as long as it is
        busy: there is always something on its way, behind which nothing may be handed over.
        """
        queues = [queue for queue in self._pen.stalled if queue.drained and queue.capacity()]
        if queues:
            self._ears.hear()
        for queue in queues:
            self._take_up(queue)

    def _take_up(self, queue: Queue) -> None:
        """Hand over what found no credit when it came, in its order, as far as the credit goes. Nothing may be left
        that comes before it: no row that is ready, and nothing in a batch that is under way or has failed."""
        pending = queue.pending
        if (
            not pending
            or queue.unwritten != len(pending)
            or not queue.drained
            or self._ears.deaf
            or not self._pen.prompt
        ):
            return
        room = min(queue.capacity(), self._last_id - self._next_id, len(pending))
        operations: list[Operation] = []
        while len(operations) < room and pending[0].simple and not self._came_anew(queue, pending[0]):
            operation = pending.popleft()
            operation.arrive()
            if not operation.handed:
                operation.handed = MessageId(self._next_id)
                self._next_id += 1
            operation.holder = self._session()
            operations.append(operation)
        if operations:
            self.happened = True
            self._hand(queue, operations)

    def drew(self, first: int) -> None:
        """Ids were drawn, after all that was written before."""
        self._next_id, self._last_id = first, first + DRAWN
        self.seen_id = first

    def forget_ids(self) -> None:
        """New ids have to be drawn before anything is handed over."""
        self._next_id = self._last_id = 0

    @property
    def low(self) -> bool:
        """Whether there are too few ids for a busy moment."""
        return self._last_id - self._next_id < DRAW_BELOW

    # -- at hand

    def freed(self, queue: Queue) -> None:
        """There is credit again."""
        if queue.waiting or queue.claiming:
            queue.ahead.freed = time.monotonic()
        if (queue.ahead or (queue.pending and queue.drained)) and queue not in self._refilling:
            self._soon(self._refilling, queue)

    def arrive(self, queue: Queue, deliveries: list[Delivery]) -> list[MessageId]:
        """Deliver what was claimed; returns the ids of what goes back."""
        left = queue.arrive(deliveries, keep=not self._ears.deaf)
        if queue.ahead:
            if queue.capacity():  # it was acked while it was delivered
                self.freed(queue)
            if not queue.watched:
                self._watch(queue)
        return [delivery.id for delivery in left]

    def recall(self, queue: Queue) -> None:
        """What is at hand goes back: something is to come before it, or nobody here takes it."""
        ids = queue.ahead.empty()
        if ids:
            queue.recalled = queue.claiming
            first = min(ids)
            queue.lower(first)
            self._pen.touch(queue, first)
            self._pen.give_back(ids, self._session())

    def lower(self, queue: Queue, place: int = 0) -> None:
        """A message became ready, none before that place (0: nothing is known of it)."""
        queue.lower(place)
        if queue.ahead and place <= queue.ahead.last:
            self.recall(queue)

    def make_way(self, queue: Queue, priority: int) -> None:
        """A message of that priority comes."""
        if queue.ahead and priority > queue.ahead.lowest:
            self.recall(queue)

    def _watch(self, queue: Queue) -> None:
        """Look now and then whether what is at hand moves."""
        queue.watched = bool(queue.ahead)
        if queue.watched and time.monotonic() - queue.ahead.moved >= IDLE:
            self.recall(queue)
            queue.watched = False
        if queue.watched:
            self._loop.call_later(IDLE, self._watch, queue)

    # -- the end of a turn

    def _soon(self, queues: list[Queue], queue: Queue) -> None:
        if not (self._gathering or self._refilling):
            self._loop.call_soon(self.deliver)
        queues.append(queue)

    def deliver(self) -> None:
        """Hand over what there is credit for, the higher priority first; the rest is written as waiting."""
        if not (self._gathering or self._refilling):
            return
        self._ears.hear()
        refilling, self._refilling = self._refilling, []
        for queue in refilling:
            if queue.ahead and not self._ears.deaf:
                self.happened = True
                queue.refill()
        gathering, self._gathering = self._gathering, []
        for queue in gathering:
            self.happened = True
            self._deliver_gathered(queue)
        for queue in refilling:
            self._take_up(queue)

    def hold_back(self) -> None:
        """A batch is made now. What consumers sent while they were delivered to is written as waiting."""
        gathering, self._gathering = self._gathering, []
        for queue in gathering:
            operations, queue.gathered = queue.gathered, []
            self._stall(queue, operations)

    def _deliver_gathered(self, queue: Queue) -> None:
        operations, queue.gathered = queue.gathered, []
        first = operations[0].sends[0].priority
        if any(operation.sends[0].priority != first for operation in operations):
            operations.sort(key=lambda operation: -operation.sends[0].priority)
        room = queue.capacity() if queue.lowered == queue.gathered_at else 0  # something comes before all of this
        self._stall(queue, operations[room:])
        self._hand(queue, operations[:room])

    def _stall(self, queue: Queue, operations: list[Operation]) -> None:
        """These find no credit: they are written as waiting, unless there is some before a batch is made."""
        for operation in operations:
            operation.holder = 0
            operation.unhanded = (queue,)
            queue.unwritten += 1
        if operations:
            self._pen.stall(queue, operations)

    def _hand(self, queue: Queue, operations: list[Operation]) -> None:
        """Deliver these, which are written as held by this session."""
        if not operations:
            return
        deliveries = [
            Delivery(
                operation.handed,
                queue.address,
                message.headers,
                message.body,
                message.persistent,
                deliveries=1,
                priority=message.priority,
            )
            for operation in operations
            for message in operation.sends
        ]
        left = queue.distribute(deliveries) if queue.subscriptions else deliveries
        if left:
            ids = [delivery.id for delivery in left]
            queue.lower(min(ids))
            self._pen.touch(queue, min(ids))
            self._pen.add(Operation(releases=ids, session=self._session()))
