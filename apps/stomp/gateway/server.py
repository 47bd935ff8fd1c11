"""The listening side: many connections, one engine."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Mapping
from functools import partial

from apps.broker.engine import Engine
from apps.stomp.gateway.acceptors import Acceptor, bind
from apps.stomp.gateway.connections import ClientConnection
from apps.stomp.gateway.errors import ShuttingDown
from apps.stomp.gateway.figures import Figures
from apps.stomp.gateway.hoards import Hoards
from apps.stomp.gateway.listeners import BadListener, Listener
from apps.stomp.gateway.outside import OutsideJobs
from apps.stomp.gateway.ports import Authenticator, Principal, QueuePort, TaskPort, WorkPort
from apps.stomp.gateway.preparing import SelectorReading
from apps.stomp.gateway.sharing import Sharing
from apps.stomp.gateway.status import StatusProtocol
from apps.stomp.gateway.subscriptions import TopicFrames
from apps.stomp.gateway.supervision import Supervision
from apps.stomp.gateway.tracing import Traces
from apps.stomp.gateway.usage import Usages
from apps.stomp.gateway.websocket import WebSocketProtocol
from msgweb.home import Listen

logger = logging.getLogger(__name__)


class Gateway:
    """Serves STOMP clients. Made inside the event loop that it belongs to.

    Args:
        engine: started, and closed, by the caller.
        authenticator: checks logins.
        tasks: the door to jobs; without it SEND to `/task/...` is refused.
        queues: declares and browses queues; without it headers that ask for that are refused.
        work: records the attempts of jobs that clients work on; without it a job's message is one like others.
        linger_seconds: at the end, for clients to read their last frame.

    Attributes:
        connections: those that are open.
        jobs: those that clients work on.
        usages: what the keys of these connections use.
        sharing: tells other gateways of it.
        hoards: what they keep unfinished.
        selectors: reads the long ones of their subscriptions.
        figures: what it has counted.
        listening: where.
        draining: nothing new is brought to anybody.
    """

    def __init__(
        self,
        engine: Engine,
        authenticator: Authenticator,
        tasks: TaskPort | None = None,
        queues: QueuePort | None = None,
        linger_seconds: float = 2.0,
        work: WorkPort | None = None,
    ) -> None:
        self.engine = engine
        self.authenticator = authenticator
        self.tasks = tasks
        self.queues = queues
        self.jobs = OutsideJobs(work) if work is not None else None
        self._linger_seconds = linger_seconds
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.connections: set[ClientConnection] = set()
        self.usages = Usages()
        self.sharing = Sharing(engine, self.usages)
        self.hoards = Hoards()
        self.selectors = SelectorReading()
        self.figures = Figures(self)
        self.supervision = Supervision(self)
        self.traces = Traces(self.supervision.publish)
        name = secrets.token_hex(4)
        self._sessions = (f"session-{name}-{number}" for number in itertools.count(1))
        prefix = f"t{name}-"
        self.topic_prefix = prefix.encode()
        self.topic_frames = TopicFrames(prefix)
        self.listening: list[str] = []
        self._acceptors: list[Acceptor] = []
        self._status: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Future[None] | None = None

    async def listen(self, listener: Listener, *, reuse_port: bool = False) -> int:
        """Accept clients; returns the port.

        Raises:
            BadListener: its files are no good.
            OSError: the port is taken, or the address is not of this machine.
        """
        acceptor = Acceptor(listener, bind(listener, reuse_port=reuse_port), partial(self._protocol, listener))
        self._acceptors.append(acceptor)
        self.listening.append(str(listener))
        await acceptor.start()
        return acceptor.port

    async def show_status(self, place: Listen) -> int:
        """Answer `/healthz`, `/readyz` and `/metrics` there; returns the port.

        Raises:
            OSError: the port is taken, or the address is not of this machine.
        """
        self._status = await self.loop.create_server(lambda: StatusProtocol(self), place.host, place.port)
        port: int = self._status.sockets[0].getsockname()[1]
        return port

    @property
    def ready(self) -> bool:
        """Whether the database answers, and clients are taken."""
        return self.engine.healthy and not self.draining

    async def reload(self) -> None:
        """Read certificates and keys again. What is no good is logged, and the old ones stay in use."""
        for acceptor in self._acceptors:
            try:
                await acceptor.reload()
            except BadListener as error:
                logger.error("%s keeps its old certificate: %s", acceptor.listener, error.message)
            else:
                if acceptor.listener.tls is not None:
                    logger.info("%s has read its certificate again", acceptor.listener)

    def _protocol(self, listener: Listener, peer: tuple[str, int] | None) -> asyncio.Protocol:
        connection = ClientConnection(self, listener, peer)
        if listener.path is None:
            return connection
        return WebSocketProtocol(connection, listener.path, listener.origins, listener.options.limits.frame)

    async def drain(self, seconds: float) -> None:
        """Stop accepting; let clients finish what they hold and wait for; then end every connection with an ERROR.

        Args:
            seconds: for the clients; who has nothing under way is ended at once.
        """
        self.draining = True
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in list(self.connections):
            connection.bring_no_more()
        deadline = self.loop.time() + seconds
        while self.connections and self.loop.time() < deadline:
            for connection in [one for one in self.connections if one.quiet]:
                connection.end(ShuttingDown("this server is being stopped; connect again"))
            await self._empty(min(0.05, max(0.0, deadline - self.loop.time())))
        for connection in list(self.connections):
            connection.end(ShuttingDown("this server is being stopped; connect again"))
        await self._empty(self._linger_seconds + 1)
        self.sharing.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in self._tasks:
            task.cancel()
        if self._status is not None:
            self._status.close()  # the last: it says that nobody is taken any more

    def principals(self) -> set[Principal]:
        """Those who are connected and whose access may change."""
        found = (connection.principal for connection in self.connections)
        # Most of them are one and the same object, which is quicker told than that they are equal.
        distinct = {id(one): one for one in found if one is not None and one.identity is not None}
        return set(distinct.values())

    def access_changed(self, changed: Mapping[Principal, Principal | None]) -> None:
        """What somebody may do is another thing now; None: the log-in is gone."""
        for connection in list(self.connections):
            principal = connection.principal
            if principal is not None and principal in changed:
                connection.entering.change(changed[principal])

    def next_session(self) -> str:
        """A name for CONNECTED's `session`, which no connection had before."""
        return next(self._sessions)

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
