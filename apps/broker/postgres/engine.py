"""The engine on Postgres: the verbs of the Engine protocol, and the local side of queues and topics."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from apps.broker import patterns
from apps.broker.engine import (
    AGAIN,
    Address,
    Companion,
    Consumer,
    Done,
    Message,
    MessageId,
    Refusal,
    Selector,
    SessionId,
    Subscription,
    Unit,
)
from apps.broker.horizon import LIMIT_SECONDS, Horizon
from apps.broker.postgres.batch import Claimable
from apps.broker.postgres.demand import Demand
from apps.broker.postgres.handover import Handover
from apps.broker.postgres.listener import Listener
from apps.broker.postgres.names import Ready
from apps.broker.postgres.news import News
from apps.broker.postgres.operations import PERSISTENT, SPECIAL, TRANSIENT, Operation
from apps.broker.postgres.places import Places
from apps.broker.postgres.pooling import refuse_pooled
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.sessions import SessionKeeper
from apps.broker.postgres.statistics import StatisticsWriter
from apps.broker.postgres.topics import Topics
from apps.broker.postgres.writer import Writer
from msgweb.errors import BadDestination, NotFound

logger = logging.getLogger(__name__)

MESSAGE_OVERHEAD = 200  # bytes of memory that a waiting operation costs beside its body


class PostgresEngine:
    """An `apps.broker.engine.Engine` over three connections: writer, lease, listener.

    Args:
        conninfo: libpq connection string.
        kind: `gateway`, `worker` or `web`; the console shows it.
        lease_seconds: after how long a silent process counts as dead.
        details: what the console shows of this process, such as its listeners or slots. May be changed later.
        horizon_seconds: who pins the horizon of transactions for longer is told of (`apps.broker.horizon`).
        process: how the application_name of each of the process's connections ends, its own beside the engine's (they
            begin with `msgweb `): whoever buries the session ends them all. Unique; made up if not given.
    """

    capabilities: frozenset[str] = frozenset(
        {
            "channels",
            "companions",
            "consumer-priority",
            "dead-letters",
            "deduplication",
            "delay",
            "durable-topics",
            "exclusive",
            "groups",
            "limits",
            "priority",
            "repeat",
            "reply-queues",
            "retention",
            "selectors",
            "topic-wildcards",
            "transactions",
            "ttl",
        }
    )

    places: Places
    _keeper: SessionKeeper

    def __init__(
        self,
        conninfo: str,
        kind: str = "gateway",
        lease_seconds: float = 15.0,
        details: dict[str, Any] | None = None,
        process: str | None = None,
        horizon_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self._process = process or new_process_name()
        self.details = dict(details or {})
        self._topics = Topics()
        self._conninfo = conninfo
        self._kind = kind
        self._lease = lease_seconds
        self._horizon_seconds = horizon_seconds
        self._started = False
        self._serving = False
        self.companion: Companion | None = None
        self._attended: dict[str, Callable[[str | None], None]] = {}

    # -- life

    def accompany(self, companion: Companion) -> None:
        """Run a statement along with each claim. Before `start`."""
        self.companion = companion

    def attend(self, channel: str, heard: Callable[[str | None], None]) -> None:
        """Hear what is notified on a further channel. Before `start`."""
        self._attended[channel] = heard

    async def start(self) -> None:
        """Connect, open a session, listen.

        Raises:
            Unavailable: the database does not answer, or its migrations are missing.
            PooledDatabase: a pooler lends sessions of the server out for a transaction each; nothing was left there.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._conninfo, f"msgweb {self._kind} writer {self._process}", self)
        self._listener = Listener(
            self._conninfo,
            f"msgweb {self._kind} listener {self._process}",
            own=lambda: (self._keeper.session, self._writer.backend_pid),
            ready=lambda found: self._news.ready(found),
            published=self._topics.deliver,
            sessions_changed=lambda what: self._news.sessions_changed(what),
            hearing_changed=self.tell,
            attended=self._attended,
        )
        self._keeper = SessionKeeper(
            self._conninfo,
            self._kind,
            self._lease,
            self._process,
            listener=self._listener,
            horizon_seconds=self._horizon_seconds,
            details=self._details,
            lanes=self._look,
            found_ready=lambda found: self._news.found(found),
            renewed=lambda: self.places.renewed(alone=not self._keeper.peers),
            lost=self.session_lost,
        )
        self._keeper.statistics = StatisticsWriter(lambda: self.places.used())
        self._keeper.settled_batch = lambda: self._writer.settled_batch
        self.handover = Handover(
            self._writer, self._listener, session=lambda: self._keeper.session, accompanied=lambda: self._keeper.peers
        )
        self.places = places = Places(self._writer, self.handover, self._topics)
        self._demand: Demand = Demand(
            places.consumed.values, self._writer, self._listener, self.handover, lambda queue: self._news.share(queue)
        )
        self._news: News = News(places.queues, places.consumed, places.by_id, self._writer, self._keeper, self.handover)
        try:
            await refuse_pooled(self._conninfo, f"msgweb {self._kind} probe {self._process}")
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
        self.places.close()
        await self._writer.close()
        await self._listener.close()
        await self._keeper.close()

    def serve(self) -> None:
        """This process is ready for its users: `/readyz` counts it from now on."""
        self._serving = True
        self._keeper.look()

    def tell(self) -> None:
        """What the console is to show of this process (`details`) has changed."""
        if self._started:
            self._keeper.look()

    @property
    def session(self) -> SessionId:
        """Under which this process holds messages."""
        return self._keeper.session

    @property
    def peers(self) -> bool:
        """Whether other sessions exist. One that hears nothing learns late of those that come."""
        return self._keeper.peers or self._listener.deaf

    @property
    def healthy(self) -> bool:
        """Whether the database answers."""
        return self._started and self._writer.healthy

    @property
    def polling(self) -> bool:
        """Whether what the others do is not heard, so that it polls."""
        return self._started and self._listener.deaf

    @property
    def horizon(self) -> Horizon:
        """Who pins the horizon of transactions, as of some seconds ago."""
        return self._keeper.horizon if self._started else Horizon()

    @property
    def congested(self) -> bool:
        """Whether senders should be paused."""
        return self._writer.congested

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once, when no longer congested."""
        self._writer.when_relieved(callback)

    # -- verbs

    def send(self, message: Message, done: Done | None = None, since: float = 0.0) -> None:
        """Send to a queue or a topic."""
        address = message.address
        if address.kind == "topic":
            if patterns.is_pattern(address.name):
                raise BadDestination(f"{address} is a pattern: it can be subscribed to, not sent to")
            self._send_to_topic(message, done)
            return
        operation = Operation((message,), done=done, since=since, size=len(message.body) + MESSAGE_OVERHEAD, plain=True)
        queue = self.places.queue(address)
        if queue.subscriptions:
            if message.options is None and queue.immediate and self.handover.hand_over(queue, operation):
                self._writer.add(operation)
                return
            queue.expect()
            self.handover.make_way(queue, message.priority)
        operation.unhanded = (queue,)
        queue.unwritten += 1
        self._writer.add(operation)

    def _send_to_topic(self, message: Message, done: Done | None) -> None:
        counts = self.places.topic(message.address).counts
        counts.sent += 1
        counts.sent_bytes += len(message.body) + len(message.headers)
        self._topics.deliver(message)
        self._writer.publish(message)
        copies = self.places.copies(message)
        if copies or self._listener.deaf:  # then a batch asks whether somebody has bound a queue meanwhile
            operation = Operation(
                copies,
                done=done,
                size=sum(len(copy.body) + MESSAGE_OVERHEAD for copy in copies),
                renew=partial(self.places.copies, message),
            )
            self.announce_sends(operation)
            self._writer.add(operation)
        elif done is not None:
            self._loop.call_soon(done, None)

    def subscribe(
        self,
        address: Address,
        consumer: Consumer,
        credit: int,
        done: Done | None = None,
        *,
        priority: int = 0,
        selector: Selector | None = None,
        exclusive: bool = False,
    ) -> Subscription:
        """Receive from a queue or a topic."""
        subscription = Subscription(address, consumer, credit, priority, selector)
        if address.kind == "topic":
            if not patterns.is_pattern(address.name):
                self.places.topic(address)
            self._topics.add(subscription)
            if done is not None:
                self._loop.call_soon(done, None)
        else:
            queue = self.places.queue(address)
            queue.add(subscription)
            self.places.tell_rank(queue)
            if queue.reads_ahead:
                self.handover.freed(queue)
            else:
                self.handover.recall(queue)
            self.places.consumed[address] = queue
            topic = patterns.virtual_topic_of(address.name)
            self.places.await_id(queue, None if topic else done)
            if exclusive:
                self._writer.add(Operation(exclusives=(queue,)))
            if topic is not None:
                self.bind(address._replace(kind="topic", name=topic), address, done)
        self._keeper.look()
        return subscription

    def bind(self, topic: Address, queue: Address, done: Done | None = None) -> None:
        """Let a queue get what is sent to a topic or a pattern of topics."""
        patterns.validate(topic.name)
        self._writer.add(Operation(binds=((topic.namespace, topic.name, queue.name),), done=done))

    def end_durable(self, queue: Address, done: Done | None = None) -> None:
        """A durable subscription ends: its queue goes, with what waits in it."""
        self._writer.add(Operation(ends=((queue.namespace, queue.name),), done=done))

    def unsubscribe(self, subscription: Subscription, done: Done | None = None, *, failed: bool = False) -> None:
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
        queue = self.places.queue(subscription.address)
        queue.remove(subscription)
        leaves: Sequence[int] = ()
        if queue.subscriptions:
            self.places.tell_rank(queue)
        else:
            self.places.consumed.pop(queue.address, None)
            if queue.ranks.heeded and queue.id:
                queue.part()
                self._writer.add(Operation(parts=(queue.id,)))
            if queue.active:
                queue.active = False
                leaves = (queue.id,) if queue.id else ()
        held = list(subscription.held)
        subscription.held.clear()
        rejects = [(held.pop(0), -1.0, False)] if held and failed else []
        if held or rejects or not queue.subscriptions:
            self.handover.recall(queue)
        if held or rejects:
            first = min([*held, *(one for one, _, _ in rejects)])
            queue.lower(first)
            self._writer.touch(queue, first)
        if held or rejects or leaves or done is not None:
            session = self._keeper.session if held or rejects else 0
            self._writer.add(Operation(releases=held, rejects=rejects, session=session, leaves=leaves, done=done))

    def set_credit(self, subscription: Subscription, credit: int) -> None:
        """Allow more or fewer unacked messages."""
        more = credit > subscription.credit
        subscription.credit = credit
        if more:
            self.handover.freed(self.places.queue(subscription.address))
            self._writer.wake()

    def ack(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The messages are dealt with."""
        held = subscription.held
        if not _holds(subscription, ids):
            self._unknown_ids(done)
            return
        queue = self.places.queues[subscription.address]
        queue.counts.acked += len(ids)
        self._writer.add(Operation(acks=_acks(queue, held, ids), session=self._keeper.session, done=done))
        self.handover.freed(queue)

    def nack(
        self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None, refusal: Refusal = AGAIN
    ) -> None:
        """The consumer refuses the messages."""
        if not _holds(subscription, ids):
            self._unknown_ids(done)
            return
        rejects = self._let_go(subscription, ids, refusal)
        self._writer.add(Operation(rejects=rejects, session=self._keeper.session, done=done))

    def release(self, subscription: Subscription, ids: Sequence[MessageId], done: Done | None = None) -> None:
        """The consumer gives messages back that it did nothing with."""
        if not _holds(subscription, ids):
            self._unknown_ids(done)
            return
        queue = self.places.queue(subscription.address)
        for message_id in ids:
            del subscription.held[message_id]
        first = min(ids, default=MessageId(0))
        self.handover.recall(queue)
        queue.lower(first)
        self._writer.touch(queue, first)
        self._writer.add(Operation(releases=list(ids), session=self._keeper.session, done=done))

    def transact(self, unit: Unit, done: Done | None = None) -> None:
        """Take effect together or not at all."""
        named = [*unit.acks, *((subscription, ids) for subscription, ids, _ in unit.nacks)]
        every = [message_id for _, ids in named for message_id in ids]
        if len(set(every)) < len(every) or not all(_holds(subscription, ids) for subscription, ids in named):
            self._unknown_ids(done)
            return
        acks: list[tuple[MessageId, int]] = []
        for subscription, ids in unit.acks:
            queue = self.places.queues[subscription.address]
            queue.counts.acked += len(ids)
            acks.extend(_acks(queue, subscription.held, ids))
            self.handover.freed(queue)
        rejects: list[tuple[MessageId, float, bool]] = []
        for subscription, ids, refusal in unit.nacks:
            rejects.extend(self._let_go(subscription, ids, refusal))
        sends = self.places.with_copies(unit.sends)
        for message in unit.sends:
            if message.address.kind == "topic":
                self.places.topic(message.address)
        size = sum(len(message.body) + MESSAGE_OVERHEAD for message in sends)
        session = self._keeper.session if named else 0
        renew = (
            partial(self.places.with_copies, unit.sends) if any(m.address.kind == "topic" for m in unit.sends) else None
        )
        operation = Operation(
            sends, acks=acks, rejects=rejects, session=session, done=done, size=size, unit=True, renew=renew
        )
        self.announce_sends(operation)
        self._writer.add(operation)

    def open_reply_queue(self, namespace: str, name: str, done: Done | None = None) -> Address:
        """A queue for replies that ends with this session or with `close_reply_queue`."""
        return self.places.open_reply_queue(namespace, name, done)

    def close_reply_queue(self, address: Address) -> None:
        """End a reply queue and what waits in it."""
        self.places.close_reply_queue(address)

    # -- for the writer

    def announce_sends(self, operation: Operation) -> None:
        """What an operation sends is on its way into these queues from now on, until it is done or refused."""
        operation.arrive()
        queues = []
        for message in operation.sends:
            if message.address.kind == "queue":
                queue = self.places.queue(message.address)
                queue.unwritten += 1
                queues.append(queue)
                self.handover.make_way(queue, message.priority)
        operation.unhanded = queues

    def claimable(self) -> Claimable:
        """Where something may wait and somebody here could take it: the queues, and how many to claim; and the
        selectors that have more to look at."""
        return self._demand.claimable()

    def wanting(self) -> bool:
        """Whether a consumer here waits for what may be claimed."""
        return self._demand.wanting()

    def hear(self) -> None:
        """Take what others have said until now."""
        self._listener.hear()

    def delayed(self) -> None:
        """A message waits for its time."""
        self._keeper.look_for_due()

    def became_ready(self, found: Sequence[Ready]) -> None:
        """By our own doing something became ready in these queues."""
        self._news.ready(found)

    def publish_locally(self, message: Message) -> None:
        """Hand a committed topic message to the subscribers in this process."""
        self._topics.deliver(message)

    async def session_lost(self, before: SessionId) -> None:
        """Void what is held and open another session, unless that has been done: writer and keeper both notice.

        Raises:
            Unavailable: the database does not answer.
        """
        if not await self._keeper.succeed(before):
            return
        logger.warning("session %s is lost; this process goes on as session %s", before, self._keeper.session)
        self.handover.forget_ids()
        self.places.void()
        self._writer.wake()

    # -- inside

    def _let_go(
        self, subscription: Subscription, ids: Sequence[MessageId], refusal: Refusal
    ) -> list[tuple[MessageId, float, bool]]:
        for message_id in ids:
            del subscription.held[message_id]
        queue = self.places.queue(subscription.address)
        self.handover.recall(queue)
        queue.counts.failed += len(ids)
        queue.lower(min(ids, default=MessageId(0)))
        self._writer.touch(queue, min(ids, default=MessageId(0)))
        delay = -1.0 if refusal.delay is None else refusal.delay
        return [(message_id, delay, refusal.dead_letter) for message_id in ids]

    def _unknown_ids(self, done: Done | None) -> None:
        if done is not None:
            self._loop.call_soon(done, NotFound("the subscription does not hold such a message"))

    def _look(self, thoroughly: bool) -> list[tuple[int, int, int]]:
        """Where the keeper is to look; see `Demand.idle_lanes`."""
        if self._listener.deaf:
            self._writer.reload()  # a change of the catalogue would not be heard
        return self._demand.idle_lanes(thoroughly)

    def _details(self) -> dict[str, Any]:
        told: dict[str, Any] = {"polling": self._listener.deaf}
        if alarming := self._keeper.horizon.alarming:
            told["horizon"] = [one.as_json() for one in alarming]
        return {**self.details, **told, "consumers": self.places.consumers(), "serving": self._serving}


def new_process_name() -> str:
    """A name for `PostgresEngine(process=...)`."""
    return uuid.uuid4().hex[:12]


def _acks(queue: Queue, held: dict[MessageId, bool], ids: Sequence[MessageId]) -> list[tuple[MessageId, int]]:
    """Take messages from what is held, to be deleted."""
    if queue.grouped or queue.keeps:
        for message_id in ids:
            del held[message_id]
        return [(message_id, SPECIAL) for message_id in ids]
    return [(message_id, PERSISTENT if held.pop(message_id) else TRANSIENT) for message_id in ids]


def _holds(subscription: Subscription, ids: Sequence[MessageId]) -> bool:
    """Whether it holds each of the messages, and none is named twice."""
    held = subscription.held
    return all(message_id in held for message_id in ids) and (len(ids) < 2 or len(set(ids)) == len(ids))
