r"""From bytes to frames, many frames a call.

The speed of the broker is decided here, in the encoder and in the engine, so the two frames that a busy connection
consists of have paths of their own:

- A run of plain ACK frames is one match of a compiled expression and one event: 0.17 us an ACK, where one that is taken
  apart as any frame takes 3.8.
- The head of a SEND is looked up by its own bytes, without the receipt and the content-length: a producer's heads are
  the same but for these two. Only a head that is new is taken apart: 4.7 us a SEND of four headers then, else 1.8.

(CPython 3.11, in buffers of 200 frames; with the gateway's share a message costs 3.3 us from SEND to ACK.)

Whatever arrives half is kept, with a note of what must come before looking again makes sense, so that a frame trickled
byte by byte costs time linear in its length.

A line may end in CR LF in every version. Only 1.2 says so; in 1.1 a header's value that ends in a bare carriage return
is something that nobody means, while people do type CR LF.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from apps.stomp.protocol import headers as header_text
from apps.stomp.protocol.errors import (
    FrameLimitExceeded,
    HttpRequest,
    MalformedFrame,
    MalformedHeader,
    NotConnected,
    RemoteProtocolError,
    TlsHello,
)
from apps.stomp.protocol.events import Ack, Send, SendHead, Violation

_CR = 13
_LINE_ENDS = (10, _CR)
_LINE_END_RUN = re.compile(rb"[\r\n]*")
_TLS_HANDSHAKE = 0x16  # the first byte of a TLS record of that type

#: Headers of a SEND that are the server's to set: never kept, never passed on. PHP's ACKs echo every header of the
#: MESSAGE, and consumers pass on what they received: what leaked here would come back as if the client meant it.
OWN_HEADERS = frozenset(
    {
        b"destination",
        b"receipt",
        b"transaction",
        b"content-length",
        b"message-id",
        b"subscription",
        b"ack",
        b"redelivered",
        b"delivery-count",
    }
)

_HTTP_START = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PRI) ")
_ACK_RUNS = {
    "1.2": (re.compile(rb"(?:ACK\nid:\d{1,19}\n\n\0\n*)+"), re.compile(rb"\nid:(\d+)")),
    "1.1": (
        re.compile(
            rb"(?:ACK\n(?:subscription:[ -\[\]-~]{1,200}\n)?message-id:\d{1,19}\n"
            rb"(?:subscription:[ -\[\]-~]{1,200}\n)?\n\0\n*)+"
        ),
        re.compile(rb"\nmessage-id:(\d+)\n"),
    ),
}
_ACK_RUNS["1.0"] = _ACK_RUNS["1.1"]
_NO_RUN = re.compile(rb"(?!)")

#: First lines that need no closer look; what else begins a frame is judged byte by byte, see `Parser._check_start`.
_GREETINGS = (b"CONNECT\n", b"STOMP\n")
_COMMANDS = tuple(
    b"%b\n" % name
    for name in (b"ACK", b"NACK", b"SUBSCRIBE", b"UNSUBSCRIBE", b"BEGIN", b"COMMIT", b"ABORT", b"DISCONNECT")
)
_LONGEST_COMMAND = max(map(len, _COMMANDS))

_CACHED_HEADS = 64
_CACHED_HEAD_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may send. Sizes in bytes.

    Attributes:
        frame: a whole frame, from its command to its NUL.
        headers: the number of headers of a frame.
        line: one header, name and value.
        command: the first line.
        greeting: a frame before log-in.
    """

    frame: int = 17 * 1024 * 1024
    headers: int = 100
    line: int = 16 * 1024
    command: int = 32
    greeting: int = 64 * 1024


class Frame(NamedTuple):
    """Any frame but a SEND and a plain ACK. Header values are decoded; `receipt` is as received."""

    command: str
    headers: dict[str, str]
    receipt: bytes | None


Item = Frame | Send | Ack | Violation

#: What was learned of heads of SENDs, by their bytes.
Heads = dict[bytes, SendHead]


