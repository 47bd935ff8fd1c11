"""Message headers as they are stored: `name:value\\n` each, escaped as STOMP 1.2 does, ready for the wire.

For code that makes or reads a few headers (jobs, the console, the outbox). The gateway's own codec works on frames.
"""

from collections.abc import Mapping

from msgweb.errors import BadMessage

_ESCAPES = {ord("\\"): r"\\", ord("\r"): r"\r", ord("\n"): r"\n", ord(":"): r"\c"}
_UNESCAPES = {"\\": "\\", "r": "\r", "n": "\n", "c": ":"}

#: Headers that the server sets for each delivery; a sender's own are not stored.
RESERVED = frozenset({"destination", "message-id", "subscription", "ack", "receipt", "transaction", "content-length"})


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Bytes for `Message.headers`.

    Raises:
        BadMessage: an empty name, a name or value that is no text or holds NUL, or a name that the server sets itself.
    """
    lines = []
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadMessage(f"header {name!r}: name and value must be text")
        if not name or "\0" in name or "\0" in value:
            raise BadMessage(f"header {name!r}: the name may not be empty, and NUL may not occur")
        if name in RESERVED:
            raise BadMessage(f"header {name!r} is set by the server")
        lines.append(f"{name.translate(_ESCAPES)}:{value.translate(_ESCAPES)}\n")
    return "".join(lines).encode()


def escape_header(text: str) -> bytes:
    """A header's name or value as STOMP 1.2 escapes it."""
    return text.translate(_ESCAPES).encode()


def decode_headers(data: bytes) -> dict[str, str]:
    """The headers of a stored message; the first of repeated ones wins (STOMP 1.2, "Repeated Header Entries")."""
    headers: dict[str, str] = {}
    for line in data.decode(errors="replace").split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(_unescape(name), _unescape(value))
    return headers


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    parts = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            code = next(characters, "")
            parts.append(_UNESCAPES.get(code, "\\" + code))
        else:
            parts.append(character)
    return "".join(parts)
