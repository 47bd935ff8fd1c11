"""What the verbs accept as a destination, and the headers that go with a message."""

from collections.abc import Mapping

from apps.messaging.errors import BadMessage

#: Headers that STOMP or this library sets; a caller's own would be dropped or, worse, obeyed.
RESERVED = frozenset(
    {"destination", "receipt", "transaction", "content-length", "message-id", "subscription", "ack", "id"}
)


def queue(name: str) -> str:
    """`mails` or `/queue/mails`; a message's own `reply-to` goes through as it is."""
    return _full(name, "/queue/")


def topic(name: str) -> str:
    """`orders.new` or `/topic/orders.new`."""
    return _full(name, "/topic/")


def task(name: str) -> str:
    """`firebrand.clone_brand` or `/task/firebrand.clone_brand`; a queue is named in full, `/queue/thumbnails`."""
    return _full(name, "/task/")


def source(name: str) -> str:
    """What `on` listens to: `mails` is a queue; a topic is named in full, `/topic/orders.new`."""
    return _full(name, "/queue/")


def _full(name: str, prefix: str) -> str:
    full = name if name.startswith("/") else prefix + name
    if full == prefix or not full.isprintable():
        raise BadMessage(f"{name!r} is no destination")
    return full


def checked(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's headers, as they may go on the wire.

    Raises:
        BadMessage: a name that is empty, reserved or has a colon or line end, or a value that is no text.
    """
    out: dict[str, str] = {}
    for name, value in (headers or {}).items():
        # stomp.py escapes values, not names.
        if not name or ":" in name or "\\" in name or not name.isprintable():
            raise BadMessage(f"{name!r} cannot be the name of a header")
        if name in RESERVED:
            raise BadMessage(f"the header {name} is not the sender's to set")
        if not isinstance(value, str) or "\0" in value:
            raise BadMessage(f"the header {name} must be text, not {value!r}")
        out[name] = value
    return out
