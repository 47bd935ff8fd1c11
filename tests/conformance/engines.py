"""What the conformance suite drives an engine with: consumers that record, and waits that end on events."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import psycopg

from apps.broker.engine import Address, Delivery, Engine, Message, MessageId, Subscription
from apps.broker.postgres import PostgresEngine
from msgweb.errors import MsgwebError

DEADLINE = 15.0  # seconds until a wait has failed


class Recorder:
    """A consumer that keeps what it is given; `acks` makes it ack at once."""

    def __init__(self, engine: Engine, acks: bool = False) -> None:
        self.engine = engine
        self.acks = acks
        self.deliveries: list[Delivery] = []
        self.lost_count = 0
        self._changed = asyncio.Event()

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Record, and ack if so told."""
        if subscription.address.kind == "queue":
            assert len(subscription.held) <= subscription.credit
        self.deliveries.extend(deliveries)
        if self.acks:
            self.engine.ack(subscription, [delivery.id for delivery in deliveries])
        self._changed.set()

    def lost(self, subscription: Subscription) -> None:
        """Count."""
        self.lost_count += 1
        self._changed.set()

    @property
    def bodies(self) -> list[bytes]:
        """What came, in order."""
        return [delivery.body for delivery in self.deliveries]

    @property
    def ids(self) -> list[MessageId]:
        """The ids of what came, in order."""
        return [delivery.id for delivery in self.deliveries]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for deliveries (or a loss) until the condition holds."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def sleep(self) -> None:
        """Wait until something comes, or a moment has passed: something may have come to another."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await self._changed.wait()

    async def count(self, number: int) -> None:
        """Wait until so many messages came."""
        await self.until(lambda: len(self.deliveries) >= number)


async def done(start: Callable[[Callable[[MsgwebError | None], None]], object]) -> None:
    """Call a verb with a `done` callback and wait for it; raises what it reports."""
    future: asyncio.Future[MsgwebError | None] = asyncio.get_running_loop().create_future()
    start(future.set_result)
    async with asyncio.timeout(DEADLINE):
        error = await future
    if error is not None:
        raise error


async def send(engine: Engine, address: Address, *bodies: bytes, persistent: bool = True, priority: int = 4) -> None:
    """Send messages and wait until the last is done (and so all are: they go in order)."""
    for body in bodies[:-1]:
        engine.send(Message(address, body, persistent=persistent, priority=priority))
    last = Message(address, bodies[-1], persistent=persistent, priority=priority)
    await done(lambda callback: engine.send(last, callback))


async def abandon(engine: PostgresEngine, conninfo: str) -> None:
    """As if the process had been killed: its connections end, and the others find it dead at once."""
    session = engine.session
    engine._keeper._task.cancel()
    await asyncio.gather(engine._keeper._task, return_exceptions=True)
    engine._writer._closing = True
    if engine._writer._pipeline is not None:
        engine._writer._pipeline.close()
    await engine._listener.close()
    async with engine._keeper._connection.lock:
        pass  # else statistics that are being written, which no cancel reaches, watch the next connection's descriptor
    await engine._keeper._connection.close()
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("SELECT msgweb.bury_sessions(ARRAY[%s::int4])", [session])


async def sync(engine: Engine, address: Address) -> None:
    """Wait until everything that was asked of the engine before has taken effect."""
    await done(lambda callback: engine.send(Message(address._replace(name="sync"), b""), callback))
