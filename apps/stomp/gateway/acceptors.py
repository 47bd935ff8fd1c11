"""Listening sockets of a gateway: one acceptor for each listener."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from apps.stomp.gateway.listeners import Listener
from apps.stomp.gateway.proxied import BadProxyHeader, read_header
from apps.stomp.gateway.tls import make_context, report_failures

logger = logging.getLogger(__name__)

BACKLOG = 4096
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a machine that is gone is found in a minute
PROXIED_LIMIT = 1_000  # connections whose PROXY header has not come yet

#: Makes the protocol of a connection; the argument is who the client is, where the socket does not know.
Factory = Callable[[tuple[str, int] | None], asyncio.Protocol]


class Acceptor:
    """Accepts the connections of one listener.

    Args:
        bound: the listening socket; it is the acceptor's from now on.
    """

    def __init__(self, listener: Listener, bound: socket.socket, factory: Factory) -> None:
        self.listener = listener
        self._socket = bound
        self._factory = factory
        self._context = self._secured()
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._entering: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Accept from now on."""
        if self.listener.proxy:
            self._accepting = asyncio.ensure_future(self._accept_proxied())
        else:
            self._server = await self._serve(self._context)

    async def reload(self) -> None:
        """Read the TLS files again; connections that are open keep what they have.

        Raises:
            BadListener: they are no good; the old ones stay in use.
        """
        context = self._secured()
        if context is None:
            return
        self._context = context
        if self._server is not None:
            old, self._server = self._server, await self._serve(context)
            old.close()

    def close(self) -> None:
        """Accept no more."""
        if self._server is not None:
            self._server.close()
        for task in (self._accepting, *self._entering):
            if task is not None:
                task.cancel()
        self._socket.close()

    def _secured(self) -> ssl.SSLContext | None:
        """The listener's TLS as its files say now; raises BadListener."""
        if self.listener.tls is None:
            return None
        context = make_context(self.listener.tls)
        report_failures(context, self._report_handshake)
        return context

    def _report_handshake(self, reason: str) -> None:
        logger.info("connection listener=%s reason=%r", self.listener, reason)

    async def _serve(self, context: ssl.SSLContext | None) -> asyncio.Server:
        """On a copy of the socket, so that a server can follow another without a gap."""
        seconds = self.listener.options.login_seconds if context is not None else None
        return await self._loop.create_server(
            lambda: self._factory(None),
            sock=self._socket.dup(),
            ssl=context,
            ssl_handshake_timeout=seconds,
            backlog=BACKLOG,
        )

    async def _accept_proxied(self) -> None:
        while True:
            if len(self._entering) >= PROXIED_LIMIT:
                await asyncio.wait(self._entering, return_when=asyncio.FIRST_COMPLETED)
            try:
                connection, _ = await self._loop.sock_accept(self._socket)
            except OSError as error:  # out of descriptors, or the client has gone already
                logger.warning("a connection to %s could not be accepted: %s", self.listener, error)
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            task = asyncio.ensure_future(self._enter(connection))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, connection: socket.socket) -> None:
        """One connection, from its PROXY header to its protocol."""
        seconds = self.listener.options.login_seconds
        with contextlib.ExitStack() as closing:
            closing.callback(connection.close)
            try:
                async with asyncio.timeout(seconds):
                    peer = await read_header(connection)
                    await self._loop.connect_accepted_socket(
                        lambda: self._factory(peer),
                        connection,
                        ssl=self._context,
                        ssl_handshake_timeout=seconds if self._context is not None else None,
                    )
            except (BadProxyHeader, OSError, TimeoutError) as error:
                logger.info("connection listener=%s reason=%r", self.listener, f"bad_proxy_header: {error}")
                return
            closing.pop_all()


def bind(listener: Listener, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        listener.place.host, listener.place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with contextlib.ExitStack() as closing:
        bound = socket.socket(family, kind, protocol)
        closing.callback(bound.close)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        _tune(bound)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
        closing.pop_all()
    return bound


def _tune(listening: socket.socket) -> None:
    """Small frames go at once, and a machine that vanished is noticed. What is accepted inherits this, which saves five
    system calls a connection."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
