"""A connection lives and what Postgres notifies of does not arrive: the process finds out, polls, says so, and listens
again when it can."""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from apps.accounts.models import Namespace
from apps.broker import catalogue
from apps.broker.engine import Address, Message, Options
from apps.broker.postgres import PostgresEngine, listener
from apps.jobs import waiting
from apps.jobs.control import cancel
from msgweb.errors import PooledDatabase
from tests import sample_tasks
from tests.cable import Muffled
from tests.conformance.engines import DEADLINE, Recorder, done, send
from tests.installation import Installation, until
from tests.stomp_gateway import RunningGateway
from tests.working import Jobs, start

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "probe.test"


@pytest.fixture
def queue() -> Address:
    Namespace.objects.get_or_create(name=NAMESPACE)
    return Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}")


@pytest.fixture
def topic(queue: Address) -> Address:
    return queue._replace(kind="topic")


@pytest.fixture
def cable(conninfo: str) -> Iterator[Muffled]:
    cable = Muffled(conninfo)
    yield cable
    cable.close()


@pytest.fixture(autouse=True)
def _probes_with_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(listener, "PROBE_AGAIN_SECONDS", 0.0)


@asynccontextmanager
async def started(conninfo: str) -> AsyncIterator[tuple[PostgresEngine, Callable[[bool], object]]]:
    """An engine, and a wait until it polls or listens."""
    engine = PostgresEngine(conninfo)
    await engine.start()
    changed = asyncio.Event()
    tell = engine._listener._hearing_changed

    def told() -> None:
        tell()
        changed.set()

    engine._listener._hearing_changed = told

    async def polls(polling: bool) -> None:
        async with asyncio.timeout(DEADLINE):
            while engine.polling != polling:
                changed.clear()
                await changed.wait()

    try:
        yield engine, polls
    finally:
        await engine.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of notifications."""
    return [one.getMessage() for one in caplog.records if "notifications of Postgres" in one.getMessage()]


def test_what_is_not_notified_is_found_by_polling_and_heard_again_later(
    conninfo: str, cable: Muffled, queue: Address, topic: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with started(cable.conninfo) as (one, polls), started(conninfo) as (other, _):
            consumer = Recorder(one, acks=True)
            one.subscribe(queue, consumer, 10)
            await polls(True)
            await send(other, queue, b"ready")
            await consumer.count(1)
            late = Message(queue, b"delayed", options=Options(delay=0.05))
            await done(lambda callback: other.send(late, callback))
            await consumer.count(2)
            assert said(caplog) == [one for one in said(caplog) if "polls" in one] and len(said(caplog)) == 1

            hearer = Recorder(one)
            one.subscribe(topic, hearer, 10)
            cable.muffled = False
            await polls(False)
            await send(other, topic, b"heard")
            await hearer.count(1)
            await send(other, queue, b"woken")
            await consumer.count(3)
            assert consumer.bodies == [b"ready", b"delayed", b"woken"]
            assert [one for one in said(caplog)[1:] if "arrive again" in one] == said(caplog)[1:]

    asyncio.run(scenario())


def test_what_could_not_be_sent_is_not_missed(conninfo: str, queue: Address) -> None:
    """The lease's connection broke with the probe on it: that says nothing of the listener's."""

    async def scenario() -> None:
        async with started(conninfo) as (engine, _), engine._keeper._turn:  # it does nothing of its own meanwhile
            ear, now = engine._listener, asyncio.get_running_loop().time() + 1000.0
            ear.withdraw_probe()
            assert ear.probe(now) is not None
            ear.withdraw_probe()
            assert ear.probe(now + 100.0) is not None and not engine.polling
            assert ear.probe(now + 200.0) is not None and engine.polling  # nobody sent that one

    asyncio.run(scenario())


def test_it_is_noticed_when_it_begins_later(conninfo: str, cable: Muffled, queue: Address) -> None:
    cable.muffled = False

    async def scenario() -> None:
        async with started(cable.conninfo) as (one, polls), started(conninfo) as (other, _):
            consumer = Recorder(one)
            one.subscribe(queue, consumer, 10)
            await send(other, queue, b"0")
            await consumer.count(1)
            assert not one.polling
            cable.muffled = True
            await polls(True)
            await send(other, queue, b"1")
            await consumer.count(2)

    asyncio.run(scenario())


def test_who_hears_nothing_keeps_no_queue_to_itself(conninfo: str, cable: Muffled, queue: Address) -> None:
    """Who is alone at a queue is asked by another to share it: which it would not hear."""

    def shared() -> bool:
        with psycopg.connect(conninfo) as asking:
            row = asking.execute(
                "SELECT bool_or(c.alone) FROM msgweb.consumer c JOIN msgweb.destination d ON d.id = c.destination"
                " WHERE d.name = %s",
                [queue.name],
            ).fetchone()
        return row == (False,)

    async def scenario() -> None:
        async with started(cable.conninfo) as (one, polls), started(conninfo) as (other, _):
            first = Recorder(one)
            one.subscribe(queue, first, 1)
            await send(one, queue, b"0")
            await first.count(1)
            await polls(True)
            await asyncio.to_thread(until, shared, DEADLINE, "it gives up being alone")
            await send(one, queue, b"1", b"2")
            second = Recorder(other)
            other.subscribe(queue, second, 10)
            await second.count(2)
            assert (first.bodies, second.bodies) == ([b"0"], [b"1", b"2"])

    asyncio.run(scenario())


def test_a_topics_messages_go_to_queues_that_others_have_bound_meanwhile(
    conninfo: str, cable: Muffled, queue: Address, topic: Address
) -> None:
    async def scenario() -> None:
        async with started(cable.conninfo) as (one, polls), started(conninfo) as (other, _):
            await send(one, topic, b"before")
            await polls(True)
            await done(lambda callback: other.bind(topic, queue, callback))
            await send(one, topic, b"after")
            consumer = Recorder(other)
            other.subscribe(queue, consumer, 10)
            await consumer.count(1)
            assert consumer.bodies == [b"after"]

    asyncio.run(scenario())


def test_the_console_and_the_figures_show_it(cable: Muffled, queue: Address, client: Client) -> None:
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    here = ("gateway", os.getpid())
    with RunningGateway(cable.conninfo) as running:

        def polling() -> bool:
            return b"msgweb_gateway_polling 1.0" in running.gateway.figures.text()

        def told() -> list[bool]:
            return [one.details["polling"] for one in catalogue.sessions() if (one.kind, one.pid) == here]

        async def serve() -> None:
            running.gateway.supervision.start()
            running.engine.serve()

        running.run(serve)
        until(polling, DEADLINE, "the gateway polls")
        until(lambda: told() == [True], DEADLINE, "it is told of")
        assert "polling: notifications of Postgres do not reach it" in client.get("/workers/").content.decode()
        assert "Notifications of Postgres do not reach gateway " in client.get("/connections/").content.decode()
        cable.muffled = False
        until(lambda: not polling(), DEADLINE, "the gateway listens")
        until(lambda: told() == [False], DEADLINE, "that too")
        assert "listening, " in client.get("/workers/").content.decode()
        page = client.get("/connections/").content.decode()
        assert "listening · 0 connections" in page and "do not reach" not in page


def test_a_session_that_is_not_its_own_is_noticed_at_the_next_look(
    conninfo: str, queue: Address, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with started(conninfo) as (engine, _):
            told = asyncio.Event()

            def filter_(record: logging.LogRecord) -> bool:
                if "pool_mode = session" in record.getMessage():
                    told.set()
                return True

            monkeypatch.setattr(logging.getLogger("apps.broker.postgres.sessions"), "filter", filter_)
            engine._keeper._connection.server_pid += 1  # as if another session answered
            async with asyncio.timeout(DEADLINE):
                await told.wait()
            consumer = Recorder(engine)  # and it goes on with a connection of its own
            engine.subscribe(queue, consumer, 1)
            await send(engine, queue, b"0")
            await consumer.count(1)

    asyncio.run(scenario())


def test_a_statement_that_another_session_prepared_refuses_nothing_for_good(
    conninfo: str, queue: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """A pooler put in between later: senders are told to try again, what was to be acked is kept."""

    async def scenario() -> None:
        async with started(conninfo) as (engine, _):
            await send(engine, queue, b"0")
            engine._writer._pipeline._connection.pgconn.exit_pipeline_mode()
            engine._writer._pipeline._connection.pgconn.exec_(b"DEALLOCATE ALL")
            engine._writer._pipeline._connection.pgconn.enter_pipeline_mode()
            with pytest.raises(PooledDatabase):
                await send(engine, queue, b"1")
            consumer = Recorder(engine)
            engine.subscribe(queue, consumer, 1)
            await consumer.count(1)  # it has connected anew
            assert consumer.bodies == [b"0"]

    asyncio.run(scenario())
    assert [one for one in caplog.messages if one.startswith("pooled_database: ")]


def test_other_processes_are_not_woken_by_a_probe(conninfo: str, queue: Address) -> None:
    async def scenario() -> None:
        other = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        async with other, started(conninfo) as (one, _):
            heard = asyncio.Event()
            hear = one._listener._heard_probe
            one._listener._heard_probe = lambda: (hear(), heard.set())
            for channel in ("msgweb_ready", "msgweb_topic", "msgweb_session"):
                await other.execute(f"LISTEN {channel}")
            async with asyncio.timeout(DEADLINE):
                await heard.wait()
            assert [said async for said in other.notifies(timeout=0)] == []

    asyncio.run(scenario())


def test_jobs_are_done_and_cancelled_by_a_worker_that_hears_nothing_and_it_listens_again_later(
    installation: Installation, tmp_path: Path
) -> None:
    cable = Muffled(installation.database)
    try:
        installation.env |= {"DATABASE_URL": cable.conninfo, "MSGWEB_TASK_MODULES": "tests.sample_tasks"}
        jobs = Jobs(installation, tmp_path)
        start(jobs)

        def polling() -> list[tuple[bool]]:
            return installation.query("SELECT (details->>'polling')::bool FROM msgweb.session WHERE kind = 'worker'")

        jobs.until(lambda: polling() == [(True,)], "it polls")
        assert jobs.end(jobs.ask("samples.add", a=1))["result"] == {"sum": 2}
        held = jobs.hold()
        jobs.cancel(held)
        assert jobs.end(held)["state"] == "cancelled"
        assert installation.log("worker").count("notifications of Postgres do not arrive") == 1
        cable.muffled = False
        jobs.until(lambda: polling() == [(False,)], "it listens")
        assert jobs.end(jobs.ask("samples.add", a=2))["result"] == {"sum": 3}
        assert installation.stop("worker") == 0
    finally:
        cable.close()


def test_who_waits_for_a_job_learns_of_its_end_without_being_notified(
    cable: Muffled, queue: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sample_tasks.add.enqueue(namespace=NAMESPACE, a=1)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "conninfo_of", lambda _: cable.conninfo)

    def wait() -> str:
        try:
            return waiting.wait_final(job.id, DEADLINE).state
        finally:
            connection.close()  # this thread's

    def listens() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN \"msgweb_job\"'")
            return cursor.fetchone() is not None

    with ThreadPoolExecutor(1) as thread:
        state = thread.submit(wait)
        until(lambda: state.done() or listens(), DEADLINE, "it listens")
        cancel(job.id, "the test")
        assert state.result(DEADLINE) == "cancelled"
