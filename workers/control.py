"""What people want of running jobs, and which namespaces there are: heard by LISTEN, with a poll behind it.

It is heard on the connection on which the engine listens: each session of the database that listens to anything is
woken by each NOTIFY in it, so by every job that is asked for. A notification can be lost (a pooler in transaction mode,
a broken connection), so whatever it tells is also asked for every few seconds.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo

from apps.broker.engine import Engine
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
    """Hears by the engine, and asks on a connection of its own."""

    def __init__(
        self,
        engine: Engine,
        conninfo: str,
        running: Callable[[], list[UUID]],
        cancelled: Callable[[set[UUID]], None],
        namespaces: Callable[[list[str]], None],
        ordered: Callable[[Wish], None],
    ) -> None:
        """
        Args:
            engine: not started yet. One that is not capable of `channels` leaves it to the poll.
            running: which jobs run here now.
            cancelled: called with those of them that somebody asked to cancel; perhaps repeatedly.
            namespaces: called with the names of all namespaces, at the start and when they may have changed.
            ordered: called with what people want of it, when that has changed.
        """
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._running = running
        self._cancelled = cancelled
        self._namespaces = namespaces
        self._ordered = ordered
        self._obeyed: datetime | None = None
        self._engine = engine
        self._changed = asyncio.Event()  # something is to be asked for before its time
        self._task: asyncio.Task[None] | None = None
        if "channels" in engine.capabilities:
            engine.attend(NAMESPACES, lambda _payload: self._changed.set())
            engine.attend(CHANNEL, self._hear_order)
            engine.attend(CONTROL, self._hear_cancel)

    def start(self) -> asyncio.Task[None]:
        """Begin to ask, in a task that only an error of ours ends."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="control")
        return self._task

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _hear_order(self, payload: str | None) -> None:
        if payload is None or payload == str(self._engine.session):
            self._changed.set()

    def _hear_cancel(self, payload: str | None) -> None:
        if payload is None:
            self._changed.set()
        else:
            self._cancelled({job for job in self._running() if str(job) == payload})

    async def _serve(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
                try:
                    await self._ask(connection)
                finally:
                    await connection.close()
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
                log.warning("the control connection broke and is made again: %s", str(error).strip() or "no answer")
                await asyncio.sleep(RECONNECT_SECONDS)  # nothing tells when a database is back

    async def _ask(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        while True:
            self._changed.clear()
            async with asyncio.timeout(ANSWER_SECONDS):
                cursor = await connection.execute(query("namespaces"))
                self._namespaces([name for (name,) in await cursor.fetchall()])
                if jobs := self._running():
                    cursor = await connection.execute(query("cancel_requests"), {"ids": jobs})
                    self._cancelled({job for (job,) in await cursor.fetchall()})
                await self._obey(connection)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._changed.wait()

    async def _obey(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Each order once: what a signal said since is not undone by looking again."""
        cursor = await connection.execute(_ORDER, [int(self._engine.session)])
        row = await cursor.fetchone()
        if row is not None and row[0] != self._obeyed:
            self._obeyed = row[0]
            self._ordered(Wish(*row[1:]))
