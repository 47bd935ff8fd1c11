"""Who sends in a run: STOMP clients, and applications that send from SQL in transactions of their own."""

import asyncio
import random
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from tests.chaos.clients import Client
from tests.chaos.history import Closed, Ending, Opened, Outcome, Sending
from tests.chaos.messages import Numbers, body_of
from tests.chaos.plans import SLOTS, ProducerPlan

if TYPE_CHECKING:
    from tests.chaos.runner import Run

RETRY_SECONDS = 0.02  # a server is away; nothing tells us when it is back


class StompProducer:
    """Sends over STOMP until its messages are sent; comes back whenever its connection breaks."""

    def __init__(self, run: "Run", plan: ProducerPlan) -> None:
        self._run = run
        self._plan = plan
        self._chance = random.Random(f"{run.plan.seed}/{plan.name}")
        self._numbers = Numbers(plan.name, self._chance)
        self._left = plan.messages
        self._slot = plan.slot
        self._connections = 0

    async def work(self) -> None:
        """All of it."""
        while self._left > 0:
            self._connections += 1
            name = f"{self._plan.name}.{self._connections}"
            client = await self._run.connect(self._slot, name)
            if client is None:
                self._slot = self._chance.choice(SLOTS)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._send_over(client)
            self._slot = self._chance.choice(SLOTS)

    async def _send_over(self, client: Client) -> None:
        plan, chance = self._plan, self._chance
        while client.live and self._left > 0:
            if chance.random() < plan.hop:
                break
            if chance.random() < plan.transactions:
                await self._transaction(client)
            else:
                self._send(client, None)
            if chance.random() < plan.cut:
                client.cut()
            await self._breathe(client, plan.window)
        await self._breathe(client, 1)
        await client.leave()

    def _send(self, client: Client, transaction: str | None) -> None:
        self._left -= 1
        message = self._numbers.draw(self._chance.choice(self._plan.queues))
        persistent = self._chance.random() < self._plan.persistent
        size = self._chance.randint(0, self._plan.size)
        client.send(**message, persistent=persistent, size=size, transaction=transaction)
        self._run.progressed()

    async def _transaction(self, client: Client) -> None:
        chance = self._chance
        name = client.begin()
        for _ in range(min(chance.randint(1, self._plan.unit), self._left)):
            self._send(client, name)
            if self._plan.work:
                await asyncio.sleep(chance.uniform(0, self._plan.work))
            if not client.live:
                return
        if chance.random() >= self._plan.aborted:
            client.end(name, commit=True)
        elif chance.random() < 0.5:
            client.end(name, commit=False)
        else:
            client.cut()

    async def _breathe(self, client: Client, window: int) -> None:
        """Wait for receipts until fewer than `window` are open; a silent server is left after a while."""
        if self._plan.work:
            await asyncio.sleep(self._chance.uniform(0, self._plan.work))
        else:
            await asyncio.sleep(0)  # let the others have their turn
        while client.live and (len(client.waiting) >= window or client.backlog > 1_000_000):
            heard = await client.news(self._plan.patience)
            if not heard and not self._run.calm.is_set():
                client.cut()


class SqlProducer:
    """Sends by `msgweb.send` in its own transactions, some of which stay open for a while."""

    def __init__(self, run: "Run", plan: ProducerPlan) -> None:
        self._run = run
        self._plan = plan
        self._chance = random.Random(f"{run.plan.seed}/{plan.name}")
        self._numbers = Numbers(plan.name, self._chance)
        self._left = plan.messages
        self._connections = 0
        self._transactions = 0

    async def work(self) -> None:
        """All of it."""
        while self._left > 0:
            self._connections += 1
            name = f"{self._plan.name}.{self._connections}"
            try:
                connection = await psycopg.AsyncConnection.connect(self._run.world.conninfo, connect_timeout=5)
            except psycopg.OperationalError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._run.recorder.write(Opened, connection=name, server="sql")
            try:
                while self._left > 0 and self._chance.random() >= self._plan.cut:
                    await self._transaction(connection, name)
            except psycopg.OperationalError:
                pass  # Postgres was killed, or this connection
            finally:
                self._run.recorder.write(Closed, connection=name, by="client")
                await connection.close()

    async def _transaction(self, connection: psycopg.AsyncConnection[Any], name: str) -> None:
        chance, recorder = self._chance, self._run.recorder
        self._transactions += 1
        transaction = f"{self._plan.name}.t{self._transactions}"
        for _ in range(min(chance.randint(1, self._plan.unit), self._left)):
            self._left -= 1
            queue = chance.choice(self._plan.queues)
            message = self._numbers.draw(queue)
            priority, turn, group = message.pop("priority"), message.pop("turn"), message["group"]
            persistent = chance.random() < self._plan.persistent
            fields = {**message, "persistent": persistent, "transaction": transaction}
            recorder.write(Sending, op=recorder.number(), connection=name, **fields)
            body = body_of(message["message"], chance.randint(0, self._plan.size))
            await self._call(connection, queue.name, body, persistent, priority, group, turn)
            self._run.progressed()
            await asyncio.sleep(chance.uniform(0, max(self._plan.work, 0.002)))
        if chance.random() < 0.1:
            await asyncio.sleep(chance.uniform(0, 0.3))  # an application that does something else meanwhile
        op = recorder.number()
        commit = chance.random() >= self._plan.aborted
        recorder.write(Ending, op=op, connection=name, transaction=transaction, commit=commit)
        await (connection.commit() if commit else connection.rollback())
        recorder.write(Outcome, op=op, result="done")

    async def _call(
        self,
        connection: psycopg.AsyncConnection[Any],
        queue: str,
        body: bytes,
        persistent: bool,
        priority: int,
        group: str | None,
        turn: int | None,
    ) -> None:
        arguments: dict[str, Any] = {
            "namespace": self._run.world.namespace,
            "destination": f"/queue/{self._run.prefix}{queue}",
            "body": body,
            "persistent": persistent,
            "priority": priority,
        }
        if group is not None:
            arguments["message_group"] = group
        if turn is not None:
            arguments["headers"] = Jsonb({"turn": str(turn)})
        named = ", ".join(f"{name} => %({name})s" for name in arguments)
        await connection.execute(f"SELECT msgweb.send({named})".encode(), arguments)
