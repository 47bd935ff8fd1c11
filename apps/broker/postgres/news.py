"""What other processes say, and the keeper of the session finds, taken up for the queues that are consumed here."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from apps.broker.engine import Address
from apps.broker.postgres.handover import Handover
from apps.broker.postgres.names import Ready
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue

logger = logging.getLogger(__name__)


class Pen(Protocol):
    """Who writes."""

    def add(self, operation: Operation) -> None:
        """Write this with the next batch."""

    def wake(self) -> None:
        """Look soon whether there is something to claim."""

    def reload(self) -> None:
        """The catalogue has changed."""


class Keeper(Protocol):
    """Who keeps the session."""

    def look_for_due(self) -> None:
        """A delayed message was sent."""

    def others_changed(self) -> None:
        """Somebody came or went."""


class News:
    """Takes up what is said.

    Args:
        queues: all that this process knows.
        consumed: those with local subscriptions.
        by_id: those that have an id and are, or were, consumed.
    """

    def __init__(
        self,
        queues: Mapping[Address, Queue],
        consumed: Mapping[Address, Queue],
        by_id: Mapping[int, Queue],
        pen: Pen,
        keeper: Keeper,
        handover: Handover,
    ) -> None:
        self._queues = queues
        self._consumed = consumed
        self._by_id = by_id
        self._pen = pen
        self._keeper = keeper
        self._handover = handover

    def ready(self, found: Sequence[Ready] | None) -> None:
        """Something became ready. None: anywhere."""
        if found is None:
            for queue in self._consumed.values():
                queue.heard = 0
                self._handover.lower(queue)
        else:
            for one in found:
                known = self._by_id.get(one.queue)
                if known is not None:
                    known.heard = min(known.heard, one.first)
                    self._handover.lower(known, one.first)
                    self._handover.make_way(known, one.priority)
                    if one.grouped:
                        known.expect_groups()
                        self._handover.recall(known)
        self._pen.wake()

    def found(self, found: Sequence[Ready]) -> None:
        """The keeper found something, told or not."""
        for one in found:
            queue = self._by_id.get(one.queue)
            if queue is not None and queue.barred and queue.ranks.left_lying(one.first, queue.rank()[1]):
                logger.info("others leave messages of %s lying; they are asked whether they have credit", queue.address)
                self._pen.add(Operation(ranks=(queue,)))
        self.ready(found)

    def sessions_changed(self, what: str) -> None:
        """Another process says that something changed: the catalogue, when the next message is due, or who is there."""
        if what == "catalogue":
            self._pen.reload()
        elif what == "due":
            self._keeper.look_for_due()
        elif what.startswith("share:"):
            known = self._by_id.get(int(what[6:]))
            if known is not None:
                self.share(known)
        elif what.startswith("ranks:"):
            known = self._by_id.get(int(what[6:]))
            if known is not None:
                known.ranks.stale = True
                self._pen.wake()
        elif what.startswith("bid:"):
            identifier, session, bid = map(int, what[4:].split(":"))
            known = self._by_id.get(identifier)
            if known is not None:
                known.ranks.hear(session, bid)
                self._pen.wake()
        else:
            for queue in self._queues.values():
                queue.ranks.stale = queue.ranks.stale or queue.ranks.mixed
                self._handover.lower(queue)  # who died may have held what comes before all that we look at
            self._pen.wake()
            self._keeper.others_changed()

    def share(self, queue: Queue) -> None:
        """Another process wants to consume what this one may consume alone, or would not be heard if it did."""
        if queue.owned or not (queue.alone or queue.joining):
            return
        queue.shares += 1
        queue.alone = False
        self._handover.recall(queue)
        self._pen.add(Operation(shares=(queue,)))
