"""What time brings to jobs, kept up by every worker: whoever comes first does it, the others pass."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from psycopg.conninfo import make_conninfo

from apps.jobs import schedules
from apps.jobs.queries import query
from apps.jobs.retention import Retention, parse

log = logging.getLogger(__name__)

SECONDS = 1.0
THOROUGH_SECONDS = 10.0
PRUNE_SECONDS = 60.0  # between two looks at what has been kept long enough, while there is nothing
MOST = 500  # what one call does of each kind at most; then it is called again at once
ANSWER_SECONDS = 30.0
NETWORK = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 15_000}


async def keep_up(connection: psycopg.AsyncConnection[Any], *, thorough: bool = True) -> bool:
    """Do what is due. Returns whether there may be more.

    Args:
        connection: in autocommit mode.
        thorough: look at everything that waits for others, too.

    Raises:
        psycopg.Error: the database is away, or refuses; nothing is lost.
    """
    cursor = await connection.execute(query("upkeep"), {"thorough": thorough})
    row = await cursor.fetchone()
    return bool(row and row[0] >= MOST)


async def schedules_due(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the time of a schedule has come."""
    cursor = await connection.execute(query("schedules_due"))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def settings_count(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether `schedules.sync_settings` has anything to do: the settings name schedules, or did so once.

    Mostly they do not. Then neither the thread nor a connection of Django's is needed, nor the four megabytes that a
    process writes to when it first uses Django's models, and shares with those that were forked beside it until then.
    """
    if getattr(settings, "MSGWEB_SCHEDULES", None):
        return True
    cursor = await connection.execute(query("schedules_of_settings"))
    row = await cursor.fetchone()
    return bool(row and row[0])


def _with_django(call: Callable[[], object]) -> None:
    close_old_connections()
    try:
        call()
    except DatabaseError as error:  # tried again a second later, like everything here
        log.warning("schedules pause: %s", str(error).strip())
    finally:
        close_old_connections()


class Upkeep:
    """Keeps up once a second, on a connection of its own; schedules in a thread, whose connection is Django's."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="schedules")
        self._retention = Retention(parse(getattr(settings, "MSGWEB_JOBS_KEEP", "")))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        """Begin, in a task that only an error of ours ends."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="upkeep")
        return self._task

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._in_thread(connections.close_all)
        self._thread.shutdown()

    async def _in_thread(self, call: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, _with_django, call)

    async def _serve(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        configured = await settings_count(connection)
                    if configured:
                        await self._in_thread(schedules.sync_settings)
                    prune_at = thorough_at = 0.0
                    while True:
                        async with asyncio.timeout(ANSWER_SECONDS):
                            more = await keep_up(connection, thorough=time.monotonic() >= thorough_at)
                            due = await schedules_due(connection)
                        if due:
                            await self._in_thread(schedules.run_due)
                        if time.monotonic() >= thorough_at:
                            async with asyncio.timeout(ANSWER_SECONDS):
                                await connection.execute(query("roll_up"))
                            thorough_at = time.monotonic() + THOROUGH_SECONDS
                        if time.monotonic() >= prune_at:
                            async with asyncio.timeout(ANSWER_SECONDS):
                                removed = await self._retention.prune(connection)
                            prune_at = time.monotonic() + (SECONDS if removed else PRUNE_SECONDS)
                        if not more:
                            await asyncio.sleep(SECONDS)
                finally:
                    await connection.close()
            except (psycopg.Error, TimeoutError) as error:
                log.warning("the upkeep of jobs pauses: %s", str(error).strip() or "no answer")
                await asyncio.sleep(SECONDS)
