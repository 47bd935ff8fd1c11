"""One client: its socket, and its conversation as a whole. What the single commands mean is said beside it:
`sending`, `receiving`, `acknowledging`, `beats`."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apps.broker.engine import Address, Delivery, Done, Message, MessageId, Subscription
from apps.stomp.gateway import wishes
from apps.stomp.gateway.acknowledging import Acknowledging
from apps.stomp.gateway.beats import Beating
from apps.stomp.gateway.channels import Channel
from apps.stomp.gateway.entering import Entering
from apps.stomp.gateway.errors import LoginTimeout, NotSupported, TooMany
from apps.stomp.gateway.hoards import SMALL
from apps.stomp.gateway.listeners import Listener
from apps.stomp.gateway.outside import OutsideWork
from apps.stomp.gateway.ports import Principal, QueuePort
from apps.stomp.gateway.preparing import PREPARATION, SelectorReading, prepare
from apps.stomp.gateway.receipts import Receipts
from apps.stomp.gateway.receiving import Receiving
from apps.stomp.gateway.sending import Sending, SendPlan
from apps.stomp.gateway.subscriptions import ClientSubscription
from apps.stomp.gateway.tls import acknowledge_now
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
from msgweb.errors import MsgwebError

if TYPE_CHECKING:
    from apps.stomp.gateway.server import Gateway

logger = logging.getLogger(__name__)

SERVER = f"Msgweb/{__version__}"
WAITING = frozenset({PREPARATION})  # holds that keep back what was read already
KEEPING = WAITING | {"log-in"}  # the same; here it is the core that keeps it


class ClientConnection(Channel):
    """A connection to a client.

    Attributes:
        principal: who it is; None before log-in.
        namespace: which it has entered; "" before log-in.
        held: unacked messages, see `subscriptions.Outlet`.
        unconfirmed: what happens to a failed frame that asked for no receipt.
        name: CONNECTED's `session`; "" before log-in.
        delivered, sent: MESSAGE and SEND frames so far.
        work: the jobs that the client works on; None: it had none so far.
    """

    __slots__ = (
        "_acknowledging",
        "_beating",
        "_deaf",
        "_ending",
        "_gateway",
        "_hoards",
        "_later",
        "_outside",
        "_reason",
        "_receiving",
        "_refused",
        "_released",
        "_since",
        "_written",
        "client_id",
        "core",
        "delivered",
        "dialect",
        "engine",
        "entering",
        "held",
        "listener",
        "name",
        "namespace",
        "principal",
        "receipts",
        "sending",
        "sent",
        "tasks",
        "topic_frames",
        "topic_prefix",
        "unconfirmed",
        "version",
        "void",
        "work",
    )

    def __init__(self, gateway: "Gateway", listener: Listener, peer: tuple[str, int] | None = None) -> None:
        super().__init__(gateway.loop, listener.options, peer)
        self._gateway = gateway
        self.listener = listener
        self.engine = gateway.engine
        self.tasks = gateway.tasks
        self.dialect = listener.dialect
        self.topic_frames = gateway.topic_frames
        self.topic_prefix = gateway.topic_prefix
        self.core = ServerConnection(self.options.limits, self.options.heart_beat, self.dialect)
        self.receipts = Receipts(self.write, self._say)
        self.unconfirmed: Done = self._sent_without_receipt
        self.sending = Sending(self)
        self.entering = Entering(self, gateway)
        # Most connections are pages of PHP, which send and go: what they have no use for is made by who asks for it.
        self._receiving: Receiving | None = None
        self._acknowledging: Acknowledging | None = None
        self._beating: Beating | None = None
        self._written: list[ClientSubscription] = []  # with messages to be acked once they are written
        self._later: list[Event] = []  # what came before the socket was held
        self._deaf = False  # no event is handled now
        self._refused = False  # an ERROR that ends it is on its way
        self._released = False  # nothing is held or begun
        self._ending = False  # nothing more is read; the last frames go out
        self.sent = 0
        self._outside = 0  # bytes of a WebSocket's message whose end has not come
        self._hoards = False  # much is kept of what the client has not finished
        self._since = 0.0  # of the log-in, for the engine
        self._reason = "closed"  # or "lost", "disconnected", an ERROR's code
        self.principal: Principal | None = None
        self.namespace = ""
        self.client_id: str | None = None
        self.version = "1.0"
        self.held: dict[MessageId, ClientSubscription] = {}
        self.void: dict[MessageId, None] = {}
        self.name = ""
        self.delivered = 0
        self.work: OutsideWork | None = None

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has some seconds to log in."""
        super().connection_made(transport)
        if self.listener.tls is not None:
            acknowledge_now(transport)
        self._gateway.connections.add(self)
        seconds = self.options.login_seconds
        self.start_timer("login", seconds, lambda: self.end(LoginTimeout(f"no CONNECT within {seconds:g} seconds")))

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ending or self._refused:
            self.drain(len(data))
            return
        if self._beating is not None:
            self._beating.last_read = self.loop.time()
        if self.trace is not None:
            self.trace.note("in", data)
        self._handle(self.core.receive(data))
        self._weigh()
        if self.sent != self.entering.metered:
            self.entering.meter()
        if self.engine.congested and "congestion" not in self.holds:
            self.hold("congestion")
            self.engine.when_relieved(lambda: self.release_hold("congestion"))
        self._mind_unread()

    def partial_received(self, size: int) -> None:
        """A WebSocket has been read, and so much of it is half a message: data all the same, and memory."""
        if self._ending or self._refused:
            return
        if self._beating is not None:
            self._beating.last_read = self.loop.time()
        self._outside = size
        greeting = self.options.limits.greeting
        if size > greeting and self.principal is None:
            self.end(TooMany(f"before log-in a message has at most {greeting} bytes"))
        else:
            self._weigh()
            self._mind_unread()

    def _mind_unread(self) -> None:
        if self.clogged and self.unread > self.options.receipt_buffer:
            self.hold("clogged")

    def _weigh(self) -> None:
        hoard = self.core.kept + self._outside
        if self._acknowledging is not None:
            hoard += self._acknowledging.gathered
        if hoard > SMALL or self._hoards:
            self._hoards = hoard > SMALL and not self._ending
            self._gateway.hoards.note(self, hoard if self._hoards else 0)

    def eof_received(self) -> bool:
        """The client sends no more. What it asked for is finished, and confirmed if it still reads."""
        self._half_closed = True
        if self._keeps_back:
            return True  # until that was handled, see `release_hold`
        if self.receipts.waiting and not self._ending:
            self.receipts.settled(None, self._finish)
            return True
        self.flush()  # the transport closes on return, and takes nothing more
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone: release what it held, abort what it had begun."""
        if error is not None and not self._ending:
            self._reason = "lost"
        self.lost = self._ending = True
        self.core.close()
        self.stop_timers()
        self._stop_beating()
        self._release(failed=True)
        self._out.clear()
        self._gateway.hoards.note(self, 0)
        self._gateway.forget(self)
        self._gateway.figures.leave(self, self._reason)
        self._log(error)
        self._come_apart()

    def _come_apart(self) -> None:
        """Nothing of it refers to itself any more: its memory is free at once, and warm for the next connection. What
        waits for the collector is walked by it, and what comes meanwhile gets memory that no cache holds.

        What it is stays: who it was, its names, its engine, and its jobs, which end later than it does and are seen to
        in its name. The parts go that serve what a client says, since none says anything here any more; whoever asks
        for one of them all the same is at fault.
        """
        self.receipts.fall_silent()
        self.unconfirmed = _unheard
        self.held.clear()
        self._receiving = self._acknowledging = self._beating = None
        del self.sending, self.entering

    def pause_writing(self) -> None:
        """The client does not read: topics drop, queues bring nothing new, auto acks wait."""
        self.clogged = True
        self.bring_no_more()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.clogged = False
        self.release_hold("clogged")
        if self.takes_more and self._receiving is not None:
            self._receiving.resume()
        self._confirm_written()

    # -- writing

    def flushed(self) -> None:
        """See `Channel`."""
        if self._beating is not None:
            self._beating.last_write = self.loop.time()
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
                    self.sent += 1
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
                self.refuse(error, event.receipt if not isinstance(event, Connect) else None)
            except Exception:  # a fault of ours: this client is told, and nobody else notices
                logger.exception("a frame of %s could not be handled", self.peer_name)
                self.end(MsgwebError("the server failed at this frame; its log says why"))

    def _handle_other(self, event: Event) -> None:
        match event:
            case Connect():
                certificate = self._transport.get_extra_info("peercert") if self.listener.tls is not None else None
                self.entering.connect(event, self.peer[0] if self.peer else "", certificate)
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
        """See that a queue has these settings, then go on: see `prepare`.

        Raises:
            NotSupported: nobody here can.
        """
        prepare(self, self.queues.declare(queue.namespace, queue.name, settings), receipt, then, otherwise)

    def _sent_without_receipt(self, error: MsgwebError | None) -> None:
        if error is not None:
            self.refuse(error, None)

    # -- log-in

    def entered_by(self, event: Connect, principal: Principal) -> None:
        """Somebody has come in: CONNECTED, then what was said meanwhile."""
        self.stop_timer("login")
        self.principal = principal
        self.namespace = principal.namespace
        self.client_id = event.headers.get("client-id")
        self._since = time.monotonic()
        self.version = self.core.version
        self.name = self._gateway.next_session()
        self.trace = self._gateway.traces.of(self)
        heads = principal.heads.setdefault((id(self.listener), self.version), {})
        self.write(self.core.accept(self.name, f"{SERVER} ({self.dialect.server})", heads))
        if any(self.core.beats):
            self._beating = Beating(self)
            self._beating.start()
        if self.core.kept:
            self._handle(self.core.receive(b""))

    def forget_plans(self) -> None:
        """What was worked out of heads of SENDs counts no more."""
        self.core.forget_heads()
        self._later = [
            event._replace(head=event.head.anew()) if type(event) is Send else event for event in self._later
        ]

    # -- the end

    def _violation(self, event: Violation) -> None:
        error = event.error
        if isinstance(error, NotStomp):
            self.stranger(error)
        else:
            self.refuse(error, event.receipt, fatal=event.fatal)

    def stranger(self, error: NotStomp) -> None:
        """Another protocol is spoken here: say so in its own, and close."""
        self._reason = error.code
        if error.answer:
            self.write(error.answer)
        self._finish()

    def refuse(self, error: MsgwebError | StompError, receipt: bytes | None, fatal: bool = False) -> None:
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
                self.start_timer("refusal", seconds, lambda: self._say(error, receipt, fatal=fatal))
        self.receipts.settled(None, lambda: self._say(error, receipt, fatal=fatal))

    def _say(self, error: MsgwebError | StompError, receipt: bytes | None, *, fatal: bool = False) -> None:
        if self._ending:
            return
        self._gateway.figures.errors[error.code] += 1
        self.write(self.core.error(error.code, error.message, receipt))
        if self._is_end(fatal):
            self._reason = error.code
            self._finish()

    def _is_end(self, fatal: bool) -> bool:
        return fatal or self.principal is None or not self.core.survives_errors

    def end(self, error: MsgwebError) -> None:
        """Say why, and close."""
        self.refuse(error, None, fatal=True)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way that the client would want to finish."""
        return not (
            self.at_work
            or self.receipts.waiting
            or (self._acknowledging is not None and self._acknowledging.transactions)
            or self.sending.busy
            or self.holds
            or self._later
            or self.core.kept
            or self._outside
        )

    @property
    def takes_more(self) -> bool:
        """Whether messages are to be brought: the client reads, and the gateway is not being stopped."""
        return not (self.clogged or self._gateway.draining)

    @property
    def _keeps_back(self) -> bool:
        """Whether something was read that is yet to be handled."""
        return not self.is_over and not KEEPING.isdisjoint(self.holds)

    def _finish(self) -> None:
        """The conversation is over; the last frames still arrive."""
        if self._ending:
            return
        self._ending = self._deaf = True
        self._later.clear()
        self.core.close()
        self.receipts.waiting.clear()  # what is still under way has nobody to be confirmed to
        self.flush()
        self._release()
        self._gateway.hoards.note(self, 0)
        self._stop_beating()
        self.close_gently(silent=self._says_nothing_more)

    @property
    def _says_nothing_more(self) -> bool:
        """Whether a client that has left sends not a byte any more, or loses nothing if it does.

        No frame follows a DISCONNECT (STOMP 1.2, "DISCONNECT"), but a beat may be on its way, where they were promised,
        or the line end that may follow any frame. It resets the connection, which costs what is still on its way to the
        client: messages, perhaps. A receipt has gone out by then.
        """
        return self.said_goodbye and self._receiving is None and not self.core.beats.from_client

    def _release(self, *, failed: bool = False) -> None:
        """Give everything back that the engine holds for this connection, once: nothing is taken after that.

        Args:
            failed: the client has gone without a word: what it worked on counts as a failed delivery.
        """
        if self._released:
            return
        self._released = True
        if self._acknowledging is not None:
            self._acknowledging.release()
        if self._receiving is not None:
            self._receiving.release(failed=failed)
        self._written.clear()
        self.sending.release()
        self.entering.leave()

    def _log(self, error: Exception | None) -> None:
        """One line a connection. Never the passcode: only what is named here is written."""
        principal = self.principal
        logger.info(
            "connection listener=%s peer=%s login=%s namespace=%s version=%s seconds=%.1f sent=%d "
            "delivered=%d reason=%s%s",
            self.listener.shown,
            self.peer_name,
            principal.login if principal else "-",
            principal.namespace if principal else "-",
            self.core.version,
            self.loop.time() - self.opened,
            self.sent,
            self.delivered,
            self._reason,
            f" error={str(error)!r}" if error is not None else "",
        )

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.stop()

    # -- small parts

    @property
    def receiving(self) -> Receiving:
        """What it receives from."""
        if self._receiving is None:
            self._receiving = Receiving(self)
        return self._receiving

    @property
    def acknowledging(self) -> Acknowledging:
        """What it says about messages that it holds."""
        if self._acknowledging is None:
            self._acknowledging = Acknowledging(self)
        return self._acknowledging

    @property
    def subscriptions(self) -> int:
        """How many it has."""
        return 0 if self._receiving is None else len(self._receiving.subscriptions)

    def bring_no_more(self) -> None:
        """Subscriptions rest; what the client holds it may finish."""
        if self._receiving is not None:
            self._receiving.pause()

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
    def selectors(self) -> SelectorReading:
        """For long selectors."""
        return self._gateway.selectors

    @property
    def entered(self) -> Principal:
        """Who it is, after log-in."""
        assert self.principal is not None, "the core lets nothing through before CONNECT"
        return self.principal

    @property
    def is_over(self) -> bool:
        """Whether nothing is heard any more, but perhaps an ERROR is still to be said."""
        return self._ending or self._refused

    @property
    def subscriber(self) -> wishes.Subscriber:
        """Who makes durable subscriptions here."""
        return wishes.Subscriber(self.entered.login, self.client_id)

    @property
    def at_work(self) -> bool:
        """Whether the client has something that it works on: unacked messages, or jobs, acknowledged or not."""
        return bool(self.held) or (self.work is not None and self.work.busy)

    @property
    def said_goodbye(self) -> bool:
        """Whether the client has left by DISCONNECT."""
        return self._reason == "disconnected"

    def working(self) -> OutsideWork:
        """What keeps the jobs that the client works on.

        Raises:
            NotSupported: this gateway has no jobs.
        """
        if self.work is None:
            jobs = self._gateway.jobs
            if jobs is None:
                raise NotSupported("this gateway has no door to jobs")
            self.work = OutsideWork(self, jobs)
        return self.work

    def take_jobs(
        self, subscription: ClientSubscription, handle: Subscription, deliveries: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """See `subscriptions.Outlet`."""
        if self._gateway.jobs is None:
            return deliveries
        return self.working().take(subscription, handle, deliveries)

    def jobs_lost(self, subscription: ClientSubscription) -> None:
        """See `subscriptions.Outlet`."""
        if self.work is not None:
            self.work.lost(subscription)

    def taken_away(self, subscription: ClientSubscription) -> list[MessageId]:
        """See `subscriptions.Outlet`."""
        return [] if self._acknowledging is None else self._acknowledging.drop(subscription)

    def wait_for(self, reason: str) -> None:
        """Read no more, and handle nothing of what was read already, until `release_hold`."""
        self.hold(reason)
        self._deaf = True

    def release_hold(self, reason: str) -> None:
        """See `Channel`. What waited is handled first."""
        if reason in self.holds and self._deaf and reason in WAITING and not (self._ending or self._refused):
            self._deaf = False
            later, self._later = self._later, []
            self._handle(later)
            if self._deaf:  # one of them waits again
                return
        super().release_hold(reason)
        if self._half_closed and not (self.is_over or self._keeps_back):
            self.receipts.settled(None, self._finish)

    def start_task(self, work: Awaitable[None]) -> None:
        """Run something beside the loop's callbacks."""
        self._gateway.start_task(work)


def _unheard(error: MsgwebError | None) -> None:
    """What the engine says to a connection that is gone."""
