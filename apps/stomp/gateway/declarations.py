"""Headers of SEND and SUBSCRIBE that say how their queue must be: RabbitMQ's arguments of a queue.

As there, a queue that is new gets the settings, one that has them already is fine, and one that has others is an error.
"""

from collections.abc import Mapping
from typing import Any

from apps.broker.engine import REPLY_PREFIX, Address
from apps.stomp.gateway.errors import BadHeader, NotSupported

_PLAIN = {  # header, setting, what its number is multiplied by, what is added
    "x-message-ttl": ("message_ttl", 0.001, 0),
    "x-expires": ("expires_after", 0.001, 0),
    "x-max-length": ("max_length", 1, 0),
    "x-max-length-bytes": ("max_bytes", 1, 0),
    "x-delivery-limit": ("max_deliveries", 1, 1),  # how often it may come again, after the first time
}
_OVERFLOW = {"drop-head": "drop-head", "reject-publish": "refuse", "reject-publish-dlx": "refuse"}
_EXCHANGE, _ROUTING_KEY = "x-dead-letter-exchange", "x-dead-letter-routing-key"
NAMES = frozenset({*_PLAIN, "x-overflow", _EXCHANGE, _ROUTING_KEY, "x-max-priority", "x-queue-type"})
_RAW_NAMES = frozenset(name.encode() for name in NAMES)
_NUMBER_LIMIT = 15  # digits


def of_send(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The settings that the raw headers of a SEND ask for; see `of`."""
    if _RAW_NAMES.isdisjoint(fields):
        return {}
    return of({name.decode(): fields[name].decode(errors="replace") for name in _RAW_NAMES & fields.keys()})


def of(headers: Mapping[str, str]) -> dict[str, Any]:
    """The settings that headers ask for, by the names of `apps.broker.queue_settings`.

    Raises:
        BadHeader: a value that cannot be.
        NotSupported: a kind of queue, or an exchange, that there is not.
    """
    settings: dict[str, Any] = {}
    for name, (setting, factor, offset) in _PLAIN.items():
        if name in headers:
            settings[setting] = _number(name, headers[name]) * factor + offset
    asked = headers.get("x-overflow", "drop-head")  # RabbitMQ's default
    if asked not in _OVERFLOW:
        raise BadHeader(f"x-overflow must be {', '.join(_OVERFLOW)}, not {asked[:40]!r}")
    if "max_length" in settings or "max_bytes" in settings:
        settings["overflow"] = _OVERFLOW[asked]
    if _EXCHANGE in headers or _ROUTING_KEY in headers:
        exchange, key = headers.get(_EXCHANGE, ""), headers.get(_ROUTING_KEY)
        if exchange not in ("", "amq.direct"):
            raise NotSupported(
                f"dead letters go to a queue here: leave {_EXCHANGE} empty and name it in {_ROUTING_KEY}"
            )
        if not key:
            raise BadHeader(f"{_EXCHANGE} needs {_ROUTING_KEY}, the queue of the dead letters")
        settings["dead_letter_queue"] = key.removeprefix("/queue/")
    if _number("x-max-priority", headers.get("x-max-priority", "9")) > 255:
        raise BadHeader("x-max-priority is at most 255; priorities here are 0 to 9")
    if headers.get("x-queue-type", "classic") not in ("classic", "quorum"):
        raise NotSupported(
            f"there are no queues of the type {headers['x-queue-type'][:40]!r}: classic and quorum are one"
        )
    return settings


def check_declarable(address: Address) -> None:
    """Settings are a queue's.

    Raises:
        NotSupported: it is something else.
    """
    if address.kind != "queue" or address.name.startswith(REPLY_PREFIX):
        raise NotSupported("a topic has no settings, nor has a reply queue; those headers belong to a queue")


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= _NUMBER_LIMIT):
        raise BadHeader(f"{name} must be a whole number, not {value[:20]!r}")
    return int(value)
