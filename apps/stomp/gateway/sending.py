"""SEND: what its headers mean, and where it goes."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from apps.broker.engine import DEFAULT_PRIORITY, Address, Message, Unit
from apps.broker.headers import decode_headers
from apps.broker.patterns import is_pattern
from apps.broker.repeats import ACTIVEMQ_HEADERS
from apps.stomp.gateway import declarations, features, permitted, wishes
from apps.stomp.gateway.destinations import Job, Task, Temporary, parse_destinations, written
from apps.stomp.gateway.errands import Errands, word_of
from apps.stomp.gateway.errors import BadHeader, NotSupported
from apps.stomp.gateway.saying import Saying
from apps.stomp.gateway.wishes import Wish
from apps.stomp.protocol.events import Send, SendHead
from apps.stomp.protocol.headers import escape
from msgweb.errors import BadDestination

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection

_SCHEDULED = frozenset(name.encode() for name in ACTIVEMQ_HEADERS)


@dataclass(frozen=True, slots=True)
class SendPlan:
    """What a SEND with certain headers means; made once for each head.

    Attributes:
        address: the queue or topic, or None for a door to jobs.
        headers: as they are stored.
        door: a task or a job, or None.
        wish: what the headers ask for besides, or None.
        others: further addresses of a composite destination, each with its headers.
        settings: that the queue must have, or is to get.
        special: it takes more than `Engine.send` outside of a transaction.
    """

    address: Address | None
    headers: bytes
    persistent: bool
    priority: int
    door: Task | Job | None
    wish: Wish | None
    others: tuple[tuple[Address, bytes], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    special: bool = False

    def message(self, body: bytes) -> Message:
        """A message as it is sent now."""
        assert self.address is not None
        options = self.wish.now() if self.wish is not None else None
        return Message(self.address, body, self.headers, self.persistent, self.priority, options)

    def messages(self, body: bytes) -> list[Message]:
        """A message for each address."""
        first = self.message(body)
        return [
            first,
            *(
                Message(address, body, headers, self.persistent, self.priority, first.options)
                for address, headers in self.others
            ),
        ]


class Sending:
    """The SENDs of a connection, but for the hot path of them, which is the connection's own."""

    __slots__ = ("_connection", "_declared", "_errands")

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        # Most connections have neither; an empty set takes 0.2 KiB more than this.
        self._declared: dict[tuple[Address, tuple[tuple[str, Any], ...]], None] = {}
        self._errands: Errands | None = None

    def plan(self, head: SendHead) -> SendPlan:
        """What a head means; remembered with it.

        Raises:
            MsgwebError: it cannot be.
        """
        connection = self._connection
        fields = head.fields
        priority = features.priority_of(fields, DEFAULT_PRIORITY)
        targets = parse_destinations(connection.namespace, head.destination)
        headers = head.headers
        if not _SCHEDULED.isdisjoint(fields):
            headers = _without_schedule(headers)
        reply_to = fields.get(b"reply-to", b"")
        passing = any(type(target) is Temporary for _, target in targets)  # when its subscription ends, it is another
        if reply_to.startswith((b"/temp-queue/", b"/temp-topic/")):
            passing = True
            headers = _replaced(headers, b"reply-to", connection.receiving.reply_name(reply_to.decode()).encode())
        wish = wishes.of_send(fields, connection.dialect)
        persistent = features.persistent_of(fields)
        declared = declarations.of_send(fields)
        reply_name = reply_to.decode(errors="replace")
        permitted.check_send(connection.entered, (target for _, target in targets), reply_name, declared)
        settings = tuple(declared.items())
        places: list[tuple[Address, bytes]] = []
        door: Task | Job | None = None
        for text, target in targets:
            if isinstance(target, Task | Job):
                door = target
            else:
                places.append(self._place(target, text, headers))
        if door is None:
            (address, own), *others = places
            if settings:
                declarations.check_declarable(address)
            plan = SendPlan(
                address,
                own,
                persistent,
                priority,
                None,
                wish,
                tuple(others),
                settings,
                bool(others or settings),
            )
        elif len(targets) > 1:
            raise BadDestination("a job is asked for by a destination of its own, not by one of several")
        elif connection.tasks is None:
            raise NotSupported("this gateway has no door to jobs")
        else:
            _check_door(door, wish)
            plan = SendPlan(None, headers, persistent, priority, door, wish, special=True)
        if not passing:
            head.plan = plan
        return plan

    def _place(self, target: Address | Temporary, text: str, headers: bytes) -> tuple[Address, bytes]:
        address = self._connection.receiving.temporary(target) if type(target) is Temporary else target
        assert type(address) is Address
        if address.kind == "topic" and is_pattern(address.name):
            raise BadDestination(f"{text!r} is a pattern of topics: it can be subscribed to, not sent to")
        if written(address) != text:  # MESSAGE has the destination as the SEND had it
            headers = b"destination:%b\n%b" % (escape(text, "1.2"), headers)
        return address, headers

    def special(self, plan: SendPlan, event: Send) -> None:
        """A SEND to a job, to several places, within a transaction, or with settings of its queue.

        Raises:
            MsgwebError: it cannot be.
        """
        connection = self._connection
        if plan.settings and (plan.address, plan.settings) not in self._declared:
            assert plan.address is not None
            connection.declare(plan.address, dict(plan.settings), event.receipt, partial(self._go_on, plan, event))
            return
        head, receipt, body = event
        if head.transaction is not None:
            if plan.address is None:
                raise NotSupported("jobs cannot be asked for in a transaction")
            connection.acknowledging.add_sends(head.transaction, plan.messages(body), receipt)
        elif plan.door is not None:
            self._ask(plan.door, plan.wish, decode_headers(plan.headers), body, receipt)
        else:
            connection.engine.transact(Unit(plan.messages(body)), connection.expect(receipt))

    def _go_on(self, plan: SendPlan, event: Send) -> None:
        assert plan.address is not None
        self._declared[(plan.address, plan.settings)] = None
        self.special(plan, event)

    def _ask(
        self, door: Task | Job, wish: Wish | None, headers: dict[str, str], body: bytes, receipt: bytes | None
    ) -> None:
        connection = self._connection
        tasks = connection.tasks
        assert tasks is not None
        done = connection.expect(receipt)
        if isinstance(door, Job):
            word = word_of(headers, body)
            self.errands.say(door.id, headers.get("job-attempt"), word, done, urgent=receipt is not None)
            return
        call = partial(
            tasks.submit,
            namespace=connection.namespace,
            task=door.name,
            body=body,
            headers=headers,
            reply_to=headers.get("reply-to"),
            requested_by=connection.entered.login,
        )
        if wish is not None:
            options = wish.now()
            call = partial(call, delay=options.delay, expires=options.ttl)
        self.errands.ask(call, done, len(body))

    @property
    def errands(self) -> Errands:
        """What it asks for of jobs."""
        if self._errands is None:
            self._errands = Errands(self._connection, Saying(self._connection).say)
        return self._errands

    @property
    def busy(self) -> bool:
        """Whether something of jobs is under way."""
        return self._errands is not None and self._errands.busy

    def release(self) -> None:
        """The client leaves."""
        if self._errands is not None:
            self._errands.hurry()


def _check_door(door: Task | Job, wish: Wish | None) -> None:
    """Whether a job can be asked for like that: later and with an expiry, and nothing else that messages may have.

    Raises:
        BadHeader: it cannot.
    """
    if wish is None:
        return
    options = wish.options
    if type(door) is Job or options.repeat is not None or options.group or options.deduplication:
        raise BadHeader(
            "a job may begin later and expire, but has no repetition, message group or deduplication: its task says how"
            " it is limited; and what is said of a job has none of these"
        )


def _without_schedule(headers: bytes) -> bytes:
    """Kept headers without those that ask for a delay or a schedule: who forwards a message with all its headers
    makes no other schedule of it."""
    return b"\n".join(line for line in headers.split(b"\n") if line.partition(b":")[0] not in _SCHEDULED)


def _replaced(headers: bytes, name: bytes, value: bytes) -> bytes:
    """Kept headers with the first header of that name given another value."""
    lines = headers.split(b"\n")
    for index, line in enumerate(lines):
        if line.startswith(name + b":"):
            lines[index] = b"%b:%b" % (name, value)
            break
    return b"\n".join(lines)
