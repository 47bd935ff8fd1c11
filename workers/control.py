"""What people want of running jobs, and which namespaces there are: heard by LISTEN, with a poll behind it.

A notification can be lost (a pooler in transaction mode, a broken connection), so whatever it tells is also asked for
every few seconds.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from apps.jobs.channels import CONTROL, NAMESPACES
from apps.jobs.queries import query
from workers.ledger import NETWORK
from workers.orders import CHANNEL

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
RECONNECT_SECONDS = 1.0
ANSWER_SECONDS = 15.0

_ORDER = "SELECT at, slots, paused, stop FROM workers_order WHERE session = %s"


class Wish(NamedTuple):
    """What people want of this worker; None: as it is."""

    slots: int | None
    paused: bool | None
    stop: bool


class Control:
    """Listens on a connection of its own."""

    def __init__(
        self,
        conninfo: str,
        running: Callable[[], list[UUID]],
        cancelled: Callable[[set[UUID]], None],
        namespaces: Callable[[list[str]], None],
        session: Callable[[], int],
        ordered: Callable[[Wish], None],
    ) -> None:
        """
        Args:
            running: which jobs run here now.
            cancelled: called with those of them that somebody asked to cancel; perhaps repeatedly.
            namespaces: called with the names of all namespaces, at the start and when they may have changed.
            session: which worker this is.
            ordered: called with what people want of it, when that has changed.
        """
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._running = running
        self._cancelled = cancelled
        self._namespaces = namespaces
        self._session = session
        self._ordered = ordered
        self._obeyed: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to listen, in a task that only an error of ours ends."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="control")
        return self._task

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _serve(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
                try:
                    await self._listen(connection)
                finally:
                    await connection.close()
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
                log.warning("the control connection broke and is made again: %s", str(error).strip() or "no answer")
                await asyncio.sleep(RECONNECT_SECONDS)  # nothing tells when a database is back

    async def _listen(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        for channel in (CONTROL, NAMESPACES, CHANNEL):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        while True:
            async with asyncio.timeout(ANSWER_SECONDS):
                cursor = await connection.execute(query("namespaces"))
                self._namespaces([name for (name,) in await cursor.fetchall()])
                if jobs := self._running():
                    cursor = await connection.execute(query("cancel_requests"), {"ids": jobs})
                    self._cancelled({job for (job,) in await cursor.fetchall()})
                await self._obey(connection)
            async for notification in connection.notifies(timeout=POLL_SECONDS):
                if notification.channel == NAMESPACES or notification.payload == str(self._session()):
                    break
                self._cancelled({job for job in self._running() if str(job) == notification.payload})

    async def _obey(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Each order once: what a signal said since is not undone by looking again."""
        cursor = await connection.execute(_ORDER, [self._session()])
        row = await cursor.fetchone()
        if row is not None and row[0] != self._obeyed:
            self._obeyed = row[0]
            self._ordered(Wish(*row[1:]))