class Parser:
    """Cuts a client's bytes into frames.

    Args:
        strict_acks: each 1.1 ACK is to be looked at by itself, for its subscription.

    After a CONNECT or STOMP frame it stops until `resume` says which version was agreed on; after a violation for ever.

    Attributes:
        rare: whether the last `feed` returned anything but SENDs outside of transactions and plain ACKs.
    """

    __slots__ = (
        "_ack_ids",
        "_ack_run",
        "_body_open",
        "_dead",
        "_heads",
        "_limits",
        "_pending",
        "_scanned",
        "_stopped",
        "_strict_acks",
        "_version",
        "_wanted",
        "rare",
    )

    def __init__(self, limits: Limits, *, strict_acks: bool = False) -> None:
        self._limits = limits
        self._strict_acks = strict_acks
        self._version: str | None = None
        self._stopped = False
        self._dead = False
        self._pending = bytearray()
        self._scanned = 0  # where in _pending the search for the frame's end goes on
        self._wanted = 0  # how long _pending must be before it can hold the whole frame; 0: unknown
        self._body_open = False  # the head is there, the body ends at a NUL
        self._heads: Heads = {}
        self._ack_run, self._ack_ids = _ACK_RUNS["1.2"]
        self.rare = False

    def feed(self, data: bytes) -> list[Item]:
        """Frames, in order, that are complete with these bytes."""
        self.rare = False
        if self._dead:
            return []
        pending = self._pending
        if pending or self._stopped:
            pending += data
            if self._stopped or not self._worth_parsing():
                return []
            data = bytes(pending)
            self._pending = bytearray()
        return self._parse(data)

    def forget_heads(self) -> None:
        """Make a new `SendHead` for each head that comes from now on."""
        self._heads = {}

    def resume(self, version: str, heads: Heads | None = None) -> None:
        """Go on after CONNECT, in the version that was agreed on. `feed(b"")` returns what came meanwhile.

        Args:
            heads: what other parsers of the same version and limits have learned; shared with them from now on.
        """
        self._version = version
        if heads is not None:
            self._heads = heads
        self._ack_run, self._ack_ids = _ACK_RUNS[version]
        if version == "1.1" and self._strict_acks:
            self._ack_run = _NO_RUN
        self._stopped = False
        self._rest(bytes(self._pending))

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._pending)

    def close(self) -> None:
        """Ignore whatever else comes."""
        self._dead = True
        self._pending = bytearray()
        self._heads = {}

    def _rest(self, data: bytes, wanted: int = 0, scanned: int = 0, *, body_open: bool = False) -> None:
        self._pending = bytearray(data)
        self._wanted = wanted
        self._scanned = scanned
        self._body_open = body_open

    def _worth_parsing(self) -> bool:
        """Whether what is kept may hold a whole frame, or one that is wrong already."""
        pending = self._pending
        size = len(pending)
        if self._wanted:
            return size >= self._wanted
        scanned = self._scanned
        self._scanned = max(0, size - 2)  # an end of three bytes may be cut anywhere
        if pending.find(b"\0", scanned) >= 0:
            return True
        limits = self._limits
        if self._body_open:
            return size >= (limits.greeting if self._version is None else limits.frame)
        return (
            pending.find(b"\n\n", scanned) >= 0
            or pending.find(b"\n\r\n", scanned) >= 0
            or scanned <= limits.command + 1  # the first line may show what the peer really speaks
            or size > (limits.greeting if self._version is None else limits.headers * limits.line)
            or pending[0] <= _CR
        )

    def _parse(self, data: bytes) -> list[Item]:
        items: list[Item] = []
        append = items.append
        find = data.find
        size = len(data)
        position = 0
        version = self._version
        heads = self._heads
        limits = self._limits
        line_limit = limits.line
        frame_limit = limits.greeting if version is None else limits.frame
        head_limit = min(frame_limit, limits.headers * line_limit)
        usual = () if limits.command < _LONGEST_COMMAND else _GREETINGS if version is None else _COMMANDS
        carriage = b"\r" in data  # one scan of the buffer saves one for each frame
        ack_run = self._ack_run.match
        head = b""
        receipt: bytes | None
        try:
            while position < size:
                first = data[position]
                if first in _LINE_ENDS:
                    position += 1
                    if position < size and data[position] in _LINE_ENDS:  # beats in a flood
                        position = _LINE_END_RUN.match(data, position).end()  # type: ignore[union-attr]
                    continue
                if first == 65 and version is not None:  # "A", of ACK
                    run = ack_run(data, position)
                    if run is not None:
                        end = run.end()
                        append(Ack(self._ack_ids.findall(data, position, end), None, None))
                        position = end
                        continue

                head = b""
                head_end = find(b"\n\n", position)
                body = head_end + 2
                if carriage:
                    other = find(b"\n\r\n", position, head_end + 1 if head_end >= 0 else size)
                    if other >= 0:
                        head_end = other
                        body = other + 3
                if head_end < 0 or head_end - position > head_limit:
                    self._check_start(data, position, _earliest_end(data) if head_end < 0 else head_end, head_limit)
                    self._rest(data[position:], scanned=max(0, size - position - 2))
                    break
                head = data[position:head_end]
                if carriage and b"\r" in head:
                    head = head.replace(b"\r\n", b"\n")
                    if head[-1] == _CR:
                        head = head[:-1]

                if version is None or not (head.startswith(b"SEND\n") or head == b"SEND"):
                    if not head.startswith(usual) or b"\0" in head:
                        self._check_start(data, position, head_end, head_limit)
                    end = find(b"\0", body)
                    if end < 0:
                        if size - position >= frame_limit:
                            raise self._too_large(frame_limit)
                        self._rest(data[position:], scanned=size - position, body_open=True)
                        break
                    if end + 1 - position > frame_limit:
                        raise self._too_large(frame_limit)
                    frame = self._frame(head, data[body:end])
                    self.rare = True
                    append(frame)
                    position = end + 1
                    if version is None:
                        self._stopped = True
                        self._rest(data[position:])
                        break
                    continue

                if b"\0" in head:
                    raise MalformedFrame("NUL within the headers")
                receipt = length = None
                key = head
                start = key.find(b"\nreceipt:")
                if start >= 0:
                    end = key.find(b"\n", start + 9)
                    if end < 0:
                        receipt = key[start + 9 :]
                        key = key[:start]
                    else:
                        receipt = key[start + 9 : end]
                        key = key[:start] + key[end:]
                    if b"\\" in receipt or not receipt.isascii() or version == "1.0" or len(receipt) > line_limit:
                        receipt = self._receipt(receipt)
                start = key.find(b"\ncontent-length:")
                if start >= 0:
                    end = key.find(b"\n", start + 16)
                    if end < 0:
                        length = key[start + 16 :]
                        key = key[:start]
                    else:
                        length = key[start + 16 : end]
                        key = key[:start] + key[end:]
                template = heads.get(key)
                if template is None:
                    template = self._learn(key, (receipt is not None) + (length is not None))
                if template.special:
                    self.rare = True

                if length is None:
                    end = find(b"\0", body)
                    if end < 0:
                        if size - position >= frame_limit:
                            raise self._too_large(frame_limit)
                        self._rest(data[position:], scanned=size - position, body_open=True)
                        break
                    if end + 1 - position > frame_limit:
                        raise self._too_large(frame_limit)
                else:
                    end = body + (int(length) if length.isdigit() and len(length) < 11 else self._length(length))
                    if end + 1 - position > frame_limit:
                        raise self._too_large(frame_limit)
                    if end >= size:
                        self._rest(data[position:], wanted=end + 1 - position)
                        break
                    if data[end]:
                        raise MalformedFrame(f"no NUL after the {end - body} bytes that content-length announced")
                append(Send(template, receipt, data[body:end]))
                position = end + 1
        except RemoteProtocolError as error:
            self.rare = True
            # Its traceback would hold this buffer, in a cycle that only the collector, which seldom runs, could undo.
            receipt = None
            if (
                find(b"\n", position, position + limits.command + 1) >= 0
            ):  # in what came, not in `head`, which lost its CRs
                receipt = self._receipt_in(head or data[position : position + head_limit])
            append(Violation(error.with_traceback(None), receipt, True))
            self.close()
        return items

    def _check_start(self, data: bytes, position: int, end: int, head_limit: int) -> None:
        """Whether a head, which may not be complete, is wrong in its first line, holds NUL or is too long.

        What it finds depends on the earliest wrong byte alone, never on how much has arrived.
        """
        command_limit = self._limits.command
        greeting = self._version is None
        start = data[position : min(end, position + command_limit) + 1]
        if greeting and start[0] == _TLS_HANDSHAKE:
            raise TlsHello("this port speaks STOMP without TLS, and a TLS handshake came")
        line, line_end, _ = start.partition(b"\n")
        if b"\0" in line:
            raise MalformedFrame("NUL within the headers")
        if not line_end and len(line) <= command_limit:
            return
        if greeting and _HTTP_START.match(line):
            raise HttpRequest("this port speaks STOMP, and an HTTP request came")
        if not line_end:
            raise FrameLimitExceeded(f"a command has at most {command_limit} bytes")
        if greeting and line.removesuffix(b"\r") not in (b"CONNECT", b"STOMP"):
            raise NotConnected(f"the first frame must be CONNECT or STOMP, not {line.decode(errors='replace')!r}")
        if data.find(b"\0", position, min(end, position + head_limit + 1)) >= 0:
            raise MalformedFrame("NUL within the headers")
        if end - position > head_limit:
            raise FrameLimitExceeded(f"the headers of a frame have at most {head_limit} bytes")

    def _lines(self, head: bytes, beside: int = 0) -> list[bytes]:
        """The head's lines, with the limits on number and length held; `beside` counts headers already cut out."""
        lines = head.split(b"\n")
        limits = self._limits
        if len(lines) - 1 + beside > limits.headers:
            raise FrameLimitExceeded(f"a frame has at most {limits.headers} headers")
        if len(head) > limits.line:
            for line in lines:
                if len(line) > limits.line:
                    raise FrameLimitExceeded(f"a header has at most {limits.line} bytes")
        return lines

    def _split(self, line: bytes, version: str) -> tuple[bytes, bytes]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise MalformedHeader(f"a header line without a colon: {line[:80].decode(errors='replace')!r}")
        if not name:
            raise MalformedHeader("a header without a name")
        if version == "1.0":
            value = value.lstrip(b" \t")  # 1.0 clients pad; from 1.1 on blanks belong to the value
        return name, value

    def _frame(self, head: bytes, body: bytes) -> Frame:
        if self._version != "1.0" and b"\\" not in head and head.isascii() and not body:
            frame = self._plain_frame(head)
            if frame is not None:
                return frame
        lines = self._lines(head)
        command = lines[0].decode(errors="replace")
        # CONNECT has no escapes in any version, and its version is not yet known (STOMP 1.2, "Value Encoding").
        version = self._version or "1.0"
        if version != "1.0" and body.strip():
            raise MalformedFrame(f"a {command[:32]} frame has no body")
        decoded: dict[str, str] = {}
        receipt: bytes | None = None
        for line in lines[1:]:
            if self._version is None:
                name, _, value = line.partition(b":")
                if not name or name == line:
                    self._split(line, version)
            else:
                name, value = self._split(line, version)
            text = header_text.decode(header_text.unescape(name, version), version)
            if text not in decoded:
                decoded[text] = header_text.decode(header_text.unescape(value, version), version)
                if name == b"receipt":
                    receipt = value
        return Frame(command, decoded, receipt)

    def _plain_frame(self, head: bytes) -> Frame | None:
        """A frame without escapes, in ASCII, decoded as a whole: a third of the time. None: it needs a closer look."""
        command, *lines = head.decode().split("\n")
        if len(lines) > self._limits.headers or len(head) > self._limits.line:
            return None
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not (name and colon):
                return None
            if name not in headers:
                headers[name] = value
        receipt = headers.get("receipt")
        return Frame(command, headers, None if receipt is None else receipt.encode())

    def _learn(self, key: bytes, beside: int) -> SendHead:
        """Take the head of a SEND apart, without its receipt and content-length."""
        version = self._version
        assert version is not None
        fields: dict[bytes, bytes] = {}
        kept: list[bytes] = []
        plain = version != "1.0" and b"\\" not in key and key.isascii()
        for line in self._lines(key, beside)[1:]:
            name, value = self._split(line, version)
            if not plain or b":" in value or b"\r" in line:
                line = header_text.canonical(name, value, version)
                name, _, value = line.partition(b":")
            fields.setdefault(name, value)
            if name not in OWN_HEADERS:
                kept.append(line)
        transaction = fields.get(b"transaction")
        kept.append(b"")
        head = SendHead(
            header_text.unescape(fields.get(b"destination", b""), "1.2").decode(),
            b"\n".join(kept),
            fields,
            None if transaction is None else header_text.unescape(transaction, "1.2").decode(),
        )
        if len(key) <= _CACHED_HEAD_SIZE:
            if len(self._heads) >= _CACHED_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    def _receipt(self, value: bytes) -> bytes:
        version = self._version
        assert version is not None
        if len(value) > self._limits.line:
            raise FrameLimitExceeded(f"a header has at most {self._limits.line} bytes")
        if version == "1.0":
            value = value.lstrip(b" \t")
        header_text.decode(header_text.unescape(value, version), version)
        return value

    def _length(self, value: bytes) -> int:
        """The value of a content-length that is not just a few digits."""
        digits = value.lstrip(b" \t") if self._version == "1.0" else value
        if not digits.isdigit():
            raise MalformedHeader(f"content-length is no number: {value[:32].decode(errors='replace')!r}")
        if len(digits.lstrip(b"0")) > 10:
            raise self._too_large(self._limits.frame)
        return int(digits.lstrip(b"0") or b"0")  # int() refuses thousands of digits, zeros too

    def _too_large(self, limit: int) -> FrameLimitExceeded:
        return FrameLimitExceeded(f"a frame has at most {limit} bytes here")

    def _receipt_in(self, head: bytes) -> bytes | None:
        """The receipt of a frame that is wrong, as far as it can be made out: an ERROR should name it.

        Nothing before log-in. Not to be asked where the first line is the fault: there it would depend on how much has
        arrived.
        """
        if self._version is None:
            return None
        _, found, rest = head.partition(b"\0")[0].partition(b"\nreceipt:")
        value = rest.partition(b"\n")[0].rstrip(b"\r")
        if not found or len(value) > self._limits.line:
            return None
        return value.lstrip(b" \t") if self._version == "1.0" else value


def _earliest_end(data: bytes) -> int:
    """Where a head that is not complete may end at the earliest: its last bytes may be the start of its end."""
    if data.endswith(b"\n\r"):
        return len(data) - 2
    return len(data) - data.endswith(b"\n")
