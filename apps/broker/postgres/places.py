"""The queues and topics that this process knows: how they come by their ids, and what becomes of them."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from apps.broker.engine import REPLY_PREFIX, Address, Done, Message, MessageId
from apps.broker.headers import escape_header
from apps.broker.postgres.bindings import Bindings
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.handover import Handover
from apps.broker.postgres.names import Described
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.statistics import Counts
from apps.broker.postgres.topics import Topics
from msgweb.errors import NotFound


class Pen(Protocol):
    """Who writes."""

    def add(self, operation: Operation) -> None:
        """Write this with the next batch."""

    def wake(self) -> None:
        """Look soon whether there is something to do."""


class Places:
    """Queues and topics, by name and by id.

    Attributes:
        queues: all that are known.
        by_id: those that have an id and are, or were, consumed.
        consumed: those with local subscriptions.
        topics: the rows of topics in the catalogue.
        version: the state of the catalogue that is known.
    """

    def __init__(self, pen: Pen, handover: Handover, subscribers: Topics) -> None:
        self._pen = pen
        self._handover = handover
        self._subscribers = subscribers
        self._loop = asyncio.get_running_loop()
        self.queues: dict[Address, Queue] = {}
        self.by_id: dict[int, Queue] = {}
        self.consumed: dict[Address, Queue] = {}
        self.topics: dict[Address, Queue] = {}
        self.version = 0
        self._bindings = Bindings()
        self._fresh: list[Queue] = []  # to be resolved
        self._awaiting: list[tuple[Queue, Done]] = []  # subscriptions and reply queues that wait for that

    def queue(self, address: Address) -> Queue:
        """The local side of a queue, made when it is named first."""
        queue = self.queues.get(address)
        if queue is None:
            queue = self.queues[address] = Queue(address)
        return queue

    def forget(self, queue: Queue) -> None:
        """A queue that need not be remembered, unless somebody here consumes it."""
        if not queue.subscriptions:
            self.queues.pop(queue.address, None)

    def topic(self, address: Address) -> Queue:
        """A topic's row, for the catalogue; nothing waits for it."""
        known = self.topics.get(address)
        if known is None:
            known = self.topics[address] = Queue(address)
            self._fresh.append(known)
            self._pen.wake()
        return known

    def open_reply_queue(self, namespace: str, name: str, done: Done | None) -> Address:
        """A queue for replies that ends with the session or with `close_reply_queue`."""
        address = Address(namespace, "queue", REPLY_PREFIX + name)
        if address not in self.queues:
            self.queues[address] = Queue(address, owned=True)
        self.await_id(self.queues[address], done)
        return address

    def close_reply_queue(self, address: Address) -> None:
        """End a reply queue and what waits in it."""
        queue = self.queues.pop(address, None)
        if queue is None or not queue.owned:
            return
        self.consumed.pop(address, None)
        for subscription in queue.subscriptions:
            subscription.closed = True
        queue.subscriptions.clear()  # nothing is handed over any more
        if queue.id:
            self.by_id.pop(queue.id, None)
            self._pen.add(Operation(closes=(queue.id,)))

    def close(self) -> None:
        """Nobody consumes any more: what is claimed ahead goes back."""
        for queue in self.consumed.values():
            self._handover.recall(queue)
            for subscription in queue.subscriptions:
                subscription.closed = True
            queue.subscriptions.clear()
        self.consumed.clear()

    def void(self) -> None:
        """The session is another one: nothing is held any more, and reply queues are to be opened anew."""
        for queue in list(self.consumed.values()):
            queue.lower()
            queue.ahead.empty()
            queue.active = False
            for subscription in list(queue.subscriptions):
                subscription.held.clear()
                guarded(subscription.consumer.lost, subscription)
        for queue in self.queues.values():
            queue.part()
            if queue.owned:
                queue.id = None
                self._fresh.append(queue)

    # -- ids

    def await_id(self, queue: Queue, done: Done | None) -> None:
        """See that it gets an id; `done` is called when it has."""
        if queue.id is None and queue not in self._fresh:
            self._fresh.append(queue)
        if done is not None or queue.id is None:
            self._awaiting.append((queue, done or _nobody))
        if queue.id is not None:
            self.by_id[queue.id] = queue
            self._loop.call_soon(self.resolved)
        self._pen.wake()

    def unresolved(self) -> list[Queue]:
        """Queues, reply queues and topics that are to get an id."""
        return [queue for queue in self._fresh if queue.id is None]

    def resolved(self) -> None:
        """Ids have come: tell those who waited for them."""
        for queue in self._fresh:
            if queue.owned and queue.id and queue.id > 0 and self.queues.get(queue.address) is not queue:
                self._pen.add(Operation(closes=(queue.id,)))  # closed while it was being opened
        self._fresh = [queue for queue in self._fresh if queue.id is None]
        awaiting, self._awaiting = self._awaiting, []
        for queue, done in awaiting:
            if queue.id is None:
                self._awaiting.append((queue, done))
            elif queue.id == -1:
                guarded(done, NotFound(f"{queue.address} cannot be in a namespace {queue.address.namespace!r}"))
            else:
                self.by_id[queue.id] = queue
                guarded(done, None)
        for queue in self.consumed.values():
            if queue.id:
                self.by_id[queue.id] = queue

    # -- the catalogue

    def known_ids(self) -> list[int]:
        """The queues whose settings are known."""
        return [queue.id for queue in self.queues.values() if queue.id and queue.id > 0 and not queue.owned]

    def relearn(self, version: int, described: dict[int, Described], bindings: list[tuple[str, str, str]]) -> None:
        """The catalogue as it is now. A queue that is gone is made anew if somebody here consumes it."""
        self.version = version
        self._bindings.load(bindings)
        for queue in list(self.queues.values()):
            if queue.owned or not queue.id or queue.id < 0:
                continue
            if queue.id in described:
                queue.settle(described[queue.id])
                self.tell_rank(queue)
                if not queue.reads_ahead:
                    self._handover.recall(queue)
                continue
            self._handover.recall(queue)
            self.by_id.pop(queue.id, None)
            queue.id = None
            queue.active = False
            queue.part()
            queue.lower()
            if queue.subscriptions:
                self.await_id(queue, None)
            else:
                self.queues.pop(queue.address, None)

    def bound(self, namespace: str, pattern: str, queue: str) -> None:
        """From now on the queue gets what is sent to these topics."""
        self._bindings.add(namespace, pattern, queue)

    def unbound(self, namespace: str, queue: str) -> None:
        """The queue gets nothing from topics any more."""
        self._bindings.drop(namespace, queue)

    def copies(self, message: Message) -> list[Message]:
        """A topic's message for each of the queues that are bound to the topic."""
        address = message.address
        bound = self._bindings.queues_for(address.namespace, address.name)
        if not bound:
            return []
        headers = message.headers
        if not headers.startswith(b"destination:"):
            headers = b"destination:%b\n%b" % (escape_header(str(address)), headers)
        return [
            Message(queue, message.body, headers, message.persistent, message.priority, message.options)
            for queue in bound
        ]

    def with_copies(self, messages: Sequence[Message]) -> list[Message]:
        """A unit's messages, and behind each that goes to a topic the copies for the queues that are bound to that."""
        return [
            one
            for message in messages
            for one in (message, *(self.copies(message) if message.address.kind == "topic" else ()))
        ]

    # -- those that are consumed

    @property
    def consumes(self) -> bool:
        """Whether anybody here consumes from a queue."""
        return bool(self.consumed)

    def consumers(self) -> dict[str, int]:
        """How many consumers the queues and topics have here, by their ids as JSON has them."""
        found = {str(queue.id): len(queue.subscriptions) for queue in self.consumed.values() if queue.id}
        for address, count in self._subscribers.counts():
            queue = self.topics.get(address)
            if queue and queue.id:
                found[str(queue.id)] = count
        return found

    def lower(self, message_id: MessageId) -> list[Queue]:
        """Something becomes ready from this id on, in any of the queues that are consumed here: those."""
        consumed = list(self.consumed.values())
        for queue in consumed:
            self._handover.lower(queue, message_id)
        return consumed

    def held(self) -> set[MessageId]:
        """Every message that this process knows to hold."""
        known = {i for queue in self.consumed.values() for s in queue.subscriptions for i in s.held}
        return known.union(*(queue.ahead.ids() for queue in self.consumed.values()))

    def tell_rank(self, queue: Queue) -> None:
        """Tell the others if the priorities of the consumers here have changed."""
        if queue.joined and not queue.owned and queue.ranks.told not in (None, queue.rank()):
            self._pen.add(Operation(ranks=(queue,)))

    def renewed(self, *, alone: bool) -> None:
        """The lease was renewed: give up what is consumed no longer, and ask again where others may have gone.

        Args:
            alone: there is no other process.
        """
        parts = []
        for queue in self.queues.values():
            if queue.joined and not queue.owned and queue.id and not queue.subscriptions:
                queue.part()
                parts.append(queue.id)
            elif queue.joined and not queue.alone and alone:
                queue.joined = False
                queue.waiting = True
        if parts:
            self._pen.add(Operation(parts=parts))

    def used(self) -> Iterator[tuple[int, Counts]]:
        """What was counted at queues and topics that have an id."""
        for queue in self.queues.values():
            if queue.id and queue.id > 0 and not queue.owned:
                yield queue.id, queue.counts
        for address in self._subscribers.uncounted():
            self.topic(address)  # sent to elsewhere, and subscribed to by a pattern here: counted once it has an id
        for address, queue in self.topics.items():
            if queue.id and queue.id > 0:
                self._subscribers.count(address, queue.counts)
                yield queue.id, queue.counts


def _nobody(error: Any) -> None:
    """Nobody waits for this."""
