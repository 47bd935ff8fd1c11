"""One client: its socket, its conversation, and what it has under way."""

import asyncio
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from apps.broker.engine import DEFAULT_PRIORITY, Address, Message, MessageId, Refusal
from apps.broker.headers import decode_headers
from apps.broker.patterns import is_pattern
from apps.stomp.gateway import features, wishes
from apps.stomp.gateway.destinations import (
    Job,
    Target,
    Task,
    Temporary,
    check_subscribable,
    parse_destination,
    written,
)
from apps.stomp.gateway.errors import BeatMissed, LoginTimeout, NotSupported, TooMany
from apps.stomp.gateway.ports import Credentials, Principal
from apps.stomp.gateway.receipts import Effect, Receipts
from apps.stomp.gateway.subscriptions import ClientSubscription
from apps.stomp.gateway.transactions import Transaction
from apps.stomp.gateway.wishes import NO_WISH, SubscriptionWish, Wish
from apps.stomp.protocol import encoder, heartbeat
from apps.stomp.protocol.connection import ServerConnection
from apps.stomp.protocol.errors import NotStomp, StompError
from apps.stomp.protocol.events import (
    Abort,
    Ack,
    Begin,
    Commit,
    Connect,
    Disconnect,
    Event,
    Nack,
    Send,
    SendHead,
    Subscribe,
    Unsubscribe,
    Violation,
)
from apps.stomp.protocol.headers import escape
from msgweb.errors import AccessRefused, BadDestination, MsgwebError, NotFound, SessionLost, Unavailable

if TYPE_CHECKING:
    from apps.stomp.gateway.server import Gateway

logger = logging.getLogger(__name__)


class SendPlan(NamedTuple):
    """What a SEND with certain headers means; made once for each head.

    Attributes:
        address: the queue or topic, or None for a door to jobs.
        headers: as they are stored.
        door: a task or a job, or None.
        wish: what the headers ask for besides, or None.
    """

    address: Address | None
    headers: bytes
    persistent: bool
    priority: int
    door: Task | Job | None
    wish: Wish | None

    def message(self, body: bytes) -> Message:
        """A message as it is sent now."""
        assert self.address is not None
        options = self.wish.now() if self.wish is not None else None
        return Message(self.address, body, self.headers, self.persistent, self.priority, options)


class ReplyQueue(NamedTuple):
    """What `/temp-queue/x` is on this connection."""

    address: Address
    subscriptions: list[ClientSubscription]


