"""What could be claimed for the consumers of this process: where something may wait, and where somebody has credit."""

from collections.abc import Callable, Collection
from typing import Protocol

from apps.broker.postgres.batch import Claimable
from apps.broker.postgres.handover import Ears, Handover
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue


class Pen(Protocol):
    """Who writes."""

    def add(self, operation: Operation) -> None:
        """Write this with the next batch."""

    def wake(self) -> None:
        """Look soon whether there is something to claim."""


class Demand:
    """Looks over the queues that are consumed here.

    Args:
        consumed: those queues, as they are at each look.
        share: lets others consume a queue that this process may consume alone.
    """

    def __init__(
        self,
        consumed: Callable[[], Collection[Queue]],
        pen: Pen,
        ears: Ears,
        handover: Handover,
        share: Callable[[Queue], None],
    ) -> None:
        self._consumed = consumed
        self._pen = pen
        self._ears = ears
        self._handover = handover
        self._share = share

    def claimable(self) -> Claimable:
        """Where something may wait and somebody here could take it: the queues, and how many to claim; and the
        selectors that have more to look at."""
        claims, scans, ranked = [], [], []
        consumed = self._consumed()
        if consumed:  # a claim must know what others have said by now; where there is none, that is a call for nothing
            self._ears.hear()
        for queue in consumed:
            if not queue.id or queue.id < 0 or queue.paused:
                continue
            if self._ears.deaf:
                if queue.stocked or queue.ahead:
                    self._handover.lower(queue)  # what was done elsewhere is not known: look at everything
                self._share(queue)  # nor whether others ask for it
            if not queue.joined:
                if queue.waiting and (queue.capacity() or queue.scans):
                    claims.append((queue, 1))
                continue
            if queue.yields and queue.idle:
                queue.active = queue.waiting = False
                self._pen.add(Operation(leaves=(queue.id,)))
            if queue.waiting and (limit := queue.claim_limit() or (queue.exclusive and not queue.active)):
                claims.append((queue, int(limit)))
            if queue.ranks.stale or queue.bid() is not None:
                ranked.append(queue)
            scans += [(queue, scan) for scan in queue.scanning() if scan.eager]
        return claims, scans, ranked

    def wanting(self) -> bool:
        """Whether a consumer here waits for what may be claimed, as far as was heard."""
        for queue in self._consumed():
            if not queue.id or queue.id < 0 or queue.paused:
                continue
            if queue.stocked and not queue.ahead and (queue.capacity() or (queue.exclusive and not queue.active)):
                return True
            if queue.stocked and queue.scans and not queue.joined:
                return True
            if any(scan.eager for scan in queue.scanning()):
                return True
        return False

    def idle_lanes(self, thoroughly: bool) -> list[tuple[int, int, int]]:
        """Where the keeper is to look whether something waits that nobody told of: queue, priority, id after which.

        For selectors never from the beginning, where all lies that they do not match; but what they missed is tried
        once more."""
        lanes = []
        for queue in self._consumed():
            if not queue.id or queue.id < 0 or queue.paused:
                continue
            if not queue.waiting and queue.capacity():
                lanes += [
                    (queue.id, lane, 0 if thoroughly or self._ears.deaf else floor)
                    for lane, floor in queue.floors.highest.items()
                ]
            if queue.barred:
                lanes += [(queue.id, lane, 0) for lane in queue.floors.highest]
            for scan in queue.scans:
                if scan.try_again():
                    self._pen.wake()
                if not scan.waiting and scan.room() > 0:
                    lanes += [(queue.id, lane, floor) for lane, floor in scan.floors.highest.items()]
        return lanes
