"""Headers that ask for what the broker cannot do yet: refused by name, never ignored in silence.

Each with the values that ask for nothing.
"""

from collections.abc import Mapping

from apps.stomp.gateway.errors import BadHeader, NotSupported
from msgweb.errors import BadMessage

_NOTHING: frozenset[str] = frozenset()
_FALSE = frozenset({"false"})

SUBSCRIBE: dict[str, frozenset[str]] = {
    "browser-end": _FALSE,
    "activemq.retroactive": _FALSE,
    "filter": _NOTHING,
    "x-stream-offset": _NOTHING,
    "activemq.noLocal": _FALSE,
    "no-local": _FALSE,
}
SUBSCRIBE_QUEUE: dict[str, frozenset[str]] = {"auto-delete": _FALSE}


def check(headers: Mapping[str, str], refused: Mapping[str, frozenset[str]]) -> None:
    """Raises NotSupported for the first header that asks for what there is not."""
    for name in refused.keys() & headers.keys():
        if headers[name] not in refused[name]:
            raise NotSupported(f"the header {name} is not supported")


def priority_of(fields: Mapping[bytes, bytes], default: int) -> int:
    """The `priority` header.

    Raises:
        BadMessage: it is not 0 to 9.
    """
    value = fields.get(b"priority")
    if value is None:
        return default
    if len(value) != 1 or not value.isdigit():
        raise BadMessage(f"priority must be 0 to 9, not {value[:20].decode(errors='replace')!r}")
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
