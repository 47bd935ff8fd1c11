"""Headers that ask for what the broker cannot do yet: refused by name, never ignored in silence.

Each with the values that ask for nothing.
"""

from collections.abc import Mapping

from apps.stomp.gateway.errors import BadHeader, NotSupported
from msgweb.errors import BadMessage

_NOTHING: frozenset[str] = frozenset()
_FALSE = frozenset({"false"})

_QUEUE_SETTINGS: dict[str, frozenset[str]] = {
    "x-message-ttl": _NOTHING,
    "x-expires": _NOTHING,
    "x-max-length": _NOTHING,
    "x-max-length-bytes": _NOTHING,
    "x-dead-letter-exchange": _NOTHING,
    "x-dead-letter-routing-key": _NOTHING,
    "x-max-priority": frozenset(str(priority) for priority in range(11)),
}
SEND: dict[str, frozenset[str]] = {name: values for name, values in _QUEUE_SETTINGS.items() if name != "x-message-ttl"}
SUBSCRIBE: dict[str, frozenset[str]] = {
    **_QUEUE_SETTINGS,
    "browser": _FALSE,
    "browser-end": _FALSE,
    "activemq.retroactive": _FALSE,
    "filter": _NOTHING,
    "x-stream-offset": _NOTHING,
    "activemq.noLocal": _FALSE,
    "no-local": _FALSE,
}
SUBSCRIBE_QUEUE: dict[str, frozenset[str]] = {"auto-delete": _FALSE}

_SEND_RAW = frozenset(name.encode() for name in SEND)


def check(headers: Mapping[str, str], refused: Mapping[str, frozenset[str]]) -> None:
    """Raises NotSupported for the first header that asks for what there is not."""
    for name in refused.keys() & headers.keys():
        if headers[name] not in refused[name]:
            remedy = "; it is a setting here: manage.py queues set" if name in _QUEUE_SETTINGS else ""
            raise NotSupported(f"the header {name} is not supported{remedy}")


def check_send(fields: Mapping[bytes, bytes]) -> None:
    """The same for the raw headers of a SEND."""
    if not _SEND_RAW.isdisjoint(fields):
        check({name.decode(): fields[name].decode() for name in _SEND_RAW & fields.keys()}, SEND)


def priority_of(fields: Mapping[bytes, bytes], default: int) -> int:
    """The `priority` header.

    Raises:
        BadMessage: it is not 0 to 9.
    """
    value = fields.get(b"priority")
    if value is None:
        return default
    if len(value) != 1 or not value.isdigit():
        raise BadMessage(f"priority must be 0 to 9, not {value[:20].decode()!r}")
    return int(value)


def persistent_of(fields: Mapping[bytes, bytes]) -> bool:
    """The `persistent` header; without it a message is not.

    Raises:
        BadMessage: neither true nor false: a misspelt promise of durability must not be dropped in silence.
    """
    value = fields.get(b"persistent", b"false")
    if value not in (b"true", b"false"):
        raise BadMessage(f"persistent must be true or false, not {value[:20].decode(errors='replace')!r}")
    return value == b"true"


def prefetch_of(headers: Mapping[str, str], default: int, limit: int) -> int:
    """`prefetch-count` (RabbitMQ) or `activemq.prefetchSize`. 0 means "no limit" to some clients: the limit here.

    Raises:
        BadHeader: not a number.
    """
    value = headers.get("prefetch-count", headers.get("activemq.prefetchSize"))
    if value is None:
        return default
    if not (value.isascii() and value.isdigit()):
        raise BadHeader(f"prefetch-count must be a number, not {value[:20]!r}")
    return min(int(value[:9]), limit) or limit
