"""What the tests of schedules share: to make them, to move their times, to run what is due, to see what was sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.db import connection as django
from django.db import connections

from apps.accounts.models import Namespace
from apps.broker import schedules
from apps.broker.headers import decode_headers
from apps.broker.postgres.pipeline import connect
from apps.broker.postgres.scheduler import run_due
from apps.broker.schedules import ScheduleInfo

NAMESPACE = "schedules.test"
DEADLINE = 15.0
HOUR = timedelta(hours=1)


@contextmanager
def clean_namespace(conninfo: str) -> Iterator[None]:
    """A namespace without queues, before and after: the engine's tables outlive a test."""

    def sweep() -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("DELETE FROM msgweb.schedule")
            connection.execute(
                "DELETE FROM msgweb.message m USING msgweb.destination d"
                " WHERE d.id = m.destination AND d.namespace = %s",
                [NAMESPACE],
            )
            connection.execute("DELETE FROM msgweb.destination WHERE namespace = %s", [NAMESPACE])

    sweep()
    Namespace.objects.get_or_create(name=NAMESPACE)
    yield
    sweep()


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with django.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall()) if cursor.description else []


def sent(queue: str = "q") -> list[tuple[dict[str, str], bytes]]:
    """Headers and bodies of what waits in a queue, in order."""
    return [
        (decode_headers(bytes(headers)), bytes(body))
        for headers, body in sql(
            "SELECT m.headers, m.body FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
            " WHERE d.namespace = %s AND d.name = %s ORDER BY m.id",
            NAMESPACE,
            queue,
        )
    ]


def move(schedule: ScheduleInfo | int, by: timedelta) -> datetime:
    """Move a schedule's next run; returns when it is now."""
    key = schedule if isinstance(schedule, int) else schedule.id
    [(at,)] = sql("UPDATE msgweb.schedule SET next_at = next_at + %s WHERE id = %s RETURNING next_at", by, key)
    return at


def now_of(schedule: ScheduleInfo) -> ScheduleInfo | None:
    return next((one for one in schedules.schedules() if one.id == schedule.id), None)


def add(queue: str = "q", body: str = "tick", **options: Any) -> ScheduleInfo:
    return schedules.schedule(NAMESPACE, queue, body, **{"every": 60, **options})


def run(conninfo: str, *scenarios: Callable[[psycopg.AsyncConnection[Any]], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run scenarios at once, each with a connection like a keeper's."""

    async def each(scenario: Callable[[psycopg.AsyncConnection[Any]], Coroutine[Any, Any, Any]]) -> Any:
        async with keeper(conninfo) as connection:
            return await scenario(connection)

    async def all_of_them() -> list[Any]:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.gather(*(each(scenario) for scenario in scenarios))

    return asyncio.run(all_of_them())


@asynccontextmanager
async def keeper(conninfo: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    connection = await connect(conninfo, "msgweb test keeper")
    try:
        yield connection
    finally:
        await connection.close()


async def in_thread(call: Callable[[], Any]) -> Any:
    """Use Django from within an event loop; the thread's connection is closed again."""

    def called() -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    return await asyncio.to_thread(called)


def due(conninfo: str) -> float | None:
    [pause] = run(conninfo, run_due)
    return pause


def add_by_sql(**values: Any) -> int | None:
    [(destination,)] = sql("SELECT msgweb.destination_id(%s, 'queue', 'q')", NAMESPACE)
    row = {
        "next_at": None,
        "cron": None,
        "timezone": "UTC",
        "period": None,
        "remaining": None,
        "delay": 0.0,
        "destination": destination,
        **values,
    }
    with django.cursor() as cursor:
        cursor.execute(
            "SELECT msgweb.add_schedule(%(destination)s, %(next_at)s, %(cron)s, %(timezone)s, %(period)s,"
            " %(remaining)s, 4, true, NULL, NULL, 'a:1\n'::bytea, 'tick'::bytea, %(delay)s)",
            row,
        )
        return cursor.fetchone()[0]
