"""One client: its socket, and its conversation as a whole. What the single commands mean is said beside it:
`sending`, `receiving`, `acknowledging`, `beats`."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from apps.broker.engine import Address, Done, Message, MessageId
from apps.stomp.gateway import wishes
from apps.stomp.gateway.acknowledging import Acknowledging
from apps.stomp.gateway.beats import Beating
from apps.stomp.gateway.errors import LoginTimeout, NotSupported
from apps.stomp.gateway.listeners import Listener
from apps.stomp.gateway.ports import Credentials, Principal, QueuePort
from apps.stomp.gateway.receipts import Receipts
from apps.stomp.gateway.receiving import Receiving
from apps.stomp.gateway.sending import Sending, SendPlan
from apps.stomp.gateway.subscriptions import ClientSubscription
from apps.stomp.gateway.usage import Usage
from apps.stomp.protocol import encoder
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
    Subscribe,
    Unsubscribe,
    Violation,
)
from msgweb import __version__
from msgweb.errors import AccessRefused, MsgwebError, Unavailable

if TYPE_CHECKING:
    from apps.stomp.gateway.server import Gateway

logger = logging.getLogger(__name__)

SERVER = f"Msgweb/{__version__}"
WAITING = frozenset({"declaration"})  # holds that keep back what was read already


class ClientConnection(asyncio.Protocol):
    """A connection to a client.

    Attributes:
        principal: who it is; None before log-in.
        usage: what its key uses, of all its connections.
        namespace: which it has entered; "" before log-in.
        held: unacked messages, see `subscriptions.Outlet`.
        unconfirmed: what happens to a failed frame that asked for no receipt.
        paused: its socket is not read.
    """

    def __init__(self, gateway: "Gateway", listener: Listener, peer: tuple[str, int] | None = None) -> None:
        self._gateway = gateway
        self.listener = listener
        self.engine = gateway.engine
        self.tasks = gateway.tasks
        self.options = listener.options
        self.dialect = listener.dialect
        self.topic_frames = gateway.topic_frames
        self.topic_prefix = gateway.topic_prefix
        self.loop = gateway.loop
        self.core = ServerConnection(self.options.limits, self.options.heart_beat, self.dialect)
        self.receipts = Receipts(self._write, self._say)
        self.unconfirmed: Done = self._sent_without_receipt
        self.sending = Sending(self)
        self.receiving = Receiving(self)
        self.acknowledging = Acknowledging(self)
        self._beating = Beating(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else is called
        self._out: list[bytes] = []
        self._written: list[ClientSubscription] = []  # with messages to be acked once they are written
        self._holds: set[str] = set()  # why the socket is not read
        self._later: list[Event] = []  # what came before the socket was held
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._deaf = False  # no event is handled now
        self._refused = False  # an ERROR that ends it is on its way
        self._ending = False  # nothing more is read; the last frames go out
        self._half_closed = False  # by the client
        self._lost = False
        self._opened = 0.0
        self._sent = self._metered = 0
        self._since = 0.0  # of the log-in, for the engine
        self._reason = "closed by the client"
        self._peer = peer
        self.principal: Principal | None = None
        self.usage = Usage()
        self.namespace = ""
        self.client_id: str | None = None
        self.version = "1.0"
        self.held: dict[MessageId, ClientSubscription] = {}
        self.void: set[MessageId] = set()
        self.clogged = False
        self.delivered = 0

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has some seconds to log in."""
        self._transport = cast(asyncio.Transport, transport)
        self._opened = self.loop.time()
        peer = transport.get_extra_info("peername")
        if self._peer is None and isinstance(peer, tuple) and len(peer) > 1:
            self._peer = (peer[0], peer[1])
        self._transport.set_write_buffer_limits(high=self.options.write_buffer)
        self._gateway.connections.add(self)
        seconds = self.options.login_seconds
        self._start_timer("login", seconds, lambda: self.end(LoginTimeout(f"no CONNECT within {seconds:g} seconds")))

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ending or self._refused:
            return
        if self._beating.expected:
            self._beating.last_read = self.loop.time()
        self._handle(self.core.receive(data))
        if self._sent != self._metered:
            self._meter()
        if self.engine.congested and "congestion" not in self._holds:
            self.hold("congestion")
            self.engine.when_relieved(lambda: self.release_hold("congestion"))
        if self.clogged and self._transport.get_write_buffer_size() > self.options.receipt_buffer:
            self.hold("clogged")

    def eof_received(self) -> bool:
        """The client sends no more. What it asked for is finished, and confirmed if it still reads."""
        self._half_closed = True
        if (self.receipts.waiting or self._later) and not self._ending:
            self.receipts.settled(None, self._finish)
            return True
        self._flush()  # the transport closes on return, and takes nothing more
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone: release what it held, abort what it had begun."""
        if error is not None and not self._ending:
            self._reason = f"lost: {error}"
        self._lost = self._ending = True
        self.core.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._beating.stop()
        self._release(failed=True)
        self._out.clear()
        self.receipts.waiting.clear()
        self._gateway.forget(self)
        self._log()

    def pause_writing(self) -> None:
        """The client does not read: topics drop, queues bring nothing new, auto acks wait."""
        self.clogged = True
        self.receiving.pause()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.clogged = False
        self.release_hold("clogged")
        if not self._gateway.draining:
            self.receiving.resume()
        self._confirm_written()

    # -- writing

    def write_all(self, frames: list[bytes]) -> None:
        """Frames for the client; they go out together at the end of this turn of the loop."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out += frames

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out = self._out
        if not out or self._lost:
            return
        data = b"".join(out)
        out.clear()
        if self._beating.promised:
            self._beating.last_write = self.loop.time()
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

    def beat(self) -> None:
        """A heart-beat, unless something else goes out."""
        if not (self._out or self._lost or self._ending):
            self._transport.write(encoder.BEAT)

    # -- reading

    def _handle(self, events: Iterable[Event]) -> None:
        engine = self.engine
        events = iter(events)
        for event in events:
            if self._deaf:
                if not (self._ending or self._refused):
                    self._later += [event, *events]
                return
            try:
                if type(event) is Send:
                    head, receipt, body = event
                    plan: SendPlan | None = head.plan
                    if plan is None:
                        plan = self.sending.plan(head)
                    self._sent += 1
                    if plan.special or head.transaction is not None:
                        self.sending.special(plan, event)
                        continue
                    done = self.unconfirmed if receipt is None else self.receipts.expect(receipt)
                    if plan.wish is None:
                        assert plan.address is not None
                        message = Message(plan.address, body, plan.headers, plan.persistent, plan.priority)
                    else:
                        message = plan.message(body)
                    engine.send(message, done, self._since)
                elif type(event) is Ack:
                    self.acknowledging.acknowledge(event)
                else:
                    self._handle_other(event)
            except (MsgwebError, StompError) as error:
                self._refuse(error, event.receipt if not isinstance(event, Connect) else None)

    def _handle_other(self, event: Event) -> None:
        match event:
            case Connect():
                self._connect(event)
            case Subscribe():
                self.receiving.subscribe(event)
            case Unsubscribe():
                self.receiving.unsubscribe(event)
            case Nack():
                self.acknowledging.acknowledge(event, wishes.refusal_of(event.headers))
            case Begin():
                self.acknowledging.begin(event)
            case Commit():
                self.acknowledging.commit(event)
            case Abort():
                self.acknowledging.abort(event)
            case Disconnect():
                self._reason = "disconnected"
                self._release()
                self.receipts.settled(event.receipt, self._finish)
            case Violation():
                self._violation(event)
            case _:
                raise AssertionError(f"{event!r} is handled elsewhere")

    def expect(self, receipt: bytes | None) -> Done:
        """What the engine is to call once a frame took effect or failed."""
        return self.unconfirmed if receipt is None else self.receipts.expect(receipt)

    def declare(
        self,
        queue: Address,
        settings: Mapping[str, Any],
        receipt: bytes | None,
        then: Callable[[], None],
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """See that a queue has these settings, then go on; what the client says meanwhile waits.

        Args:
            then, otherwise: one of them is called.

        Raises:
            NotSupported: nobody here can.
        """
        queues = self.queues
        self.hold("declaration", handling=False)
        self.start_task(self._declare(queues, queue, settings, receipt, then, otherwise))

    async def _declare(
        self,
        queues: QueuePort,
        queue: Address,
        settings: Mapping[str, Any],
        receipt: bytes | None,
        then: Callable[[], None],
        otherwise: Callable[[], None],
    ) -> None:
        try:
            await queues.declare(queue.namespace, queue.name, settings)
            if not (self._ending or self._refused):
                then()
        except MsgwebError as error:
            otherwise()
            self._refuse(error, receipt)
        finally:
            self.release_hold("declaration")

    def _sent_without_receipt(self, error: MsgwebError | None) -> None:
        if error is not None:
            self._refuse(error, None)

    # -- log-in

    def _connect(self, event: Connect) -> None:
        """CONNECT. Who has logged in like this a moment ago comes in at once: a PHP page connects on each request."""
        credentials = Credentials(
            event.login,
            event.passcode,
            event.host,
            self.listener.namespace,
            self._peer[0] if self._peer else "",
            self._transport.get_extra_info("peercert") if self.listener.tls is not None else None,
            self.listener.anonymous,
        )
        known = self._gateway.authenticator.remembered(credentials) if self.engine.healthy else None
        if known is not None:
            self._enter(event, known)
        else:
            self.hold("log-in")
            self.start_task(self._authenticate(event, credentials))

    async def _authenticate(self, event: Connect, credentials: Credentials) -> None:
        try:
            if not self.engine.healthy:
                raise Unavailable("the database is away; try again")
            principal = await self._gateway.authenticator.authenticate(credentials)
        except MsgwebError as error:
            self.end(error)
            return
        try:
            if not self._ending:
                self._enter(event, principal)
        finally:
            self.release_hold("log-in")
            self._meter()

    def _enter(self, event: Connect, principal: Principal) -> None:
        try:
            self.usage = self._gateway.usages.enter(principal)
        except MsgwebError as error:
            self.end(error)
            return
        self._stop_timer("login")
        self.principal = principal
        self.namespace = principal.namespace
        self.client_id = event.headers.get("client-id")
        self._since = time.monotonic()
        self.version = self.core.version
        self._write(self.core.accept(self._gateway.next_session(), f"{SERVER} ({self.dialect.server})"))
        self._beating.start()
        self._handle(self.core.receive(b""))

    def access_changed(self, principal: Principal | None) -> None:
        """What this login may do is another thing now: what was worked out from it is forgotten.

        Args:
            principal: the same as before but for its access and limits; None: the log-in is gone.
        """
        if self._ending or self._refused:
            return
        if principal is None:
            self.end(AccessRefused("this log-in was revoked, or has expired"))
            return
        self.principal = principal
        self.usage.limits = principal.limits
        self.core.forget_heads()
        for event in self._later:
            if type(event) is Send:
                event.head.plan = None
        try:
            self.receiving.check_access()
        except AccessRefused as error:
            self.end(error)

    def _meter(self) -> None:
        """Count what was sent, where the key's sends are limited; the socket is not read while it is over the limit."""
        sends = self._sent - self._metered
        if sends and self.usage.limits.sends_per_second is not None:
            seconds = self.usage.pause_after(sends, self.loop.time())
            if seconds and not self._ending:
                self.hold("rate")
                self._start_timer("rate", seconds, lambda: self.release_hold("rate"))
        self._metered = self._sent

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
        """ERROR, once the frames before it are answered; then the end, except where clients expect to go on.

        While the database does not answer, earlier frames may stay without an answer: then it goes out before theirs.
        """
        if self._ending or self._refused:
            return
        if self._is_end(fatal):
            self._refused = self._deaf = True
            self._later.clear()
            if self.receipts.waiting:
                seconds = self.options.linger_seconds
                self._start_timer("refusal", seconds, lambda: self._say(error, receipt, fatal=fatal))
        self.receipts.settled(None, lambda: self._say(error, receipt, fatal=fatal))

    def _say(self, error: MsgwebError | StompError, receipt: bytes | None, *, fatal: bool = False) -> None:
        if self._ending:
            return
        self._write(self.core.error(error.code, error.message, receipt))
        if self._is_end(fatal):
            self._reason = error.code
            self._finish()

    def _is_end(self, fatal: bool) -> bool:
        return fatal or self.principal is None or not self.core.survives_errors

    def end(self, error: MsgwebError) -> None:
        """Say why, and close."""
        self._refuse(error, None, fatal=True)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way that the client would want to finish."""
        return not (
            self.held
            or self.receipts.waiting
            or self.acknowledging.transactions
            or self.sending.errands
            or self._holds
            or self._later
        )

    def _finish(self) -> None:
        """Close so that the last frame arrives: half-close, then wait for the client, but not for long.

        Closing at once would reset the connection when something unread is in the socket, and a reset discards what
        the client has not read yet: the ERROR.
        """
        if self._ending:
            return
        self._ending = self._deaf = True
        self._later.clear()
        self.core.close()
        self.receipts.waiting.clear()  # what is still under way has nobody to be confirmed to
        self._flush()
        self._release()
        self._beating.stop()
        for name in list(self._timers):
            self._stop_timer(name)
        for reason in list(self._holds):
            self.release_hold(reason)
        if self._transport.can_write_eof() and not (self._half_closed or self._transport.is_closing()):
            self._transport.write_eof()
            self._start_timer("linger", self.options.linger_seconds, self._transport.abort)
        else:
            self._transport.close()

    def _release(self, *, failed: bool = False) -> None:
        """Give everything back that the engine holds for this connection.

        Args:
            failed: the client has gone without a word: what it worked on counts as a failed delivery.
        """
        self.acknowledging.release()
        self.receiving.release(failed=failed)
        self._written.clear()
        if self._lost or self._ending:
            self._leave()

    def _leave(self) -> None:
        if self.principal is not None and self.usage.connections:
            self._gateway.usages.leave(self.principal, self.usage)
            self.usage = Usage()

    def _log(self) -> None:
        """One line a connection. Never the passcode: only what is named here is written."""
        principal = self.principal
        logger.info(
            "connection listener=%s peer=%s login=%s namespace=%s version=%s seconds=%.1f sent=%d "
            "delivered=%d reason=%r",
            self.listener,
            "{}:{}".format(*self._peer) if self._peer else "local",
            principal.login if principal else "-",
            principal.namespace if principal else "-",
            self.core.version,
            self.loop.time() - self._opened,
            self._sent,
            self.delivered,
            self._reason,
        )

    # -- small parts

    @property
    def queues(self) -> QueuePort:
        """For browsers and settings.

        Raises:
            NotSupported: nobody here knows.
        """
        if self._gateway.queues is None:
            raise NotSupported("this gateway has no access to the settings of queues")
        return self._gateway.queues

    @property
    def entered(self) -> Principal:
        """Who it is, after log-in."""
        assert self.principal is not None, "the core lets nothing through before CONNECT"
        return self.principal

    @property
    def subscriber(self) -> wishes.Subscriber:
        """Who makes durable subscriptions here."""
        return wishes.Subscriber(self.entered.login, self.client_id)

    def taken_away(self, subscription: ClientSubscription) -> None:
        """See `subscriptions.Outlet`."""
        self.acknowledging.drop(subscription)

    @property
    def paused(self) -> bool:
        """Whether the socket is not read."""
        return bool(self._holds)

    def hold(self, reason: str, *, handling: bool = True) -> None:
        """Read the socket no more, until the reason is gone.

        Args:
            handling: what was read already is handled; otherwise it waits too.
        """
        if not self._holds and not self._transport.is_closing():
            self._transport.pause_reading()
        self._holds.add(reason)
        if not handling:
            self._deaf = True

    def release_hold(self, reason: str) -> None:
        """The reason is gone."""
        if reason not in self._holds:
            return
        self._holds.discard(reason)
        if self._deaf and reason in WAITING and not (self._ending or self._refused):
            self._deaf = False
            later, self._later = self._later, []
            self._handle(later)
        if not self._holds and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def _start_timer(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        self._timers[name] = self.loop.call_later(seconds, callback)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def start_task(self, work: Awaitable[None]) -> None:
        """Run something beside the loop's callbacks."""
        self._gateway.start_task(work)
