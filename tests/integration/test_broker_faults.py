"""Faults that a conformance suite cannot make: a process that hears nothing, a crash that empties unlogged tables."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message, Options
from apps.broker.postgres import PostgresEngine, floors, listener, sessions, writer
from apps.broker.selectors import parse
from msgweb.errors import Unavailable
from msgweb.home import REPOSITORY
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


def test_a_process_whose_connection_breaks_while_it_starts_can_start_again_and_ends_at_once(conninfo):
    async def scenario() -> None:
        with psycopg.connect(conninfo) as holder, psycopg.connect(conninfo, autocommit=True) as connection:
            holder.execute("LOCK msgweb.since_crash IN ACCESS EXCLUSIVE MODE")
            engine = PostgresEngine(conninfo)
            starting = asyncio.create_task(engine.start())
            waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
            async with asyncio.timeout(DEADLINE):
                while not connection.execute(waiting, ["msgweb.since_crash"]).fetchall():
                    await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await asyncio.wait_for(
                    starting, writer.CLOSE_SECONDS / 2
                )  # it has nothing to write, and waits for nothing
            holder.rollback()
            await engine.start()
            await engine.close()

    asyncio.run(scenario())


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
                pid = one._listener.connection.pgconn.backend_pid
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


def test_what_was_committed_late_is_heard_of_before_what_a_selector_found_behind_it_is_taken(
    conninfo, queue, monkeypatch
):
    monkeypatch.setattr(floors, "LAG", 0.0)
    hear, finish = listener.Listener.hear, writer.Writer._finish
    silent = False

    def hear_later(self: listener.Listener) -> None:
        if not silent:
            hear(self)

    def finish_and_hear(self: writer.Writer, batch, results) -> None:
        nonlocal silent
        silent = silent and not batch.scans
        finish(self, batch, results)

    monkeypatch.setattr(listener.Listener, "hear", hear_later)
    monkeypatch.setattr(writer.Writer, "_finish", finish_and_hear)

    async def scenario() -> None:
        nonlocal silent
        statement = "SELECT msgweb.send(%s, %s, %s::text, '{}'::jsonb)"
        async with started(conninfo) as engine:
            with psycopg.connect(conninfo) as late:
                consumer = Recorder(engine, acks=True)
                engine.subscribe(queue, consumer, 10, selector=parse("persistent = 'true'"))
                await send(engine, queue, b"0")
                await consumer.count(1)
                late.execute(statement, [NAMESPACE, str(queue), "late 1"])
                for number in range(1, 5):
                    await send(engine, queue, b"%d" % number)
                    await consumer.count(number + 1)
                silent = True
                late.execute(statement, [NAMESPACE, str(queue), "late 2"])
            await send(engine, queue, b"5")
            await consumer.count(8)
            assert not silent
            assert consumer.bodies[5:] == [b"late 1", b"late 2", b"5"]

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


#: A process that takes a message and says so.
_TAKER = """
import asyncio, sys
from apps.broker.engine import Address
from apps.broker.postgres import PostgresEngine

class Taker:
    def deliver(self, subscription, deliveries):
        print("took", flush=True)

    def lost(self, subscription):
        pass

async def main(conninfo, namespace, name):
    engine = PostgresEngine(conninfo)
    await engine.start()
    engine.subscribe(Address(namespace, "queue", name), Taker(), 1)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.chaos
@pytest.mark.skipif(not sessions.MACHINE, reason="needs Linux's /proc, to see that a process is gone")
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "a-zombie"])
def test_a_process_that_was_killed_on_this_machine_is_not_waited_for(conninfo, queue, monkeypatch, reaped):
    monkeypatch.setattr(sessions, "LOCK_GRACE", 3600.0)

    async def scenario() -> None:
        async with started(conninfo) as engine:
            await send(engine, queue, b"a")
            taker = subprocess.Popen(
                [sys.executable, "-c", _TAKER, conninfo, queue.namespace, queue.name],
                stdout=subprocess.PIPE,
                cwd=REPOSITORY,
            )
            assert taker.stdout is not None
            assert await asyncio.to_thread(taker.stdout.readline) == b"took\n"
            taker.kill()
            os.waitid(os.P_PID, taker.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still to be asked for it
            if reaped:
                taker.wait()
            taker.stdout.close()
            consumer = Recorder(engine)
            engine.subscribe(queue, consumer, 1)
            await consumer.count(1)
            assert consumer.deliveries[0].deliveries == 2
            taker.wait()

    asyncio.run(scenario())
