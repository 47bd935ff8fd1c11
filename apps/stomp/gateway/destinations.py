"""Destinations as clients write them."""

import re
from typing import NamedTuple

from apps.broker.engine import REPLY_PREFIX, Address, parse_address
from apps.broker.patterns import is_pattern, validate, virtual_topic_of
from apps.stomp.gateway.errors import NotSupported
from msgweb.errors import BadDestination

_COMPOSITE = re.compile(r",\s*/(?:queue|topic)/")
_ESCAPED = re.compile(r"%(2F|25)", re.IGNORECASE)


class Temporary(NamedTuple):
    """`/temp-queue/x`: a reply queue of this connection."""

    name: str


class Task(NamedTuple):
    """`/task/x`: a job of that task."""

    name: str


class Job(NamedTuple):
    """`/job/x`: what a foreign worker says about a job."""

    id: str


Target = Address | Temporary | Task | Job


def parse_destination(namespace: str, text: str) -> Target:
    """What a destination means in a namespace.

    `/queue/x`, a bare `x`, `/amq/queue/x`: a queue. `/topic/x`, `/exchange/amq.topic/x`: a topic. `/reply-queue/x`:
    somebody's reply queue. Slashes inside a name are legal; `%2F` and `%25` are decoded, as RabbitMQ does.

    Raises:
        BadDestination: there can be no such destination.
        NotSupported: other brokers have such destinations.
    """
    if _COMPOSITE.search(text):
        raise NotSupported("composite destinations are not supported")
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
            if exchange != "amq.topic":
                raise NotSupported(f"the exchange {exchange!r} is not supported; use /queue/ or /topic/")
            return parse_address(namespace, f"/topic/{key}")
        case "/reply-queue/":
            address = parse_address(namespace, f"/queue/{_named(name, text)}")
            return address._replace(name=REPLY_PREFIX + address.name)
        case "/temp-queue/":
            return Temporary(_named(name, text))
        case "/temp-topic/":
            raise NotSupported("temporary topics are not supported")
        case "/task/":
            return Task(_named(name, text))
        case "/job/":
            return Job(_named(name, text))
        case _:
            return parse_address(namespace, text)


def check_subscribable(address: Address, capabilities: frozenset[str]) -> None:
    """What can be sent to and not be received from.

    Raises:
        BadDestination: a pattern that is none.
        NotSupported: the engine has no topic patterns, or no virtual topics.
    """
    if address.kind == "topic" and is_pattern(address.name):
        if "topic-wildcards" not in capabilities:
            raise NotSupported("topic patterns (*, #, >) are not supported")
        validate(address.name)
    elif address.kind == "queue" and virtual_topic_of(address.name) and "durable-topics" not in capabilities:
        raise NotSupported("queues of virtual topics are not supported")


def written(address: Address) -> str:
    """How an address is written on the wire."""
    if address.kind == "queue" and address.name.startswith(REPLY_PREFIX):
        return f"/reply-queue/{address.name[len(REPLY_PREFIX) :]}"
    return str(address)


def _named(name: str, text: str) -> str:
    if not name:
        raise BadDestination(f"{text!r} is no destination: the name is missing")
    return name
