"""Whoever pins the horizon of transactions for long is seen, named, and told of once."""

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection as django_connection
from django.test import Client
from psycopg import sql

from apps.accounts.models import Namespace
from apps.broker import catalogue
from apps.broker.horizon import QUERY, Holder, Horizon, Memory, told_by
from apps.broker.postgres import PostgresEngine
from apps.broker.postgres.horizon import PERIOD, HorizonWatch
from msgweb.database import embedded_socket_dir
from msgweb.home import REPOSITORY
from msgweb.launcher.cluster import Cluster, open_cluster
from tests.installation import until
from tests.stomp_gateway import NAMESPACE, SECONDS, RunningGateway

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 600.0
LOGGER = "apps.broker.postgres.horizon"


@contextmanager
def old_transaction(conninfo: str, name: str) -> Iterator[psycopg.Connection]:
    """One that has read, and so keeps what is deleted from now on, and does nothing."""
    with psycopg.connect(conninfo, application_name=name) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM msgweb.session")
        yield connection


def look(connection: psycopg.Connection, memory: Memory, now: float) -> Horizon:
    return memory.read(connection.execute(QUERY).fetchall(), now)


@pytest.fixture
def session() -> Iterator[Callable[..., int]]:
    """Makes processes that hold their lease, the only ones there are."""

    def make(kind: str, details: str = "{}") -> int:
        with django_connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO msgweb.session (kind, host, pid, process, details, expires_at)"
                " VALUES (%s, 'h', 1, %s, %s, clock_timestamp() + interval '1 minute') RETURNING id",
                [kind, uuid.uuid4().hex, details],
            )
            return int(cursor.fetchone()[0])

    def clear() -> None:
        with django_connection.cursor() as cursor:
            cursor.execute("DELETE FROM msgweb.session")

    clear()
    yield make
    clear()


