"""CONNECT, and what the login behind it may do and use from then on."""

import asyncio
from typing import TYPE_CHECKING

from apps.stomp.gateway import permitted
from apps.stomp.gateway.ports import Credentials, Principal
from apps.stomp.gateway.usage import NOTHING, Usage
from apps.stomp.protocol.events import Connect
from msgweb.errors import AccessRefused, MsgwebError, Unavailable

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection
    from apps.stomp.gateway.server import Gateway


class Entering:
    """The log-in of a connection.

    Attributes:
        usage: what its key uses, of all its connections.
        metered: how many of the connection's sends were held against its key's limit.
    """

    __slots__ = ("_connection", "_gateway", "_resumption", "metered", "usage")

    def __init__(self, connection: "ClientConnection", gateway: "Gateway") -> None:
        self._connection = connection
        self._gateway = gateway
        self._resumption: asyncio.TimerHandle | None = None
        self.usage: Usage = NOTHING
        self.metered = 0

    def connect(self, event: Connect, peer: str, certificate: dict[str, object] | None) -> None:
        """CONNECT: let the client in, or end its connection with an ERROR.

        Who has logged in like this a moment ago comes in at once: a PHP page connects on each request.

        Args:
            peer: its address, without the port.
            certificate: which TLS has verified.
        """
        connection = self._connection
        listener = connection.listener
        credentials = Credentials(
            event.login, event.passcode, event.host, listener.namespace, peer, certificate, listener.anonymous
        )
        known = self._gateway.authenticator.remembered(credentials) if connection.engine.healthy else None
        if known is not None:
            self._enter(event, known)
        else:
            connection.hold("log-in")
            connection.start_task(self._authenticate(event, credentials))

    async def _authenticate(self, event: Connect, credentials: Credentials) -> None:
        connection = self._connection
        try:
            if not connection.engine.healthy:
                raise Unavailable("the database is away; try again")
            principal = await self._gateway.authenticator.authenticate(credentials)
        except MsgwebError as error:
            connection.end(error)
            return
        try:
            if not connection.is_over:
                self._enter(event, principal)
        finally:
            connection.release_hold("log-in")
            if not connection.is_over:
                self.meter()

    def _enter(self, event: Connect, principal: Principal) -> None:
        try:
            self.usage = self._gateway.usages.enter(principal)
        except MsgwebError as error:
            self._connection.end(error)
            return
        self._connection.entered_by(event, principal)

    def change(self, principal: Principal | None) -> None:
        """What this login may do is another thing now.

        Args:
            principal: the same as before but for its access and limits; None: the log-in is gone.
        """
        connection = self._connection
        if connection.is_over:
            return
        if principal is None:
            connection.end(AccessRefused("this log-in was revoked, or has expired"))
            return
        connection.principal = principal
        self.usage.limits = principal.limits
        connection.forget_plans()
        try:
            connection.receiving.check_access()
            for transaction in connection.acknowledging.transactions.values():
                permitted.check_send(principal, {message.address for message in transaction.sends})
        except AccessRefused as error:
            connection.end(error)

    def meter(self) -> None:
        """Count what was sent, where the key's sends are limited: over the limit the socket is not read for a while."""
        connection = self._connection
        sends, self.metered = connection.sent - self.metered, connection.sent
        if sends and self.usage.limits.sends_per_second is not None:
            seconds = self.usage.pause_after(sends, connection.loop.time())
            if seconds and not connection.is_over:
                connection.hold("rate")
                if self._resumption is not None:
                    self._resumption.cancel()
                self._resumption = connection.loop.call_later(seconds, connection.release_hold, "rate")

    def leave(self) -> None:
        """The connection has ended."""
        if self._resumption is not None:
            self._resumption.cancel()
        principal = self._connection.principal
        if principal is not None and self.usage is not NOTHING:
            self._gateway.usages.leave(principal, self.usage)
            self.usage = NOTHING