class ClientConnection(asyncio.Protocol):
    """A TCP connection to a client.

    Attributes:
        principal: who it is; None before log-in.
        held: unacked messages, see `subscriptions.Outlet`.
    """

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._engine = gateway.engine
        self._options = gateway.options
        self._loop = gateway.loop
        self._core = ServerConnection(gateway.options.limits, gateway.options.heart_beat)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else is called
        self._out: list[bytes] = []
        self._receipts = Receipts(self._write, self._refuse)
        self._unconfirmed: Callable[[MsgwebError | None], None] = self._sent_without_receipt
        self._subscriptions: dict[str, ClientSubscription] = {}
        self._autos = 0
        self._written: list[ClientSubscription] = []  # with messages to be acked once they are written
        self._reply_queues: dict[str, ReplyQueue] = {}
        self._durable: dict[str, Address] = {}  # queues of durable subscriptions, by the subscription's id
        self._transactions: dict[str, Transaction] = {}
        self._errands: deque[tuple[Callable[[], Awaitable[object]], Callable[[MsgwebError | None], None]]] = deque()
        self._holds: set[str] = set()  # why the socket is not read
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending = False  # nothing more is read; the last frames go out
        self._half_closed = False  # by the client
        self._lost = False
        self._last_read = self._last_write = 0.0
        self._beats_expected = self._beats_promised = False
        self._opened = 0.0
        self._sent = 0
        self._since = 0.0  # of the log-in, for the engine
        self._reason = "closed by the client"
        self._peer = self._address = ""
        self.principal: Principal | None = None
        self.version = "1.0"
        self.held: dict[MessageId, ClientSubscription] = {}
        self.void: set[MessageId] = set()
        self.clogged = False
        self.delivered = 0

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has some seconds to log in."""
        self._transport = cast(asyncio.Transport, transport)
        self._opened = self._loop.time()
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) > 1 else "local"
        self._transport.set_write_buffer_limits(high=self._options.write_buffer)
        tcp = transport.get_extra_info("socket")
        if tcp is not None and tcp.family != socket.AF_UNIX:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._gateway.connections.add(self)
        seconds = self._options.login_seconds
        self._start_timer("login", seconds, lambda: self._fail(LoginTimeout(f"no CONNECT within {seconds:g} seconds")))

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ending:
            return
        if self._beats_expected:
            self._last_read = self._loop.time()
        self._handle(self._core.receive(data))
        if self._engine.congested and "congestion" not in self._holds:
            self._hold("congestion")
            self._engine.when_relieved(lambda: self._release_hold("congestion"))
        if self.clogged and self._transport.get_write_buffer_size() > self._options.receipt_buffer:
            self._hold("clogged")

    def eof_received(self) -> bool:
        """The client sends no more. What it asked for is finished, and confirmed if it still reads."""
        self._half_closed = True
        if self._receipts.waiting and not self._ending:
            self._receipts.settled(None, self._finish)
            return True
        self._flush()  # the transport closes on return, and takes nothing more
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone: release what it held, abort what it had begun."""
        if error is not None and not self._ending:
            self._reason = f"lost: {error}"
        self._lost = self._ending = True
        self._core.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._release(failed=True)
        self._out.clear()
        self._receipts.waiting.clear()
        self._gateway.forget(self)
        self._log()

    def pause_writing(self) -> None:
        """The client does not read: topics drop, queues bring nothing new, auto acks wait."""
        self.clogged = True
        for subscription in self._subscriptions.values():
            self._engine.set_credit(subscription.handle, 0)

    def resume_writing(self) -> None:
        """The client reads again."""
        self.clogged = False
        self._release_hold("clogged")
        if not self._gateway.draining:
            for subscription in self._subscriptions.values():
                self._engine.set_credit(subscription.handle, subscription.credit)
        self._confirm_written()

    # -- writing

    def write_all(self, frames: list[bytes]) -> None:
        """Frames for the client; they go out together at the end of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += frames

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out = self._out
        if not out or self._lost:
            return
        data = b"".join(out)
        out.clear()
        if self._beats_promised:
            self._last_write = self._loop.time()
        self._transport.write(data)
        if self._written and not self.clogged:
            self._confirm_written()

    def confirm_when_written(self, subscription: ClientSubscription) -> None:
        """See `subscriptions.Outlet`."""
        self._written.append(subscription)

    def _confirm_written(self) -> None:
        written, self._written = self._written, []
        for subscription in written:
            subscription.confirm()

    # -- reading

    def _handle(self, events: list[Event]) -> None:
        engine = self._engine
        for event in events:
            if self._ending:
                return
            try:
                if type(event) is Send:
                    head, receipt, body = event
                    plan: SendPlan | None = head.plan
                    if plan is None:
                        plan = self._plan(head)
                    self._sent += 1
                    if plan.address is None or head.transaction is not None:
                        self._send_otherwise(plan, event)
                        continue
                    done = self._unconfirmed if receipt is None else self._receipts.expect(receipt)
                    if plan.wish is None:
                        message = Message(plan.address, body, plan.headers, plan.persistent, plan.priority)
                    else:
                        message = plan.message(body)
                    engine.send(message, done, self._since)
                elif type(event) is Ack:
                    self._acknowledge(event.ids, event.transaction, event.receipt)
                else:
                    self._handle_other(event)
            except (MsgwebError, StompError) as error:
                self._refuse(error, event.receipt if not isinstance(event, Connect) else None)

    def _handle_other(self, event: Event) -> None:
        match event:
            case Connect():
                self._hold("log-in")
                self._start_task(self._enter(event))
            case Subscribe():
                self._subscribe(event)
            case Unsubscribe():
                self._unsubscribe(event)
            case Nack():
                self._acknowledge([event.id], event.transaction, event.receipt, wishes.refusal_of(event.headers))
            case Begin():
                self._begin(event)
            case Commit():
                self._commit(event)
            case Abort():
                self._transactions.pop(event.transaction).give_back()
                self._receipts.settled(event.receipt)
            case Disconnect():
                self._reason = "disconnected"
                self._release()
                self._receipts.settled(event.receipt, self._finish)
            case Violation():
                self._violation(event)
            case _:
                raise AssertionError(f"{event!r} is handled elsewhere")

    # -- log-in

    async def _enter(self, event: Connect) -> None:
        try:
            if not self._engine.healthy:
                raise Unavailable("the database is away; try again")
            credentials = Credentials(event.login, event.passcode, event.host, peer=self._address)
            principal = await self._gateway.authenticator.authenticate(credentials)
        except MsgwebError as error:
            self._fail(error)
            return
        if self._ending:
            return
        self._stop_timer("login")
        self.principal = principal
        self._since = time.monotonic()
        self.version = self._core.version
        self._write(self._core.accept(f"session-{secrets.token_hex(8)}", self._options.server))
        self._start_beats()
        try:
            self._handle(self._core.receive(b""))
        finally:
            self._release_hold("log-in")

    def _start_beats(self) -> None:
        beats = self._core.beats
        self._last_read = self._last_write = self._loop.time()
        if beats.from_client:
            self._beats_expected = True
            self._expect_beat(heartbeat.read_deadline(beats.from_client) / 1000)
        if beats.to_client:
            self._beats_promised = True
            self._beat(heartbeat.write_interval(beats.to_client) / 1000)

    def _expect_beat(self, seconds: float) -> None:
        now = self._loop.time()
        if self._holds:
            self._last_read = now  # it is us who do not read
        due = self._last_read + seconds
        if now >= due:
            self._fail(BeatMissed(f"nothing came for {seconds:g} seconds, and heart-beats were promised"))
        else:
            self._start_timer("expect", due - now, partial(self._expect_beat, seconds))

    def _beat(self, seconds: float) -> None:
        now = self._loop.time()
        if now >= self._last_write + seconds:
            self._last_write = now
            if not self._out:
                self._transport.write(encoder.BEAT)
        self._start_timer("beat", self._last_write + seconds - now, partial(self._beat, seconds))

    # -- SEND

    def _plan(self, head: SendHead) -> SendPlan:
        principal = self._principal()
        fields = head.fields
        features.check_send(fields)
        priority = features.priority_of(fields, DEFAULT_PRIORITY)
        target = parse_destination(principal.namespace, head.destination)
        headers = head.headers
        reply_to = fields.get(b"reply-to")
        temporary = type(target) is Temporary  # what such a name means changes when its subscription ends
        if reply_to is not None and reply_to.startswith(b"/temp-queue/"):
            temporary = True
            name = reply_to.removeprefix(b"/temp-queue/").decode()
            headers = _replaced(headers, b"reply-to", written(self._reply_queue(name, implied=True)).encode())
        address: Address | None = None
        door: Task | Job | None = None
        match target:
            case Task() | Job():
                if self._gateway.tasks is None:
                    raise NotSupported("this gateway has no door to jobs")
                door = target
            case Temporary():
                address = self._reply_queue(target.name)
            case _:
                address = target
        if address is not None and written(address) != head.destination:
            # MESSAGE has the destination as the SEND had it.
            headers = b"destination:%b\n%b" % (escape(head.destination, "1.2"), headers)
        if address is not None and address.kind == "topic" and is_pattern(address.name):
            raise BadDestination(f"{head.destination!r} is a pattern of topics: it can be subscribed to, not sent to")
        plan = SendPlan(address, headers, features.persistent_of(fields), priority, door, wishes.of_send(fields))
        if not temporary:
            head.plan = plan
        return plan

    def _send_otherwise(self, plan: SendPlan, event: Send) -> None:
        head, receipt, body = event
        if head.transaction is not None:
            if plan.address is None:
                raise NotSupported("jobs cannot be asked for in a transaction")
            self._transactions[head.transaction].add_send(plan.message(body), receipt)
            return
        principal = self._principal()
        tasks = self._gateway.tasks
        assert tasks is not None
        assert plan.door is not None
        headers = decode_headers(plan.headers)
        call: Callable[[], Awaitable[object]]
        if type(plan.door) is Task:
            call = partial(
                tasks.submit,
                namespace=principal.namespace,
                task=plan.door.name,
                body=body,
                headers=headers,
                reply_to=headers.get("reply-to"),
                requested_by=principal.login,
            )
        else:
            call = partial(
                tasks.job_event,
                namespace=principal.namespace,
                job_id=plan.door[0],
                body=body,
                headers=headers,
                requested_by=principal.login,
            )
        self._errands.append((call, self._unconfirmed if receipt is None else self._receipts.expect(receipt)))
        if len(self._errands) == 1:
            self._start_task(self._run_errands())
        elif len(self._errands) >= self._options.errands:
            self._hold("errands")

    async def _run_errands(self) -> None:
        """One after the other: what a worker says about a job must arrive in its order."""
        while self._errands:
            call, done = self._errands[0]
            try:
                await call()
            except MsgwebError as error:
                done(error)
            except Exception:
                logger.exception("a request for a job failed")
                done(MsgwebError("the request failed; the server's log says why"))
            else:
                done(None)
            self._errands.popleft()
            self._release_hold("errands")

    def _sent_without_receipt(self, error: MsgwebError | None) -> None:
        if error is not None:
            self._refuse(error, None)

    # -- SUBSCRIBE, UNSUBSCRIBE, reply queues

    def _subscribe(self, event: Subscribe) -> None:
        principal = self._principal()
        try:
            if len(self._subscriptions) >= self._options.subscriptions:
                raise TooMany(f"a connection has at most {self._options.subscriptions} subscriptions")
            target = parse_destination(principal.namespace, event.destination)
            address = self._readable(target)
            features.check(event.headers, features.SUBSCRIBE)
            topic = address.kind == "topic"
            if not topic:
                features.check(event.headers, features.SUBSCRIBE_QUEUE)
            wish = wishes.of_subscribe(event.headers)
            prefetch = features.prefetch_of(event.headers, self._options.prefetch, self._options.prefetch_limit)
            subject = address
            if topic:
                address = self._bound(address, event)
                topic = address.kind == "topic"
        except MsgwebError:
            self._core.drop_subscription(event.id)
            raise
        subscription = ClientSubscription(
            self,
            self._engine,
            self._gateway.topic_frames,
            address,
            event.id,
            event.ack,
            shown=event.named or self.version != "1.0",
        )
        if type(target) is Temporary:
            self._take_over(self._reply_queues[target.name], subscription)
        credit = self._options.auto_credit if subscription.auto or topic else prefetch
        done = self._unconfirmed if event.receipt is None else self._receipts.expect(event.receipt)
        if address is subject:
            self._add(subscription, address, credit, done, wish)
        else:
            self._add(subscription, address, credit, self._unconfirmed, wish)
            self._engine.bind(subject, address, done)

    def _bound(self, topic: Address, event: Subscribe) -> Address:
        """Where a subscription to a topic really receives: a durable one, from its queue."""
        owner = self._principal().login
        name = wishes.durable_name(event.headers, owner, event.id if event.named else None)
        if name is None:
            return topic
        queue = Address(topic.namespace, "queue", name)
        self._durable[event.id] = queue
        return queue

    def _add(
        self,
        subscription: ClientSubscription,
        address: Address,
        credit: int,
        done: Callable[[MsgwebError | None], None],
        wish: SubscriptionWish = NO_WISH,
    ) -> None:
        self._subscriptions[subscription.id] = subscription
        self._autos += subscription.auto
        subscription.credit = credit
        subscription.handle = self._engine.subscribe(
            address,
            subscription,
            0 if self.clogged else credit,
            done,
            priority=wish.priority,
            selector=wish.selector,
            exclusive=wish.exclusive and address.kind == "queue",
        )

    def _readable(self, target: Target) -> Address:
        match target:
            case Temporary():
                return self._reply_queue(target.name)
            case Task() | Job():
                raise BadDestination("jobs are asked for by SEND; there is nothing to receive")
        if target.kind == "queue" and written(target) != str(target):
            raise AccessRefused("a reply queue is received from by who made it, as /temp-queue/NAME")
        check_subscribable(target, self._engine.capabilities)
        return target

    def _unsubscribe(self, event: Unsubscribe) -> None:
        subscription = self._subscriptions.get(event.id)
        if subscription is None:
            raise NotFound(f"there is no subscription {event.id!r} on this connection")
        done = self._unconfirmed if event.receipt is None else self._receipts.expect(event.receipt)
        durable = self._durable.pop(event.id, None)
        if durable is not None and wishes.durable_name(event.headers, self._principal().login, event.id) is not None:
            self._remove(subscription, self._unconfirmed)
            self._engine.end_durable(durable, done)
            return
        self._remove(subscription, done)
        for name, queue in list(self._reply_queues.items()):
            if subscription in queue.subscriptions:
                queue.subscriptions.remove(subscription)
                if not queue.subscriptions:
                    del self._reply_queues[name]
                    self._engine.close_reply_queue(queue.address)

    def _remove(self, subscription: ClientSubscription, done: Callable[[MsgwebError | None], None]) -> None:
        del self._subscriptions[subscription.id]
        self._autos -= subscription.auto
        subscription.end()
        for transaction in self._transactions.values():
            transaction.drop(subscription)
        self._engine.unsubscribe(subscription.handle, done)

    def _reply_queue(self, name: str, *, implied: bool = False) -> Address:
        """`/temp-queue/<name>` of this connection, made when it is named first.

        Args:
            implied: it is named in `reply-to`, which implies an `ack:auto` subscription with the id
                `/temp-queue/<name>` where the client has none of its own (as RabbitMQ does).
        """
        queue = self._reply_queues.get(name)
        if queue is None:
            if len(self._reply_queues) >= self._options.subscriptions:
                raise TooMany(f"a connection has at most {self._options.subscriptions} reply queues")
            token = secrets.token_urlsafe(18)
            address = self._engine.open_reply_queue(self._principal().namespace, token, self._unconfirmed)
            queue = self._reply_queues[name] = ReplyQueue(address, [])
        identifier = f"/temp-queue/{name}"
        if implied and not queue.subscriptions and identifier not in self._subscriptions:
            subscription = ClientSubscription(
                self, self._engine, self._gateway.topic_frames, queue.address, identifier, "auto"
            )
            queue.subscriptions.append(subscription)
            self._core.add_subscription(identifier, identifier)
            self._add(subscription, queue.address, self._options.auto_credit, self._unconfirmed)
        return queue.address

    def _take_over(self, queue: ReplyQueue, subscription: ClientSubscription) -> None:
        """An explicit SUBSCRIBE takes the place of the implied subscription."""
        for other in list(queue.subscriptions):
            if other.id.startswith("/temp-queue/") and other.id != subscription.id:
                queue.subscriptions.remove(other)
                self._core.drop_subscription(other.id)
                self._remove(other, self._unconfirmed)
        queue.subscriptions.append(subscription)

    # -- ACK, NACK, transactions

    def _acknowledge(
        self, raw_ids: list[bytes], name: str | None, receipt: bytes | None, refusal: Refusal | None = None
    ) -> None:
        """ACK, or NACK with its refusal."""
        held = self.held
        taken: dict[ClientSubscription, list[MessageId]] = {}
        unknown: MsgwebError | None = None
        for raw in raw_ids:
            try:
                message_id = MessageId(int(raw))
                subscription = held[message_id]
            except (KeyError, ValueError):
                unknown = unknown or self._judge_unknown(raw)
                continue
            if subscription.cumulative:
                ids = subscription.take(message_id)
            else:
                del held[message_id]
                ids = [message_id]
            if subscription in taken:
                taken[subscription] += ids
            else:
                taken[subscription] = ids
        if name is not None:
            transaction = self._transactions[name]
            for subscription, ids in taken.items():
                transaction.add_acks(subscription, ids, receipt, refusal)
            if not taken and unknown is None and receipt is not None:
                transaction.receipts.append(receipt)
        elif taken:
            for subscription, ids in taken.items():  # more than one only in a run, which has no receipts
                done = None if receipt is None else self._confirm_ack(receipt)
                if refusal is None:
                    self._engine.ack(subscription.handle, ids, done)
                else:
                    self._engine.nack(subscription.handle, ids, done, refusal)
        elif unknown is None:
            self._receipts.settled(receipt)
        if unknown is not None:
            raise unknown

    def _confirm_ack(self, receipt: bytes) -> Callable[[MsgwebError | None], None]:
        effect = self._receipts.expect(receipt)
        return partial(_tolerating_loss, effect)

    def _judge_unknown(self, raw: bytes) -> MsgwebError | None:
        """What to say about an id that is not held: nothing, where the client cannot know better.

        It cannot when the session was fenced off meanwhile, when the message was a topic's, and when it acks what
        `ack:auto` has acked already, as some clients do.
        """
        if raw.isdigit() and len(raw) < 20:
            message_id = MessageId(int(raw))
            if message_id in self.void:
                self.void.discard(message_id)
                return None
        elif raw.startswith(self._gateway.topic_prefix):
            return None
        if self._autos:
            return None
        return NotFound(f"no unacknowledged message {raw[:40].decode(errors='replace')!r} is held by this connection")

    def taken_away(self, subscription: ClientSubscription) -> None:
        """A subscription's messages are held no longer: transactions that ack them cannot happen."""
        for transaction in self._transactions.values():
            transaction.drop(subscription)

    def _begin(self, event: Begin) -> None:
        if len(self._transactions) >= self._options.transactions:
            self._core.drop_transaction(event.transaction)
            raise TooMany(f"a connection has at most {self._options.transactions} open transactions")
        self._transactions[event.transaction] = Transaction(self._options)
        self._receipts.settled(event.receipt)

    def _commit(self, event: Commit) -> None:
        transaction = self._transactions.pop(event.transaction)
        if transaction.void:
            raise SessionLost("a message that this transaction acks is no longer held; nothing of it took effect")
        effects = [self._receipts.expect(receipt) for receipt in transaction.receipts]
        if event.receipt is not None:
            effects.append(self._receipts.expect(event.receipt))
        if not effects:
            self._engine.transact(transaction.unit(), self._unconfirmed)
            return
        self._engine.transact(transaction.unit(), partial(_settle_together, effects))

    # -- the end

    def _violation(self, event: Violation) -> None:
        error = event.error
        if isinstance(error, NotStomp):
            self._reason = error.code
            if error.answer:
                self._write(error.answer)
            self._finish()
        else:
            self._refuse(error, event.receipt, fatal=event.fatal)

    def _refuse(self, error: MsgwebError | StompError, receipt: bytes | None, fatal: bool = False) -> None:
        """ERROR. It ends the connection, except on 1.0 where the stream is sound: PECL's own tests need that."""
        if self._ending:
            return
        self._write(self._core.error(error.code, error.message, receipt))
        if fatal or self.version != "1.0" or self.principal is None:
            self._reason = error.code
            self._finish()

    def _fail(self, error: MsgwebError) -> None:
        self._refuse(error, None, fatal=True)

    def end(self, error: MsgwebError) -> None:
        """Say why, and close."""
        self._fail(error)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way that the client would want to finish."""
        return not (self.held or self._receipts.waiting or self._transactions or self._errands or self._holds)

    def stop_deliveries(self) -> None:
        """Bring nothing new: this process is about to end."""
        for subscription in self._subscriptions.values():
            self._engine.set_credit(subscription.handle, 0)

    def _finish(self) -> None:
        """Close so that the last frame arrives: half-close, then wait for the client, but not for long.

        Closing at once would reset the connection when something unread is in the socket, and a reset discards what
        the client has not read yet: the ERROR.
        """
        if self._ending:
            return
        self._ending = True
        self._core.close()
        self._receipts.waiting.clear()  # what is still under way has nobody to be confirmed to
        self._flush()
        self._release()
        for name in list(self._timers):
            self._stop_timer(name)
        for reason in list(self._holds):
            self._release_hold(reason)
        if self._transport.can_write_eof() and not (self._half_closed or self._transport.is_closing()):
            self._transport.write_eof()
            self._start_timer("linger", self._options.linger_seconds, self._transport.abort)
        else:
            self._transport.close()

    def _release(self, *, failed: bool = False) -> None:
        """Give everything back that the engine holds for this connection.

        Args:
            failed: the client has gone without a word: what it worked on counts as a failed delivery.
        """
        for transaction in self._transactions.values():
            transaction.give_back()
        self._transactions.clear()
        for subscription in list(self._subscriptions.values()):
            subscription.end()
            self._engine.unsubscribe(subscription.handle, failed=failed and not subscription.auto)
        self._subscriptions.clear()
        self._durable.clear()
        self._written.clear()
        self._autos = 0
        for queue in self._reply_queues.values():
            self._engine.close_reply_queue(queue.address)
        self._reply_queues.clear()

    def _log(self) -> None:
        """One line a connection. Never the passcode: only what is named here is written."""
        principal = self.principal
        logger.info(
            "connection peer=%s login=%s namespace=%s version=%s seconds=%.1f sent=%d delivered=%d reason=%r",
            self._peer,
            principal.login if principal else "-",
            principal.namespace if principal else "-",
            self._core.version,
            self._loop.time() - self._opened,
            self._sent,
            self.delivered,
            self._reason,
        )

    # -- small parts

    def _principal(self) -> Principal:
        principal = self.principal
        assert principal is not None, "the core lets nothing through before CONNECT"
        return principal

    def _hold(self, reason: str) -> None:
        """Read the socket no more, until the reason is gone."""
        if not self._holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self._holds.add(reason)

    def _release_hold(self, reason: str) -> None:
        if reason not in self._holds:
            return
        self._holds.discard(reason)
        if not self._holds and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def _start_timer(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        self._timers[name] = self._loop.call_later(seconds, callback)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _start_task(self, work: "Awaitable[None]") -> None:
        self._gateway.start_task(work)


def _replaced(headers: bytes, name: bytes, value: bytes) -> bytes:
    """Kept headers with the first header of that name given another value."""
    lines = headers.split(b"\n")
    for index, line in enumerate(lines):
        if line.startswith(name + b":"):
            lines[index] = b"%b:%b" % (name, value)
            break
    return b"\n".join(lines)


def _settle_together(effects: list[Effect], error: MsgwebError | None) -> None:
    """A COMMIT: the receipts of its frames, then its own; or an ERROR for the COMMIT alone."""
    for effect in effects[:-1]:
        if error is not None:
            effect.receipt = None
        effect(None)
    effects[-1](error)


def _tolerating_loss(effect: Effect, error: MsgwebError | None) -> None:
    """An ACK whose message was taken away meanwhile is accepted: the message comes again, to somebody."""
    effect(None if isinstance(error, NotFound | SessionLost) else error)
