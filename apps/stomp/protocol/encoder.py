r"""Frames from the server, as bytes.

Every frame ends with NUL and exactly one LF: PECL stomp reads two bytes after a body and fails unless they are NUL LF,
and it fails on a blank line before a command.
"""

from collections.abc import Sequence

from apps.stomp.protocol.headers import escape, for_version

VERSIONS = ("1.0", "1.1", "1.2")
BEAT = b"\n"


def connected(version: str, session: str, server: str, heart_beat: str) -> bytes:
    """CONNECTED, which has no escapes. stomp-php takes a connection without `session` for none."""
    text = f"CONNECTED\nversion:{version}\nsession:{session}\nserver:{server}\nheart-beat:{heart_beat}\n\n\0\n"
    return text.encode()


def receipt(receipt_id: bytes) -> bytes:
    """RECEIPT for an id as it was received on the same connection."""
    return b"RECEIPT\nreceipt-id:%b\n\n\0\n" % receipt_id


def error(
    version: str,
    code: str,
    message: str,
    receipt_id: bytes | None = None,
    extra: Sequence[tuple[str, str]] = (),
) -> bytes:
    """ERROR. `message` is the header, and, with a full stop, the body.

    The code stands in the body too: PECL stomp shows its users the message and the body, and no other header.
    """
    lines = [b"ERROR", b"message:" + escape(message, version), b"code:" + code.encode()]
    if receipt_id is not None:
        lines.append(b"receipt-id:" + receipt_id)
    lines += [escape(name, version) + b":" + escape(value, version) for name, value in extra]
    body = message.encode() + b".\ncode: " + code.encode() + b"\n"
    lines += [b"content-type:text/plain", b"content-length:%d" % len(body), b"", body]
    return b"\n".join(lines) + b"\0\n"


class MessageEncoder:
    """Makes the MESSAGE frames of one subscription; what they have in common is made once.

    Args:
        version: of the connection.
        subscription: the id to show, or None (1.0, where the client gave none).
        destination: what the address is called where the sender did not call it otherwise.
        ackable: whether the messages are to be acked: 1.2 then has an `ack` header. Its value is the message-id,
            since clients confuse the two.
    """

    __slots__ = ("_escaped", "_first", "_other", "_repeat", "_twice", "_version")

    def __init__(self, version: str, subscription: str | None, destination: str, *, ackable: bool) -> None:
        name = b"" if subscription is None else b"subscription:%b\n" % escape(subscription, version)
        start = b"MESSAGE\n%b" % name.replace(b"%", b"%%")
        place = b"destination:%b\n" % escape(destination, version).replace(b"%", b"%%")
        self._twice = ackable and version == "1.2"
        ids = b"message-id:%b\nack:%b\n" if self._twice else b"message-id:%b\n"
        rest = b"%bcontent-length:%d\n\n%b\0\n"
        self._version = version
        self._escaped = version != "1.2"
        self._first = start + place + ids + rest
        self._other = start + ids + rest
        self._repeat = b"redelivered:true\ndelivery-count:%d\n"

    def encode(self, message_id: bytes, headers: bytes, body: bytes, deliveries: int = 0) -> bytes:
        """One frame.

        Args:
            deliveries: how often the message has been handed out, this time included; 0: that is not counted.

        Kept headers may begin with the destination as the sender gave it, where that is not the address's own name.
        """
        template = self._first
        if headers.startswith(b"destination:"):
            template = self._other
        if self._escaped and b"\\" in headers:
            headers = for_version(headers, self._version)
        if deliveries == 1:
            headers = b"delivery-count:1\n" + headers
        elif deliveries:
            headers = self._repeat % deliveries + headers
        if self._twice:
            return template % (message_id, message_id, headers, len(body), body)
        return template % (message_id, headers, len(body), body)
