"""A database that cannot: full, read-only, crowded, too old, without permission.

A clear error, and it goes on by itself when the database does.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message, Unit
from apps.broker.postgres import PostgresEngine, pipeline
from msgweb.errors import MsgwebError, Unavailable
from tests.conformance.engines import DEADLINE, Recorder, done, send

pytestmark = pytest.mark.django_db(transaction=True)
N = "bad.databases"

Scenario = Callable[[PostgresEngine, Address, psycopg.Connection], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(conninfo: str) -> Play:
    """Run a scenario with an engine, a queue that nobody else has, and a connection to make trouble with."""
    Namespace.objects.get_or_create(name=N)
    queue = Address(N, "queue", f"q-{uuid.uuid4()}")

    async def run(scenario: Scenario) -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                await scenario(engine, queue, connection)
        finally:
            await engine.close()

    return lambda scenario: asyncio.run(run(scenario))


@contextmanager
def full(connection: psycopg.Connection, verbs: str = "INSERT") -> Iterator[None]:
    """As Postgres says it when the disk is full: whoever inserts is refused with SQLSTATE 53100."""
    connection.execute(
        "CREATE FUNCTION msgweb.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
    )
    connection.execute(
        f"CREATE TRIGGER disk_full BEFORE {verbs} ON msgweb.message FOR EACH ROW EXECUTE FUNCTION msgweb.disk_full()"
    )
    try:
        yield
    finally:
        connection.execute("DROP TRIGGER disk_full ON msgweb.message")
        connection.execute("DROP FUNCTION msgweb.disk_full()")


@contextmanager
def read_only(connection: psycopg.Connection) -> Iterator[None]:
    """A standby, or somebody's emergency brake: new connections may not write."""
    name = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    end_connections(connection)
    try:
        yield
    finally:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        end_connections(connection)


@contextmanager
def crowded(connection: psycopg.Connection) -> Iterator[None]:
    """Too many clients: the engine's connections end, and others take their places."""
    with ExitStack() as stack:

        def crowd() -> None:
            while True:
                try:
                    stack.enter_context(psycopg.connect(connection.info.dsn))
                except psycopg.OperationalError:
                    return

        crowd()
        while connection.execute(OURS).fetchone() != (0,):
            end_connections(connection)
            crowd()
        yield


OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'msgweb%%' AND datname = current_database()"


def end_connections(connection: psycopg.Connection) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'msgweb%%' AND datname = current_database()"
    )