def test_an_open_transaction_is_named_with_what_to_do(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection, old_transaction(conninfo, "report") as old:
        for _ in range(3):
            connection.execute("SELECT pg_current_xact_id()")
        [found] = [one for one in look(connection, Memory(0.0), 0.0).alarming if one.application == "report"]
        pid = old.info.backend_pid
        assert (found.kind, found.name, found.state) == ("transaction", str(pid), "idle in transaction")
        assert found.user == connection.info.user and found.seconds > 0.0 and found.transactions >= 3
        assert found.who == (
            f"the transaction of process {pid} (report, user {connection.info.user}, idle in transaction)"
        )
        assert f"pg_terminate_backend({pid})" in found.remedy
        old.rollback()
        assert [one for one in look(connection, Memory(0.0), 0.0).alarming if one.application == "report"] == []


def test_short_transactions_one_after_the_other_hold_nothing_up(conninfo: str) -> None:
    """A connection may be in a transaction at each look: what counts is whether it is the same one."""
    memory = Memory(LIMIT)
    with psycopg.connect(conninfo, autocommit=True) as connection, old_transaction(conninfo, "busy") as busy:
        assert look(connection, memory, 0.0).alarming == ()
        busy.rollback()
        connection.execute("SELECT pg_current_xact_id()")
        busy.execute("SELECT count(*) FROM msgweb.session")
        assert [one for one in look(connection, memory, LIMIT + 1).alarming if one.application == "busy"] == []
        again = look(connection, memory, 2 * LIMIT + 2).alarming
        assert [one.seconds for one in again if one.application == "busy"] == [LIMIT + 1]


def test_who_may_not_see_others_still_learns_who_and_since_when(conninfo: str) -> None:
    role = f"blind_{uuid.uuid4().hex[:8]}"
    memory = Memory(LIMIT)
    with psycopg.connect(conninfo, autocommit=True) as connection, old_transaction(conninfo, "hidden") as old:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            assert look(connection, memory, 0.0).alarming == ()
            [found] = [one for one in look(connection, memory, LIMIT).alarming if one.application == "hidden"]
        finally:
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        assert (found.name, found.state, found.seconds) == (str(old.info.backend_pid), "", LIMIT)
        assert found.remedy == f"let it end, or SELECT pg_terminate_backend({old.info.backend_pid})"


def test_the_eldest_process_says_it_once_and_also_when_it_is_over(
    conninfo: str, session: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    web, first, second = session("web"), session("worker"), session("gateway")

    async def scenario() -> None:
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        async with connection:
            watches = {one: HorizonWatch(0.0) for one in (web, first, second)}
            with old_transaction(conninfo, "forgotten") as old:
                for round_ in range(3):
                    for one, watch in watches.items():
                        changed = await watch.look(connection, one, round_ * PERIOD)
                        assert changed or round_ > 0
                        assert not await watch.look(connection, one, round_ * PERIOD + 1)  # it is not time
                said = [one for one in caplog.messages if "forgotten" in one]
                assert len(said) == 1 and "VACUUM can remove nothing" in said[0]
                name = str(old.info.backend_pid)
            assert await watches[first].look(connection, first, 3 * PERIOD)
            assert f"{name} does not hold VACUUM up any more" in caplog.messages
            assert name not in {one.name for one in watches[first].horizon.alarming}

    asyncio.run(scenario())


def test_a_process_knows_and_tells_while_it_lasts(conninfo: str) -> None:
    def told() -> list[str]:
        return [one.application for one in told_by(each.details.get("horizon") for each in catalogue.sessions())]

    def wait() -> None:
        try:
            until(lambda: "leak" in told(), SECONDS, "it tells of the transaction")
        finally:
            django_connection.close()  # this thread's

    async def scenario() -> None:
        engine = PostgresEngine(conninfo, horizon_seconds=0.0)
        assert engine.horizon == Horizon()
        await engine.start()
        try:
            await asyncio.to_thread(wait)
            assert engine.horizon.seconds > 0.0 and engine.horizon.alarming
        finally:
            await engine.close()

    with old_transaction(conninfo, "leak"):
        asyncio.run(scenario())


def test_the_gateways_figures_have_its_age(conninfo: str) -> None:
    Namespace.objects.get_or_create(name=NAMESPACE)
    with old_transaction(conninfo, "leak"), psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        with RunningGateway(conninfo) as running:

            def figures() -> dict[str, float]:
                lines = running.gateway.figures.text().decode().splitlines()
                return {name: float(value) for name, value in (one.split() for one in lines if one[0] != "#")}

            until(lambda: figures()["msgweb_gateway_horizon_seconds"] > 0.0, SECONDS, "it has looked")
            assert figures()["msgweb_gateway_horizon_transactions"] >= 1.0


def test_the_overview_says_who_and_what_to_do(client: Client, session: Callable[..., int]) -> None:
    client.force_login(get_user_model().objects.create_user("rita", password="x"))
    assert "VACUUM" not in client.get("/").content.decode()
    holder = Holder("transaction", "4711", "<report>", "ada", "idle in transaction", 900.0, 12)
    told = json.dumps({"horizon": [holder.as_json(), {"of": "another version"}]})
    session("worker", told)
    session("gateway", told)
    page = client.get("/").content.decode()
    assert page.count("VACUUM can remove nothing that was deleted in the last 15 min") == 1
    assert "process 4711 (&lt;report&gt;, user ada, idle in transaction)" in page and "12 transactions since" in page
    assert "SELECT pg_terminate_backend(4711)" in page
    assert "4711" not in client.get("/workers/").content.decode()


@pytest.fixture
def roomy() -> Iterator[Cluster]:
    """A server that has prepared transactions and logical replication slots."""
    home = Path(tempfile.mkdtemp(prefix="msgweb-horizon-")).resolve()
    cluster = open_cluster(home, durable=False)
    cluster.create()
    with (cluster.data / "postgresql.conf").open("a") as settings:
        settings.write("max_prepared_transactions = 2\nwal_level = logical\n")
    command = [sys.executable, "-m", "msgweb.launcher", "postgres", "--no-fsync"]
    env = dict(os.environ, MSGWEB_HOME=str(home))
    server = subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        until(lambda: cluster.answers() or server.poll() is not None, SECONDS, "the server answers")
        yield cluster
    finally:
        server.terminate()
        server.wait(SECONDS)
        for folder in ((home / "postgres").resolve(), embedded_socket_dir(home), home):
            shutil.rmtree(folder, ignore_errors=True)


def test_a_prepared_transaction_and_a_replication_slot_are_named(roomy: Cluster) -> None:
    memory = Memory(LIMIT)
    with psycopg.connect(roomy.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE prepared ()")
        connection.execute("PREPARE TRANSACTION 'order''s 1'")
        assert look(connection, memory, 0.0).alarming == ()
        found = {one.kind: one for one in look(connection, memory, LIMIT).alarming}
        prepared, slot = found["prepared transaction"], found["replication slot"]
        assert (prepared.name, prepared.user) == ("order's 1", connection.info.user)
        assert prepared.remedy == "COMMIT PREPARED 'order''s 1' or ROLLBACK PREPARED 'order''s 1'"
        assert (slot.name, slot.application, slot.state) == ("feed", "pgoutput", "inactive")
        assert "pg_drop_replication_slot('feed')" in slot.remedy
        connection.execute("ROLLBACK PREPARED 'order''s 1'")
        connection.execute("SELECT pg_drop_replication_slot('feed')")
        assert look(connection, memory, LIMIT + 1) == Horizon()
