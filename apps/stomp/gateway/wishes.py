"""What a client asks for by headers, beyond a place in a queue: RabbitMQ's and ActiveMQ's names for it."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from apps.broker.engine import AGAIN, Options, Refusal, Selector
from apps.broker.headers import decode_headers
from apps.broker.patterns import durable_queue_name
from apps.broker.repeats import ACTIVEMQ_HEADERS, from_activemq
from apps.broker.selectors import parse
from apps.stomp.gateway.errors import BadHeader
from apps.stomp.protocol.connection import DURABLE_NAMES
from apps.stomp.protocol.dialects import Dialect
from apps.stomp.protocol.events import Subscribe, Unsubscribe
from msgweb.errors import BadMessage

KEY_LIMIT = 255  # characters of a group's name and of a deduplication key
TIME_LIMIT = 100 * 366 * 86_400_000.0  # milliseconds: a hundred years
SOON = 0.001  # seconds to live of what has expired already: it is taken, and goes

_EXPIRY = ("expiration", "expires")
_GROUP = ("JMSXGroupID", "message-group")
_DEDUPLICATION = ("x-deduplication-id", "_AMQ_DUPL_ID")
_DURABLE_NAMES = (*sorted(DURABLE_NAMES), "x-queue-name")
_WISHES = frozenset(
    name.encode()
    for name in (
        *("x-delay", "_AMQ_SCHED_DELIVERY", "ttl", *_EXPIRY, *_GROUP, *_DEDUPLICATION),
        *ACTIVEMQ_HEADERS,
    )
)


class Wish(NamedTuple):
    """What the headers of a SEND ask for.

    Attributes:
        expires_at, deliver_at: seconds since 1970 by this machine's clock; they mean another span for each SEND.
    """

    options: Options
    expires_at: float | None = None
    deliver_at: float | None = None

    def now(self) -> Options:
        """The options of a message that is sent now."""
        if self.expires_at is None and self.deliver_at is None:
            return self.options
        moment = time.time()
        options = self.options
        if self.deliver_at is not None:
            options = replace(options, delay=max(self.deliver_at - moment, 0.0))
        if self.expires_at is not None:
            options = replace(options, ttl=max(self.expires_at - moment - options.delay, SOON))
        return options


def of_send(fields: Mapping[bytes, bytes], dialect: Dialect) -> Wish | None:
    """What a SEND asks for; None: nothing.

    Raises:
        BadMessage: a number that is none, a time that cannot be, a key that is too long.
        BadSchedule: a repetition that cannot be.
    """
    if _WISHES.isdisjoint(fields):
        return None
    headers = decode_headers(b"".join(b"%b:%b\n" % (name, fields[name]) for name in _WISHES & fields.keys()))
    options = from_activemq(headers) or Options()
    expires_at = deliver_at = None
    if dialect.relative_expiry:
        if (span := _milliseconds(headers, "expiration")) is not None:
            options = replace(options, ttl=max(span / 1000, SOON))
    elif moment := _milliseconds(headers, "expires"):  # 0: never
        expires_at = moment / 1000
    if span := _milliseconds(headers, "ttl"):
        options = replace(options, ttl=max(span / 1000, SOON))
    if delay := _milliseconds(headers, "x-delay"):
        options = replace(options, delay=delay / 1000)
    if moment := _milliseconds(headers, "_AMQ_SCHED_DELIVERY"):
        deliver_at = moment / 1000
    options = replace(options, group=_key(headers, _GROUP), deduplication=_key(headers, _DEDUPLICATION))
    if options == Options() and expires_at is None and deliver_at is None:
        return None
    return Wish(options, expires_at, deliver_at)


def refusal_of(headers: Mapping[str, str]) -> Refusal:
    """What a NACK asks for: `requeue:false` the dead letters at once, `x-delay` milliseconds until it comes again.

    Raises:
        BadHeader: neither true nor false, or no number.
    """
    requeue = _flag(headers, "requeue", default=True)
    try:
        delay = _milliseconds(headers, "x-delay")
    except BadMessage as error:
        raise BadHeader(error.message) from error
    if requeue and delay is None:
        return AGAIN
    return Refusal(None if delay is None else delay / 1000, dead_letter=not requeue)


class SubscriptionWish(NamedTuple):
    """What the headers of a SUBSCRIBE ask for."""

    selector: Selector | None
    priority: int
    exclusive: bool
    browser: bool = False


def selector_of(headers: Mapping[str, str]) -> str:
    """The selector that a SUBSCRIBE names, "" if none."""
    return headers.get("selector", "").strip()


def of_subscribe(headers: Mapping[str, str]) -> SubscriptionWish:
    """What a SUBSCRIBE asks for.

    Raises:
        BadHeader: a flag or number that is none.
        BadSelector: see `apps.broker.selectors`.
    """
    text = selector_of(headers)
    exclusive = any(
        _flag(headers, name, default=False) for name in ("exclusive", "activemq.exclusive", "x-single-active-consumer")
    )
    return SubscriptionWish(
        parse(text) if text else None, _priority(headers), exclusive, _flag(headers, "browser", default=False)
    )


class Subscriber(NamedTuple):
    """Who makes durable subscriptions: `client_id` is what CONNECT said, where a broker asks for it."""

    login: str
    client_id: str | None


def durable_name(event: Subscribe | Unsubscribe, topic: str, who: Subscriber, dialect: Dialect) -> str | None:
    """The queue behind a durable subscription to a topic; None: it is none.

    ActiveMQ's clients name the subscription, and themselves at CONNECT. RabbitMQ's say `durable:true` (or
    `persistent:true`): the header `id` and the topic are its name.

    Raises:
        BadHeader: it is durable and has no name.
    """
    headers = event.headers
    name = next((headers[one] for one in _DURABLE_NAMES if headers.get(one)), None)
    if name is not None:
        if not dialect.named_durables:
            return durable_queue_name(who.login, name)
        if not who.client_id:
            raise BadHeader("a durable subscription needs the header client-id on CONNECT: it is part of its name")
        return durable_queue_name(f"{who.login}/{who.client_id}", name)
    if dialect.named_durables:
        if _flag(headers, "durable", default=False):
            raise BadHeader("a durable subscription needs a name: the header activemq.subscriptionName")
        return None
    if not _says_durable(headers) or _flag(headers, "auto-delete", default=False):
        return None
    if "id" not in headers:
        raise BadHeader("a durable subscription needs a name: the header id")
    return durable_queue_name(who.login, f"{event.id}.{topic}")


def ends_durable(headers: Mapping[str, str]) -> bool:
    """Whether an UNSUBSCRIBE ends the durable subscription as well, with what waits in it."""
    return any(headers.get(name) for name in _DURABLE_NAMES) or _says_durable(headers)


def _says_durable(headers: Mapping[str, str]) -> bool:
    return _flag(headers, "durable", default=False) or _flag(headers, "persistent", default=False)


NO_WISH = SubscriptionWish(None, 0, exclusive=False)


def _milliseconds(headers: Mapping[str, str], name: str) -> float | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        number = float(value) if len(value) <= 30 else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= TIME_LIMIT:
        raise BadMessage(f"{name} must be a number of milliseconds, 0 or more, not {value[:30]!r}")
    return number


def _key(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = headers.get(name)
        if value:
            if len(value) > KEY_LIMIT:
                raise BadMessage(f"{name} has at most {KEY_LIMIT} characters, not {len(value)}")
            return value
    return None


def _flag(headers: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = headers.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise BadHeader(f"{name} must be true or false, not {value[:20]!r}")
    return value == "true"


def _priority(headers: Mapping[str, str]) -> int:
    for name in ("x-priority", "activemq.priority"):
        value = headers.get(name)
        if value is not None:
            digits = value.removeprefix("-")
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
                raise BadHeader(f"{name} must be a whole number, not {value[:20]!r}")
            return int(value)
    return 0
