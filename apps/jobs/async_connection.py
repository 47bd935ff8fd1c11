"""One statement to Postgres from a coroutine, without a thread: a connection for each event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import connection as django_connection

from apps.broker.errors import QueueFull
from apps.jobs.queries import query
from msgweb.database import conninfo_of
from msgweb.errors import BadDestination, NotFound, Unavailable

_REFUSALS = {"MW400": BadDestination, "MW404": NotFound, "MW413": QueueFull}


class _Line:
    """The connection of a loop; one statement at a time."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.lock = asyncio.Lock()
        self._held: AsyncGenerator[psycopg.AsyncConnection[tuple[Any, ...]], None] | None = None
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """The connection, made anew if it broke."""
        if self._connection is None or self._connection.closed:
            await self.close()
            # A generator, since the end of the event loop closes those: a loop has no other hook.
            self._held = self._hold()
            self._connection = await anext(self._held)
        return self._connection

    async def close(self) -> None:
        """Give the connection up."""
        held, self._held, self._connection = self._held, None, None
        if held is not None:
            await held.aclose()

    async def _hold(self) -> AsyncGenerator[psycopg.AsyncConnection[tuple[Any, ...]], None]:
        connection = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
        try:
            yield connection
        finally:
            await connection.close()


_lines: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Line]" = WeakKeyDictionary()


async def fetch_one(name: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The first row of a named statement, in a transaction of its own.

    Raises:
        BadDestination, NotFound, QueueFull: as the engine's functions refuse.
        Unavailable: the database is away.
    """
    async with _connected() as connection:
        return await (await connection.execute(query(name), parameters)).fetchone()


async def fetch_number(name: str, values: Sequence[bytes | None]) -> int | None:
    """The one number that a named statement with `$1` and so on returns, in a transaction of its own.

    Args:
        values: as text.

    Raises:
        Unavailable: the database is away.
    """
    texts = [None if value is None else value.decode() for value in values]
    async with _connected() as connection:
        cursor = psycopg.AsyncRawCursor(connection)
        row = await (await cursor.execute(query(name), texts, prepare=False)).fetchone()
    assert row is not None
    found: int | None = row[0]
    return found


@asynccontextmanager
async def _connected() -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """The loop's connection, for one statement."""
    loop = asyncio.get_running_loop()
    conninfo = conninfo_of(django_connection.settings_dict)
    line = _lines.get(loop)
    if line is None or line.conninfo != conninfo:
        if line is not None:
            await line.close()
        line = _lines[loop] = _Line(conninfo)
    async with line.lock:
        try:
            yield await line.connected()
        except psycopg.OperationalError as error:
            raise Unavailable(f"the database is away: {str(error).strip()}") from error
        except psycopg.DatabaseError as error:
            refusal = _REFUSALS.get(error.sqlstate or "")
            if refusal is None:
                raise
            raise refusal(str(error).partition("\n")[0]) from error
