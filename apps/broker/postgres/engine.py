"""The engine on Postgres: the verbs of the Engine protocol, and the local side of queues and topics."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from apps.broker.engine import (
    REPLY_PREFIX,
    Address,
    Consumer,
    Delivery,
    Done,
    Message,
    MessageId,
    SessionId,
    Subscription,
    Unit,
)
from apps.broker.postgres.batch import Operation
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.listener import Listener
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.sessions import SessionKeeper
from apps.broker.postgres.topics import Topics
from apps.broker.postgres.writer import Writer
from msgweb.errors import NotFound

logger = logging.getLogger(__name__)

MESSAGE_OVERHEAD = 200  # bytes of memory that a waiting operation costs beside its body


class PostgresEngine:
    """An `apps.broker.engine.Engine` over three connections: writer, lease, listener.

    Args:
        conninfo: libpq connection string.
        kind: `gateway`, `worker` or `web`; the console shows it.
        lease_seconds: after how long a silent process counts as dead.
        details: what the console shows of this process, such as its listeners or slots. May be changed later.
        process: how the application_name of each of the process's connections ends, its own beside the engine's (they
            begin with `msgweb `): whoever buries the session ends them all. Unique; made up if not given.
    """

    capabilities: frozenset[str] = frozenset({"priority", "transactions", "reply-queues"})

    def __init__(
        self,
        conninfo: str,
        kind: str = "gateway",
        lease_seconds: float = 15.0,
        details: dict[str, Any] | None = None,
        process: str | None = None,
    ) -> None:
        self._process = process or new_process_name()
        self.details = dict(details or {})
        self._queues: dict[Address, Queue] = {}
        self._by_id: dict[int, Queue] = {}
        self._consumed: dict[Address, Queue] = {}  # the queues with local subscriptions
        self._fresh: list[Queue] = []  # to be resolved
        self._awaiting: list[tuple[Queue, Done]] = []  # subscriptions and reply queues that wait for that
        self._topics = Topics()
        self._topic_queues: dict[Address, Queue] = {}  # the rows of topics in the catalogue
        self._conninfo = conninfo
        self._kind = kind
        self._lease = lease_seconds
        self._started = False
        self._serving = False

    # -- life

    async def start(self) -> None:
        """Connect, open a session, listen.

        Raises:
            Unavailable: the database does not answer, or its migrations are missing.
        """
        self._loop = asyncio.get_running_loop()
        self._keeper = SessionKeeper(
            self._conninfo,
            self._kind,
            self._lease,
            self._process,
            details=self._details,
            ready_ids=lambda: [q.id for q in self._consumed.values() if q.id and not q.waiting and q.capacity()],
            found_ready=self._ready,
            lost=self.session_lost,
        )
        self._writer = Writer(self._conninfo, f"msgweb {self._kind} writer {self._process}", self)
        self._keeper.settled_batch = lambda: self._writer.settled_batch
        self._listener = Listener(
            self._conninfo,
            f"msgweb {self._kind} listener {self._process}",
            own=lambda: (self._keeper.session, self._writer.backend_pid),
            ready=self._ready,
            published=self._topics.deliver,
            sessions_changed=self._keeper.others_changed,
        )
        try:
            await self._listener.start()
            await self._keeper.open()
            await self._writer.start()
        except BaseException:
            await self.close()
            raise
        self._started = True

    async def close(self) -> None:
        """Finish what was asked for, release what is held, end the session."""
        self._started = False
        for queue in self._consumed.values():
            for subscription in queue.subscriptions:
                subscription.closed = True
            queue.subscriptions.clear()
        self._consumed.clear()
        await self._writer.close()
        await self._listener.close()
        await self._keeper.close()

    def serve(self) -> None:
        """This process is ready for its users: `/readyz` counts it from now on."""
        self._serving = True
        self._keeper.look()

    @property
    def session(self) -> SessionId:
        """Under which this process holds messages."""
        return self._keeper.session

    @property
    def peers(self) -> bool:
        """Whether other sessions exist."""
        return self._keeper.peers

    @property
    def healthy(self) -> bool:
        """Whether the database answers."""
        return self._started and self._writer.healthy

    @property
    def congested(self) -> bool:
        """Whether senders should be paused."""
        return self._writer.congested

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once, when no longer congested."""
        self._writer.when_relieved(callback)

    # -- verbs

    def send(self, message: Message, done: Done | None = None) -> None:
        """Send to a queue or a topic."""
        if message.address.kind == "topic":
            self._know_topic(message.address)
            self._topics.deliver(message)
            self._writer.publish(message)
            if done is not None:
                self._loop.call_soon(done, None)
            return
        self._writer.add(Operation((message,), done=done, size=len(message.body) + MESSAGE_OVERHEAD))

    def subscribe(self, address: Address, consumer: Consumer, credit: int, done: Done | None = None) -> Subscription:
        """Receive from a queue or a topic."""
        subscription = Subscription(address, consumer, credit)
        if address.kind == "topic":
            self._know_topic(address)
            self._topics.add(subscription)
            if done is not None:
                self._loop.call_soon(done, None)
        else:
            queue = self.queue(address)
            queue.subscriptions.append(subscription)
            queue.waiting = True
            self._consumed[address] = queue
            self._await_id(queue, done)
        self._keeper.look()
        return subscription

    def unsubscribe(self, subscription: Subscription, done: Done | None = None) -> None:
        """Stop receiving and release what is held."""
        if subscription.closed:
            if done is not None:
                self._loop.call_soon(done, None)
            return
        subscription.closed = True
        if subscription.address.kind == "topic":
            self._topics.remove(subscription)
            if done is not None:
                self._loop.call_soon(done, None)
            return
        queue = self.queue(subscription.address)
        queue.subscriptions.remove(subscription)
        if not queue.subscriptions:
            self._consumed.pop(queue.address, None)
        held = list(subscription.held)
        subscription.held.clear()
        if held:
            queue.waiting = True
            self._writer.touch(queue)
        if held or done is not None:
            self._writer.add(Operation(releases=held, session=self._keeper.session if held else 0, done=done))

    def set_credit(self, subscription: Subscription, credit: int) -> None:
        """Allow more or fewer unacked messages."""
        more = credit > subscription.credit
        subscription.credit = credit
        if more:
            self._writer.wake()

    def ack(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The messages are dealt with."""
        held = subscription.held
        if not _holds(subscription, ids):
            self._unknown_ids(done)
            return
        acks = [(message_id, held.pop(message_id)) for message_id in ids]
        self._writer.add(Operation(acks=acks, session=self._keeper.session, done=done))

    def nack(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The consumer refuses the messages: back to their place."""
        if not self._let_go(subscription, ids):
            self._unknown_ids(done)
            return
        self._writer.add(Operation(releases=list(ids), session=self._keeper.session, done=done))

    def transact(self, unit: Unit, done: Done | None = None) -> None:
        """Take effect together or not at all."""
        named = [*unit.acks, *unit.nacks]
        every = [message_id for _, ids in named for message_id in ids]
        if len(set(every)) < len(every) or not all(_holds(subscription, ids) for subscription, ids in named):
            self._unknown_ids(done)
            return
        acks = [(i, subscription.held.pop(i)) for subscription, ids in unit.acks for i in ids]
        releases: list[MessageId] = []
        for subscription, ids in unit.nacks:
            self._let_go(subscription, ids)
            releases.extend(ids)
        for message in unit.sends:
            if message.address.kind == "topic":
                self._know_topic(message.address)
        size = sum(len(message.body) + MESSAGE_OVERHEAD for message in unit.sends)
        session = self._keeper.session if named else 0
        self._writer.add(Operation(unit.sends, acks, releases, session, done=done, size=size, unit=True))

    def open_reply_queue(self, namespace: str, name: str, done: Done | None = None) -> Address:
        """A queue for replies that ends with this session or with `close_reply_queue`."""
        address = Address(namespace, "queue", REPLY_PREFIX + name)
        if address not in self._queues:
            self._queues[address] = Queue(address, owned=True)
        self._await_id(self._queues[address], done)
        return address

    def close_reply_queue(self, address: Address) -> None:
        """End a reply queue and what waits in it."""
        queue = self._queues.pop(address, None)
        if queue is None or not queue.owned:
            return
        self._consumed.pop(address, None)
        for subscription in queue.subscriptions:
            subscription.closed = True
        if queue.id:
            self._by_id.pop(queue.id, None)
            self._writer.add(Operation(closes=(queue.id,)))

    # -- for the writer

    def queue(self, address: Address) -> Queue:
        """The local side of a queue, made when it is named first."""
        queue = self._queues.get(address)
        if queue is None:
            queue = self._queues[address] = Queue(address)
        return queue

    def forget(self, queue: Queue) -> None:
        """A queue that need not be remembered, unless somebody here consumes it."""
        if not queue.subscriptions:
            self._queues.pop(queue.address, None)

    def unresolved(self) -> list[Queue]:
        """Queues, reply queues and topics that are to get an id."""
        return [queue for queue in self._fresh if queue.id is None]

    def resolved(self) -> None:
        """Ids have come: tell those who waited for them."""
        for queue in self._fresh:
            if queue.owned and queue.id and queue.id > 0 and self._queues.get(queue.address) is not queue:
                self._writer.add(Operation(closes=(queue.id,)))  # closed while it was being opened
        self._fresh = [queue for queue in self._fresh if queue.id is None]
        awaiting, self._awaiting = self._awaiting, []
        for queue, done in awaiting:
            if queue.id is None:
                self._awaiting.append((queue, done))
            elif queue.id == -1:
                guarded(done, NotFound(f"{queue.address} cannot be in a namespace {queue.address.namespace!r}"))
            else:
                self._by_id[queue.id] = queue
                guarded(done, None)
        for queue in self._consumed.values():
            if queue.id:
                self._by_id[queue.id] = queue

    def claimable(self) -> list[tuple[Queue, int]]:
        """Where something may wait and somebody here could take it: the queues, and how many to claim."""
        return [
            (queue, limit)
            for queue in self._consumed.values()
            if queue.waiting and queue.id and queue.id > 0 and (limit := queue.claim_limit())
        ]

    def spread(self, queue: Queue, deliveries: list[Delivery]) -> list[MessageId]:
        """Deliver; returns the ids of what nobody could take."""
        if not queue.subscriptions:
            return [delivery.id for delivery in deliveries]
        return [delivery.id for delivery in queue.distribute(deliveries)]

    def publish_locally(self, message: Message) -> None:
        """Hand a committed topic message to the subscribers in this process."""
        self._topics.deliver(message)

    def held(self) -> set[MessageId]:
        """Every message that this process knows to hold."""
        return {i for queue in self._consumed.values() for s in queue.subscriptions for i in s.held}

    async def session_lost(self, before: SessionId) -> None:
        """Void what is held and open another session, unless that has been done: writer and keeper both notice.

        Raises:
            Unavailable: the database does not answer.
        """
        if not await self._keeper.succeed(before):
            return
        logger.warning("session %s is lost; this process goes on as session %s", before, self._keeper.session)
        for queue in list(self._consumed.values()):
            queue.waiting = True
            for subscription in list(queue.subscriptions):
                subscription.held.clear()
                guarded(subscription.consumer.lost, subscription)
        for queue in self._queues.values():
            if queue.owned:
                queue.id = None
                self._fresh.append(queue)
        self._writer.wake()

    # -- inside

    def _await_id(self, queue: Queue, done: Done | None) -> None:
        if queue.id is None and queue not in self._fresh:
            self._fresh.append(queue)
        if done is not None or queue.id is None:
            self._awaiting.append((queue, done or _nobody))
        if queue.id is not None:
            self._by_id[queue.id] = queue
            self._loop.call_soon(self.resolved)
        self._writer.wake()

    def _know_topic(self, address: Address) -> None:
        """A topic's row, for the catalogue; nothing waits for it."""
        if address not in self._topic_queues:
            self._topic_queues[address] = Queue(address)
            self._fresh.append(self._topic_queues[address])
            self._writer.wake()

    def _let_go(self, subscription: Subscription, ids: Sequence[MessageId]) -> bool:
        if not _holds(subscription, ids):
            return False
        for message_id in ids:
            del subscription.held[message_id]
        queue = self.queue(subscription.address)
        queue.waiting = True
        self._writer.touch(queue)
        return True

    def _unknown_ids(self, done: Done | None) -> None:
        if done is not None:
            self._loop.call_soon(done, NotFound("the subscription does not hold such a message"))

    def _ready(self, ids: list[int] | None) -> None:
        """Something became ready in these queues (None: perhaps in any)."""
        queues = self._consumed.values() if ids is None else [self._by_id[i] for i in ids if i in self._by_id]
        for queue in queues:
            queue.waiting = True
        if queues:
            self._writer.wake()

    def _details(self) -> dict[str, Any]:
        consumers = {str(q.id): len(q.subscriptions) for q in self._consumed.values() if q.id}
        for address, count in self._topics.counts():
            queue = self._topic_queues.get(address)
            if queue and queue.id:
                consumers[str(queue.id)] = count
        return {**self.details, "consumers": consumers, "serving": self._serving}


def new_process_name() -> str:
    """A name for `PostgresEngine(process=...)`."""
    return uuid.uuid4().hex[:12]


def _holds(subscription: Subscription, ids: Sequence[MessageId]) -> bool:
    """Whether it holds each of the messages, and none is named twice."""
    held = subscription.held
    return all(message_id in held for message_id in ids) and (len(ids) < 2 or len(set(ids)) == len(ids))


def _nobody(error: Any) -> None:
    """Nobody waits for this."""
