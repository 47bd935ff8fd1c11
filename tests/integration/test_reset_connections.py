"""A connection to Postgres that is reset while it has something to say is noticed, by both of our pipelines."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
import uvloop

from apps.broker.postgres.pipeline import ConnectionLost, Pipeline
from apps.jobs import pipelined
from apps.jobs.pipelined import Pipelined

LONG = "SELECT repeat('x', 100000)"  # more than libpq reads at a time
WAIT = "SELECT pg_sleep(600)"
UNREAD = 5000  # statements: more than Postgres reads at a time
SECONDS = 60.0  # a deadline for a loaded machine, not an expectation

pytestmark = pytest.mark.django_db(transaction=True)


def terminate(conninfo: str, pid: int) -> None:
    """End a backend that waits in a statement, and wait until it is gone. Meanwhile no event loop runs here: what it
    said, its last word and the reset come at once."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        sleeping = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        while other.execute(sleeping, [pid]).fetchone() is None:
            pass
        assert other.execute("SELECT pg_terminate_backend(%s, 30000)", [pid]).fetchone() == (True,)


async def jobs_pipeline(conninfo: str) -> None:
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    statements = Pipelined(connection)
    running = asyncio.ensure_future(statements.run([("long", {}), ("wait", {}), *[("much", {})] * UNREAD]))
    await asyncio.sleep(0)
    terminate(conninfo, connection.info.backend_pid)
    try:
        async with asyncio.timeout(SECONDS):
            with pytest.raises(psycopg.OperationalError):
                await running
    finally:
        statements.close()
        await connection.close()


async def engines_pipeline(conninfo: str) -> None:
    pipeline = await Pipeline.connect(conninfo, {"long": LONG, "wait": WAIT, "much": "SELECT 1"}, "reset")
    outcome = asyncio.get_running_loop().create_future()
    pipeline.run([("long", ()), ("wait", ()), *[("much", ())] * UNREAD], outcome.set_result)
    terminate(conninfo, pipeline.backend_pid)
    try:
        async with asyncio.timeout(SECONDS):
            assert isinstance(await outcome, ConnectionLost)
    finally:
        pipeline.close()


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("scenario", [jobs_pipeline, engines_pipeline], ids=["jobs", "engine"])
def test_a_reset_after_more_than_is_read_at_once_is_noticed(
    conninfo: str,
    scenario: Callable[[str], Awaitable[None]],
    loop: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in {"long": LONG, "wait": WAIT, "much": "SELECT 1"}.items():
        monkeypatch.setitem(pipelined.PLAIN, name, text)
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario(conninfo))
