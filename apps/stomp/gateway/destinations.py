"""Destinations as clients write them."""

import re
from typing import NamedTuple

from apps.broker.engine import REPLY_PREFIX, Address, Kind, parse_address
from apps.broker.patterns import is_pattern, validate, virtual_topic_of
from apps.stomp.gateway.errors import NotSupported
from apps.stomp.protocol.dialects import RABBITMQ, Dialect
from msgweb.errors import BadDestination

_COMPOSITE = re.compile(r",\s*(?=/)")
COMPOSITE_LIMIT = 100  # destinations of one SEND
_ESCAPED = re.compile(r"%(2F|25)", re.IGNORECASE)


class Temporary(NamedTuple):
    """`/temp-queue/x` or `/temp-topic/x`: a reply queue, or a topic that nobody can guess, of this connection."""

    kind: Kind
    name: str


class Task(NamedTuple):
    """`/task/x`: a job of that task."""

    name: str


class Job(NamedTuple):
    """`/job/x`: what a foreign worker says about a job."""

    id: str


#: `/job/control`, to be subscribed to: where a connection hears that jobs which it works on are to stop.
JOB_CONTROL = Job("control")

Target = Address | Temporary | Task | Job


def parse_destinations(namespace: str, text: str) -> list[tuple[str, Target]]:
    """What the destination of a SEND means: one or, with commas before slashes, several (`/queue/a,/topic/b`); each
    with its own text.

    Raises:
        BadDestination: one of them cannot be, or there are too many.
        NotSupported: other brokers have such destinations.
    """
    texts = _COMPOSITE.split(text) if "," in text else [text]
    if len(texts) > COMPOSITE_LIMIT:
        raise BadDestination(f"a SEND goes to at most {COMPOSITE_LIMIT} destinations, not {len(texts)}")
    return [(one, parse_destination(namespace, one)) for one in texts]


def parse_destination(namespace: str, text: str) -> Target:
    """What a destination means in a namespace.

    `/queue/x`, a bare `x`, `/amq/queue/x`, `/exchange/amq.direct/x`: a queue. `/topic/x`, `/exchange/amq.topic/x`,
    `/exchange/amq.fanout`: a topic. `/reply-queue/x` and `/remote-temp-queue/x`: somebody's reply queue; the same for
    topics. Slashes inside a name are legal; `%2F` and `%25` are decoded, as RabbitMQ does.

    Raises:
        BadDestination: there can be no such destination.
        NotSupported: other brokers have such destinations.
    """
    if "," in text and _COMPOSITE.search(text):
        raise BadDestination(f"{text!r}: several destinations can be sent to, not received from")
    prefix, name = text, ""
    if text.startswith("/"):
        kind, slash, name = text[1:].partition("/")
        prefix = f"/{kind}{slash}"
    if "%" in name:
        name = _ESCAPED.sub(lambda match: "/" if match[1].upper() == "2F" else "%", name)
    match prefix:
        case "/queue/" | "/topic/":
            return parse_address(namespace, prefix + name)
        case "/amq/":
            if not name.startswith("queue/"):
                raise BadDestination(f"{text!r} is no destination")
            return parse_address(namespace, "/" + name)
        case "/exchange/":
            exchange, _, key = name.partition("/")
            match exchange:
                case "amq.topic":
                    return parse_address(namespace, f"/topic/{key}")
                case "amq.direct":
                    return parse_address(namespace, f"/queue/{key}")
                case "amq.fanout":  # it has one route for all keys
                    return Address(namespace, "topic", "amq.fanout")
            raise NotSupported(f"the exchange {exchange!r} is not supported; use /queue/ or /topic/")
        case "/reply-queue/" | "/remote-temp-queue/":
            address = parse_address(namespace, f"/queue/{_named(name, text)}")
            return address._replace(name=REPLY_PREFIX + address.name)
        case "/reply-topic/" | "/remote-temp-topic/":
            address = parse_address(namespace, f"/topic/{_named(name, text)}")
            return address._replace(name=REPLY_PREFIX + address.name)
        case "/temp-queue/":
            return Temporary("queue", _named(name, text))
        case "/temp-topic/":
            return Temporary("topic", _named(name, text))
        case "/task/":
            return Task(_named(name, text))
        case "/job/":
            return Job(_named(name, text))
        case _:
            return parse_address(namespace, text)


def check_subscribable(address: Address, capabilities: frozenset[str]) -> None:
    """What can be sent to and not be received from.

    Raises:
        BadDestination: a pattern that is none, also that of a virtual topic.
        NotSupported: the engine has no topic patterns, or no virtual topics.
    """
    if address.kind == "topic" and is_pattern(address.name):
        if "topic-wildcards" not in capabilities:
            raise NotSupported("topic patterns (*, #, >) are not supported")
        validate(address.name)
    elif address.kind == "queue" and (topic := virtual_topic_of(address.name)):
        if "durable-topics" not in capabilities:
            raise NotSupported("queues of virtual topics are not supported")
        validate(topic)


def written(address: Address, dialect: Dialect = RABBITMQ) -> str:
    """How an address is written on the wire."""
    if address.name.startswith(REPLY_PREFIX):
        prefix = dialect.remote_queue if address.kind == "queue" else dialect.remote_topic
        return prefix + address.name.removeprefix(REPLY_PREFIX)
    return str(address)


def _named(name: str, text: str) -> str:
    if not name:
        raise BadDestination(f"{text!r} is no destination: the name is missing")
    return name