@pytest.mark.parametrize(("trouble", "refuses"), [(full, True), (read_only, False), (crowded, False)])
def test_the_engine_says_so_and_goes_on_when_the_database_does(
    play: Play,
    trouble: Callable[[psycopg.Connection], object],
    refuses: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that refuses is reported to the sender at once; one that is away is waited for."""

    async def scenario(engine: PostgresEngine, queue: Address, connection: psycopg.Connection) -> None:
        told = asyncio.Event()

        def heard(record: logging.LogRecord) -> bool:
            if "the database is away" in record.getMessage():
                told.set()
            return True

        monkeypatch.setattr(logging.getLogger("apps.broker.postgres.recovery"), "filter", heard)
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await send(engine, queue, b"before")
        await consumer.count(1)
        with trouble(connection):  # type: ignore[attr-defined]
            other = queue._replace(name=f"{queue.name}-nobody-consumes")
            during = Message(other, b"during", persistent=True)
            task = asyncio.ensure_future(done(lambda callback: engine.send(during, callback)))
            if refuses:
                with pytest.raises(Unavailable) as refused:
                    await task
                assert refused.value.code == "unavailable"
            else:
                async with asyncio.timeout(DEADLINE):
                    await told.wait()
                assert not task.done()
        if not refuses:
            await task
        await send_until_taken(engine, queue, b"after")
        await consumer.until(lambda: b"after" in consumer.bodies)

    play(scenario)


def test_a_full_disk_holds_up_no_consumer_though_senders_try_again_and_again(play: Play) -> None:
    """They make room; and who comes to consume is let in: the database answers."""

    async def scenario(engine: PostgresEngine, queue: Address, connection: psycopg.Connection) -> None:
        await send(engine, queue, *[b"%d" % number for number in range(100)])
        backend = engine._writer.backend_pid
        refusals = asyncio.Queue[MsgwebError]()

        def send_again(error: MsgwebError | None) -> None:
            if error is not None:
                refusals.put_nowait(error)
                engine.send(Message(queue, b"during", persistent=True), send_again)

        with full(connection):
            engine.send(Message(queue, b"during", persistent=True), send_again)
            consumer = Recorder(engine, acks=True)
            engine.subscribe(queue, consumer, 3)
            await consumer.count(100)
            assert consumer.bodies == [b"%d" % number for number in range(100)]
            async with asyncio.timeout(DEADLINE):
                for _ in range(2):
                    assert isinstance(await refusals.get(), Unavailable)
            assert len(consumer.bodies) == 100
            assert engine.healthy
            assert engine._writer.backend_pid == backend
        await consumer.count(101)
        assert consumer.bodies[-1] == b"during"

    play(scenario)


def test_acks_go_on_where_claims_have_no_room(play: Play) -> None:
    """To delete a row needs no room, to mark it as held does."""

    async def scenario(engine: PostgresEngine, queue: Address, connection: psycopg.Connection) -> None:
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 2)
        await send(engine, queue, *[b"%d" % number for number in range(5)])
        await consumer.count(2)
        with full(connection, "INSERT OR UPDATE"):
            await done(lambda callback: engine.ack(subscription, consumer.ids[:1], callback))
            await done(lambda callback: engine.ack(subscription, consumer.ids[1:2], callback))
            [left] = connection.execute(
                "SELECT count(*) FROM msgweb.message WHERE destination = msgweb.destination_id(%s, 'queue', %s)",
                [N, queue.name],
            ).fetchone() or (None,)
            assert left == 3
            assert len(consumer.bodies) == 2
        await consumer.count(4)
        assert consumer.bodies == [b"0", b"1", b"2", b"3"]

    play(scenario)


def test_where_nothing_can_be_written_at_all_acks_wait_and_are_written_once_there_is_room(play: Play) -> None:
    async def scenario(engine: PostgresEngine, queue: Address, connection: psycopg.Connection) -> None:
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 2)
        await send(engine, queue, b"1", b"2", b"3")
        await consumer.count(2)
        with full(connection, "INSERT OR UPDATE OR DELETE"):
            acked = asyncio.ensure_future(done(lambda callback: engine.ack(subscription, consumer.ids, callback)))
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await send(engine, queue, b"during")
            assert not acked.done()
        await acked
        await send_until_taken(engine, queue, b"after")
        await consumer.count(4)
        assert consumer.bodies == [b"1", b"2", b"3", b"after"]

    play(scenario)


def test_a_unit_that_a_full_disk_refuses_gives_back_what_it_would_have_acked(play: Play) -> None:
    async def scenario(engine: PostgresEngine, queue: Address, connection: psycopg.Connection) -> None:
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 1)
        await send(engine, queue, b"1")
        await consumer.count(1)
        with full(connection):
            unit = Unit(sends=[Message(queue, b"2", persistent=True)], acks=[(subscription, consumer.ids)])
            with pytest.raises(Unavailable):
                await done(lambda callback: engine.transact(unit, callback))
            await consumer.count(2)
        assert [(one.body, one.deliveries) for one in consumer.deliveries] == [(b"1", 1), (b"1", 2)]

    play(scenario)


async def send_until_taken(engine: PostgresEngine, queue: Address, body: bytes) -> None:
    """As a client does: again after `unavailable`."""
    async with asyncio.timeout(15):
        while True:
            try:
                await send(engine, queue, body)
            except Unavailable:
                continue
            return


def test_a_postgres_that_is_too_old_is_refused_by_its_version(conninfo, monkeypatch):
    monkeypatch.setattr(pipeline, "OLDEST_SERVER", 990000)

    async def work() -> None:
        with pytest.raises(Unavailable, match=r"PostgreSQL 99 or newer is needed, not \d+"):
            await PostgresEngine(conninfo).start()

    asyncio.run(work())


def test_without_permission_the_error_says_whose(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        name = f"visitor_{uuid.uuid4().hex[:8]}"
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(name)))
        try:

            async def work() -> None:
                visitor = psycopg.conninfo.make_conninfo(conninfo, user=name, password="x")
                with pytest.raises(Unavailable, match=r"permission denied|authentication failed"):
                    await PostgresEngine(visitor).start()

            asyncio.run(work())
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
