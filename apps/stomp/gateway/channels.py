"""A client's socket: what goes out together, why it is not read, and its end. What is said over it is above this."""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.protocol import encoder

if TYPE_CHECKING:
    from apps.stomp.gateway.tracing import Trace

DRAIN_AT_ONCE = 1 << 20  # bytes of a client that was refused that are read and thrown away at once; after that
DRAIN_RATE = 16 << 20  # so many a second: who sends twice what a frame may hold still comes to its ERROR
VANISHED_SECONDS = 60.0
RETRANSMISSIONS = 3
TCP_INFO_BYTES = 60  # of Linux's `struct tcp_info`: retransmits at 2, unacked at 24, last_ack_recv (ms ago) at 56


class Channel(asyncio.Protocol):
    """The socket's side of a connection.

    Args:
        peer: the client's address and port, where the socket does not know (behind a balancer).

    Attributes:
        holds: why the socket is not read; empty: it is.
        clogged: the client does not read.
        lost: the connection is gone.
        trace: who wants to see what is said, or None.
    """

    __slots__ = (
        "_drained",
        "_half_closed",
        "_out",
        "_timers",
        "_transport",
        "clogged",
        "holds",
        "loop",
        "lost",
        "opened",
        "options",
        "peer",
        "trace",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, options: GatewayOptions, peer: tuple[str, int] | None) -> None:
        self.loop = loop
        self.options = options
        self.peer = peer
        self.holds: list[str] = []  # a handful at most; an empty set is four times as large
        self.clogged = False
        self.lost = False
        self.trace: Trace | None = None
        self.opened = 0.0
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else is called
        self._out: list[bytes] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._half_closed = False  # by the client
        self._drained = 0  # bytes that were thrown away

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self.opened = self.loop.time()
        peer = transport.get_extra_info("peername")
        if self.peer is None and isinstance(peer, tuple) and len(peer) > 1:
            self.peer = (peer[0], peer[1])
        self._transport.set_write_buffer_limits(high=self.options.write_buffer)

    @property
    def peer_name(self) -> str:
        """Who the client is, for people."""
        return f"{self.peer[0]}:{self.peer[1]}" if self.peer else "local"

    @property
    def unread(self) -> int:
        """Bytes that wait for the client to read."""
        return self._transport.get_write_buffer_size()

    @property
    def vanished(self) -> bool:
        """Whether the client's machine seems to be gone: what is on its way to it was sent again and again, and for
        long nothing came back, not even TCP's own answers.

        TCP keep-alive finds a machine that is gone in a minute, but rests while something is on its way; by itself
        Linux would go on for fifteen.
        """
        socket_ = self._transport.get_extra_info("socket")
        if socket_ is None or not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
            return False
        try:
            info = socket_.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except OSError:  # closed, or no TCP at all
            return False
        if len(info) < TCP_INFO_BYTES:
            return False
        on_their_way, silent = (struct.unpack_from("=I", info, place)[0] for place in (24, 56))
        return bool(on_their_way and info[2] >= RETRANSMISSIONS and silent / 1000 > VANISHED_SECONDS)

    # -- writing

    def write_all(self, frames: list[bytes]) -> None:
        """Frames for the client; they go out together at the end of this turn of the loop."""
        if not self._out:
            self.loop.call_soon(self.flush)
        self._out += frames

    def write(self, frame: bytes) -> None:
        """The same with one frame."""
        if not self._out:
            self.loop.call_soon(self.flush)
        self._out.append(frame)

    def flush(self) -> None:
        """Write what there is now."""
        out = self._out
        if not out or self.lost:
            return
        data = b"".join(out)
        out.clear()
        if self.trace is not None:
            self.trace.note("out", data)
        self._transport.write(data)
        self.flushed()

    def flushed(self) -> None:
        """Something was written."""
        raise NotImplementedError

    def beat(self) -> None:
        """A heart-beat, unless something else goes out."""
        if not (self._out or self.lost or self._transport.is_closing()):
            self._transport.write(encoder.BEAT)

    # -- reading

    def hold(self, reason: str) -> None:
        """Read the socket no more, until the reason is gone."""
        if not self.holds and not self._transport.is_closing():
            self._transport.pause_reading()
        if reason not in self.holds:
            self.holds.append(reason)

    def release_hold(self, reason: str) -> None:
        """The reason is gone."""
        if reason not in self.holds:
            return
        self.holds.remove(reason)
        if not self.holds and not self.lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def drain(self, size: int) -> None:
        """So many bytes came that nobody wants any more. Some are read, so that the last frame arrives; of who goes on
        sending, no more than a trickle, or it would keep this process busy."""
        self._drained += size
        if self._drained > DRAIN_AT_ONCE and "drain" not in self.holds:
            self.hold("drain")
            self.start_timer("drain", size / DRAIN_RATE, lambda: self.release_hold("drain"))

    # -- timers

    def start_timer(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after so long, unless the connection has ended or the timer was stopped."""
        self._timers[name] = self.loop.call_later(seconds, callback)

    def stop_timer(self, name: str) -> None:
        """Do not call back."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop_timers(self) -> None:
        """None of them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # -- the end

    def close_gently(self, *, silent: bool = False) -> None:
        """Close so that the last frame arrives: half-close, then wait for the client, but not for long.

        Closing at once would reset the connection when something unread is in the socket, and a reset discards what
        the client has not read yet: the ERROR.

        Args:
            silent: the client sends nothing more, so nothing unread can be there, and the socket is closed as soon as
                the last frame is written: a shutdown, a read and two turns of the loop less.
        """
        self.flush()
        self.stop_timers()
        for reason in list(self.holds):
            self.release_hold(reason)
        if self._transport.can_write_eof() and not (self._half_closed or self._transport.is_closing()):
            self.start_timer("linger", self.options.linger_seconds, self._transport.abort)
            if silent:
                self._transport.close()
            else:
                self._transport.write_eof()
        else:
            self._transport.close()
