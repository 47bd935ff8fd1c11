"""Engines to try, a queue that nobody else has, and its settings."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Engine
from apps.broker.postgres import PostgresEngine

NAMESPACE = "conformance.test"

OpenEngine = Callable[[], Awaitable[Engine]]
Scenario = Callable[[OpenEngine, Address], Awaitable[None]]
Configure = Callable[..., None]


@pytest.fixture
def play(conninfo: str) -> Callable[[Scenario], None]:
    """Run a scenario with engines of its own and a queue that nobody else has."""
    Namespace.objects.get_or_create(name=NAMESPACE)
    queue = Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}")

    @asynccontextmanager
    async def engines() -> AsyncIterator[OpenEngine]:
        opened: list[PostgresEngine] = []

        async def open_engine() -> Engine:
            engine = PostgresEngine(conninfo)
            await engine.start()
            opened.append(engine)
            return engine

        try:
            yield open_engine
        finally:
            for engine in opened:
                await engine.close()

    async def run(scenario: Scenario) -> None:
        async with engines() as open_engine:
            await scenario(open_engine, queue)

    return lambda scenario: asyncio.run(run(scenario))


@pytest.fixture
def configure(conninfo: str) -> Configure:
    """Change a queue's settings, as `manage.py queues set` does; the queue is made if it is missing."""

    def change(queue: Address, **settings: object) -> None:
        columns = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in settings.items()]
        with psycopg.connect(conninfo, autocommit=True) as connection:
            found = connection.execute("SELECT msgweb.destination_id(%s, 'queue', %s)", [queue.namespace, queue.name])
            (identifier,) = found.fetchone() or (None,)
            connection.execute(
                sql.SQL("UPDATE msgweb.destination SET {} WHERE id = {}").format(
                    sql.SQL(", ").join(columns), identifier
                )
            )

    return change
