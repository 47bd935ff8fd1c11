"""STOMP over WebSocket: what a browser speaks. The rules of RFC 6455 are the library's; this is the plumbing.

The STOMP stream is what the messages hold one after the other, however the client cuts it: stomp.js cuts large frames.
Answers go out as text or binary, whichever the client began with; what is no UTF-8 goes out as binary.
"""

import asyncio
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from apps.stomp.protocol.errors import NotStomp, TlsHello, WithoutWebSocket

SUBPROTOCOLS = [Subprotocol(f"{version}.stomp") for version in ("v12", "v11", "v10")]
CLOSING_BYTES = 64 * 1024
CLOSING_UNREAD = 8 * 1024 * 1024  # bytes that a client leaves unread, and asks for more of (pongs)
CLOSE_SECONDS = 2.0  # for the client's half of the closing handshake


class Inner(Protocol):
    """What a WebSocket carries: an `asyncio.Protocol`, and one method more."""

    def partial_received(self, size: int) -> None:
        """The socket has been read, and so many bytes wait for the rest of their message."""

    def stranger(self, error: NotStomp) -> None:
        """What comes is no WebSocket; it has its answer, and is to be closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class WebSocketProtocol(asyncio.Protocol):
    """A TCP connection that carries a WebSocket which carries an inner protocol's stream.

    Args:
        inner: gets the transport of the stream, and its bytes, as if it were a TCP connection of its own.
        path: of the WebSocket.
        origins: see `listeners.Listener`.
        most: bytes of a message.
    """

    def __init__(self, inner: Inner, path: str, origins: tuple[str, ...], most: int) -> None:
        self._inner = inner
        self._path = path
        self._origins = origins
        self._server = ServerProtocol(
            subprotocols=SUBPROTOCOLS, select_subprotocol=_select_subprotocol, max_size=most + 1024
        )
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else is called
        self._text: bool | None = None
        self._untouched = True  # nothing has come
        self._ended = False  # the client has said that it closes
        self._finishing = False  # it has, and the inner protocol is not done with what it said before

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The inner protocol is told at once, so that its log-in timer runs during the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(_StreamTransport(self, self._transport))

    def data_received(self, data: bytes) -> None:
        """Bytes of the WebSocket."""
        if self._untouched:
            self._untouched = False
            if stranger := _stranger(data):
                self._transport.write(stranger.answer)
                self._inner.stranger(stranger)
                return
        self._server.receive_data(data)
        self._answer()
        waiting = len(self._server.reader.buffer)
        unread = self._transport.get_write_buffer_size()
        if self._server.state is State.CLOSING and (waiting > CLOSING_BYTES or unread > CLOSING_UNREAD):
            self._transport.pause_reading()  # it sends on and on; the rest of the time is for reading the last frame
        else:
            self._inner.partial_received(waiting)

    def eof_received(self) -> bool:
        """The client sends no more, and a WebSocket without a closing handshake is over."""
        self._server.receive_eof()
        self._answer()
        self._end()
        return self._finishing

    def connection_lost(self, error: Exception | None) -> None:
        """Passed on."""
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """Passed on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Passed on, if anything can still be written."""
        if not self._ended:
            self._inner.resume_writing()

    def write(self, data: bytes) -> None:
        """Whole STOMP frames, as one message."""
        if self._server.state is not State.OPEN:
            return
        if self._text and _is_text(data):
            self._server.send_text(data)
        else:
            self._server.send_binary(data)
        self._flush()

    def close(self) -> None:
        """Begin the closing handshake, and do not wait long for the client's half."""
        if self._server.state is State.OPEN:
            self._server.send_close(CloseCode.NORMAL_CLOSURE)
            self._flush()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)
        elif self._server.state is State.CONNECTING or self._finishing:
            self._transport.close()

    def _answer(self) -> None:
        for event in self._server.events_received():
            if isinstance(event, Request):
                self._server.send_response(self._judge(event))
            elif isinstance(event, Frame):
                self._receive(event)
        self._flush()

    def _receive(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if self._text is None:
                self._text = frame.opcode is Opcode.TEXT
            self._inner.data_received(bytes(frame.data))
        elif frame.opcode is Opcode.CLOSE:
            self._end()

    def _end(self) -> None:
        """Nothing can be written any more; what the client has said is still done."""
        if not self._ended:
            self._ended = True
            self._inner.pause_writing()
            self._finishing = bool(self._inner.eof_received())

    def _flush(self) -> None:
        for data in self._server.data_to_send():
            if data:
                self._transport.write(data)
            elif not self._finishing:
                self._transport.close()

    def _judge(self, request: Request) -> Response:
        """The answer to the opening handshake."""
        url = urlsplit(request.path)
        if url.path.rstrip("/") != self._path:
            return self._server.reject(404, f"The WebSocket is at {self._path}.\n")
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_welcome(origin, request.headers.get("Host", "")):
            return self._server.reject(
                403, f"The listener's origins do not name {origin}: see `origins` in the reference.\n"
            )
        return self._server.accept(request)

    def _is_welcome(self, origin: str, host: str) -> bool:
        if self._origins:
            return "*" in self._origins or origin in self._origins
        return urlsplit(origin).hostname == urlsplit(f"//{host}").hostname


class _StreamTransport(asyncio.Transport):
    """The transport that the inner protocol sees."""

    def __init__(self, outer: WebSocketProtocol, transport: asyncio.Transport) -> None:
        super().__init__()
        self._outer = outer
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._outer.write(bytes(data))

    def close(self) -> None:
        self._outer.close()

    def abort(self) -> None:
        self._transport.abort()

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()


def _select_subprotocol(_: ServerProtocol, offered: Any) -> Subprotocol | None:
    """The highest version offered. A client that offers none is one that nothing can be told; it may come in."""
    return next((one for one in SUBPROTOCOLS if one in offered), None)


def _stranger(data: bytes) -> NotStomp | None:
    """What the first bytes are, if they are plainly no HTTP."""
    if data[:1] == b"\x16":
        return TlsHello("a TLS handshake on a port without TLS")
    if data.lstrip(b"\r\n").startswith((b"CONNECT\n", b"CONNECT\r\n", b"STOMP\n", b"STOMP\r\n")):
        return WithoutWebSocket("STOMP without a WebSocket")
    return None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
