"""Statements of jobs in one round trip: errors, sizes, broken connections."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from apps.jobs.models import Event
from apps.jobs.pipelined import Pipelined, Row

pytestmark = pytest.mark.django_db(transaction=True)

Scenario = Callable[[Pipelined, psycopg.AsyncConnection[Row]], Awaitable[None]]
Play = Callable[[Scenario], None]
NOWHERE = {"ids": [uuid.uuid4()]}


@pytest.fixture
def play(conninfo: str) -> Play:
    """Runs a scenario on a connection."""

    async def main(scenario: Scenario) -> None:
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        pipelined = Pipelined(connection)
        try:
            await scenario(pipelined, connection)
        finally:
            pipelined.close()
            await connection.close()

    return lambda scenario: asyncio.run(main(scenario))


def events(count: int, text: str = "x") -> dict[str, list[Any]]:
    return {
        "ids": [uuid.uuid4() for _ in range(count)],
        "ats": [datetime.now(UTC)] * count,
        "kinds": ["log"] * count,
        "data": [f'{{"level": "info", "text": "{text}"}}'] * count,
    }


def test_each_statement_has_its_rows(play: Play) -> None:
    async def scenario(pipelined: Pipelined, _: psycopg.AsyncConnection[Row]) -> None:
        for _ in range(3):  # prepared the first time
            told = {"channel": "c", "ids": NOWHERE["ids"]}
            assert list(map(len, await pipelined.run([("peek", NOWHERE), ("notify", told)]))) == [0, 1]

    play(scenario)


def test_what_fails_is_raised_takes_all_back_and_spoils_nothing_that_follows(play: Play) -> None:
    async def scenario(pipelined: Pipelined, _: psycopg.AsyncConnection[Row]) -> None:
        bad = events(1) | {"data": ["no json"]}
        with pytest.raises(psycopg.errors.InvalidTextRepresentation) as raised:
            await pipelined.run([("append_events", events(2)), ("append_events", bad), ("peek", NOWHERE)])
        assert "json" in str(raised.value.diag.message_primary)
        assert await pipelined.run([("peek", NOWHERE)]) == [[]]
        for _ in range(2):
            await pipelined.run([("append_events", events(1))])

    play(scenario)
    assert Event.objects.count() == 2


def test_a_savepoint_is_undone_alone(play: Play) -> None:
    async def scenario(pipelined: Pipelined, _: psycopg.AsyncConnection[Row]) -> None:
        await pipelined.run([("begin", {}), ("append_events", events(1))])
        with pytest.raises(psycopg.DatabaseError):
            await pipelined.run([("savepoint", {}), ("append_events", events(1) | {"data": ["no json"]})])
        await pipelined.run([("undo", {}), ("append_events", events(2)), ("commit", {})])

    play(scenario)
    assert Event.objects.count() == 3


def test_more_than_the_socket_takes_at_once_goes_through(play: Play) -> None:
    async def scenario(pipelined: Pipelined, _: psycopg.AsyncConnection[Row]) -> None:
        await pipelined.run([("append_events", events(40, "x" * 500_000))] * 2)

    play(scenario)
    assert Event.objects.count() == 80


def test_a_connection_that_breaks_is_told_to_whoever_waits_and_to_whoever_comes(play: Play, conninfo: str) -> None:
    async def scenario(pipelined: Pipelined, connection: psycopg.AsyncConnection[Row]) -> None:
        await pipelined.run([("peek", NOWHERE)])
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as other:
            await other.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                await pipelined.run([("peek", NOWHERE)])

    play(scenario)


def test_to_close_it_ends_the_wait(play: Play, conninfo: str) -> None:
    async def scenario(pipelined: Pipelined, _: psycopg.AsyncConnection[Row]) -> None:
        async with await psycopg.AsyncConnection.connect(conninfo) as other:
            await other.execute("LOCK TABLE jobs_job")
            waiting = asyncio.create_task(pipelined.run([("peek", NOWHERE)]))
            await asyncio.sleep(0)
            pipelined.close()
            with pytest.raises(psycopg.OperationalError, match="closed"):
                await waiting

    play(scenario)
