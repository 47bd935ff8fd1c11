"""The listening side: many connections, one engine."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable

from apps.broker.engine import Engine
from apps.stomp.gateway.connections import ClientConnection
from apps.stomp.gateway.errors import ShuttingDown
from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.gateway.ports import Authenticator, TaskPort
from apps.stomp.gateway.subscriptions import TopicFrames

logger = logging.getLogger(__name__)

BACKLOG = 1024


class Gateway:
    """Serves STOMP clients. Made inside the event loop that it belongs to.

    Args:
        engine: started, and closed, by the caller.
        authenticator: checks logins.
        tasks: the door to jobs; without it SEND to `/task/...` is refused.
        options: limits and defaults.

    Attributes:
        connections: those that are open.
        draining: nothing new is brought to anybody.
    """

    def __init__(
        self,
        engine: Engine,
        authenticator: Authenticator,
        tasks: TaskPort | None = None,
        options: GatewayOptions | None = None,
    ) -> None:
        self.engine = engine
        self.authenticator = authenticator
        self.tasks = tasks
        self.options = options or GatewayOptions()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.connections: set[ClientConnection] = set()
        prefix = f"t{secrets.token_hex(4)}-"
        self.topic_prefix = prefix.encode()
        self.topic_frames = TopicFrames(prefix)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Future[None] | None = None

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Accept clients; returns the port (0 asks for a free one).

        Raises:
            OSError: the port is taken, or the address is not of this machine.
        """
        server = await self.loop.create_server(
            lambda: ClientConnection(self), host, port, reuse_port=reuse_port or None, backlog=BACKLOG
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def drain(self, seconds: float) -> None:
        """Stop accepting; let clients finish what they hold and wait for; then end every connection with an ERROR.

        Args:
            seconds: for the clients; who has nothing under way is ended at once.
        """
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.stop_deliveries()
        deadline = self.loop.time() + seconds
        while self.connections and self.loop.time() < deadline:
            for connection in [one for one in self.connections if one.quiet]:
                connection.end(ShuttingDown("this server is being stopped; connect again"))
            await self._empty(min(0.05, max(0.0, deadline - self.loop.time())))
        for connection in list(self.connections):
            connection.end(ShuttingDown("this server is being stopped; connect again"))
        await self._empty(self.options.linger_seconds + 1)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in self._tasks:
            task.cancel()

    def forget(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def start_task(self, work: Awaitable[None]) -> None:
        """Run something beside the loop's callbacks, and keep it from being collected."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the gateway failed", exc_info=error)

    async def _empty(self, seconds: float) -> None:
        """Wait until there is no connection, but not longer."""
        if not self.connections:
            return
        self._emptied = self.loop.create_future()
        await asyncio.wait([self._emptied], timeout=seconds)
        self._emptied = None
