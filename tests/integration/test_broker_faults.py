"""Faults that a conformance suite cannot make: a process that hears nothing, a crash that empties unlogged tables."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message, Options
from apps.broker.postgres import PostgresEngine, listener
from tests.conformance.engines import DEADLINE, Recorder, done, send

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "faults.test"


@pytest.fixture
def queue() -> Address:
    Namespace.objects.get_or_create(name=NAMESPACE)
    return Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}")


@asynccontextmanager
async def started(conninfo: str) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(conninfo)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def test_a_process_that_cannot_hear_the_others_lets_nothing_overtake(conninfo, queue, monkeypatch):
    """What another process sent was receipted; what is sent here afterwards comes afterwards."""
    may_connect = asyncio.Event()
    connect = listener.connect

    async def connect_later(*arguments: str) -> psycopg.AsyncConnection:
        await may_connect.wait()
        return await connect(*arguments)

    async def scenario() -> None:
        async with started(conninfo) as one, started(conninfo) as other:
            consumer = Recorder(one)
            subscription = one.subscribe(queue, consumer, 10)
            await send(one, queue, b"0")
            await consumer.count(1)
            monkeypatch.setattr(listener, "connect", connect_later)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                pid = one._listener._connection.pgconn.backend_pid
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            async with asyncio.timeout(DEADLINE):
                while not one._listener.deaf:
                    await asyncio.sleep(0)
            await send(other, queue, b"1")
            await send(one, queue, b"2")
            await done(lambda callback: one.ack(subscription, consumer.ids[:1], callback))
            await consumer.count(3)
            assert consumer.bodies == [b"0", b"1", b"2"]
            may_connect.set()
            async with asyncio.timeout(DEADLINE):
                while one._listener.deaf:
                    await asyncio.sleep(0)
            await send(other, queue, b"3")
            await consumer.count(4)

    asyncio.run(scenario())


def test_a_crash_that_takes_a_groups_head_with_it_lets_the_group_go_on_in_order(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine:
            for number in range(4):
                message = Message(queue, b"%d" % number, persistent=number > 0, options=Options(group="g"))
                await done(lambda callback, message=message: engine.send(message, callback))
            consumer = Recorder(engine)
            engine.subscribe(queue, consumer, 10)
            await consumer.count(1)  # and what came behind it is parked
        with psycopg.connect(conninfo, autocommit=True) as connection:  # what a crash does to unlogged tables
            connection.execute("TRUNCATE msgweb.message_transient, msgweb.since_crash")
            [parked] = connection.execute("SELECT count(*) FROM msgweb.message WHERE session = 0").fetchone()
            assert parked == 3
        async with started(conninfo) as engine:
            consumer = Recorder(engine, acks=True)
            engine.subscribe(queue, consumer, 10)
            message = Message(queue, b"4", persistent=True, options=Options(group="g"))
            await done(lambda callback: engine.send(message, callback))
            await consumer.count(4)
            assert consumer.bodies == [b"1", b"2", b"3", b"4"]

    asyncio.run(scenario())
