"""Counting what happens at queues and topics, and writing it down every ten seconds: a row for each that was used.

Every process writes when ten seconds of the database's clock are over, and what it writes belongs to these: so each
span has one row of each process, and steady traffic shows as steady.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import psycopg

LATE = 5.0  # seconds: a writing this late still belongs to the ten seconds before
ROLL_UP = 60.0  # seconds between two roll-ups
FORGOTTEN_LIMIT = 100_000  # destinations whose counts wait for a database that is away


@dataclass(slots=True)
class Counts:
    """What happened at a destination since it was written down last. Plain numbers: the hot path adds to them."""

    sent: int = 0
    sent_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    acked: int = 0
    redelivered: int = 0
    failed: int = 0
    dropped: int = 0


_NAMES = tuple(field.name for field in fields(Counts))
_COLUMNS = ", ".join(_NAMES)
#: Seconds until the end of these ten seconds; of the next ones if that is near, for this writing was for these.
_UNTIL = """
    SELECT extract(epoch FROM date_bin('10 seconds', clock_timestamp() + interval '2.5 seconds', '2000-01-01')
                              + interval '10 seconds' - clock_timestamp())::float8
"""
_WRITE = (
    f"INSERT INTO msgweb.statistic (resolution, at, destination, {_COLUMNS})"
    f" SELECT 10, date_bin('10 seconds', clock_timestamp() - interval '{LATE} seconds', '2000-01-01'), u.*"
    f" FROM unnest(%s::int4[], {', '.join(['%s::int8[]'] * len(_NAMES))}) AS u"
)


class StatisticsWriter:
    """Writes a process's counts, and does its share of the sampling and the rolling up.

    Args:
        used: the destinations that this process knows, with their ids and counts.
    """

    def __init__(self, used: Callable[[], Iterable[tuple[int, Counts]]]) -> None:
        self._used = used
        self._due = self._rolled = 0.0
        self._waiting: dict[int, list[int]] = {}

    def collect(self) -> None:
        """Take over what was counted since the last time."""
        for destination, counts in self._used():
            values = [getattr(counts, name) for name in _NAMES]
            if any(values):
                for name in _NAMES:
                    setattr(counts, name, 0)
                self._keep(destination, values)

    def _keep(self, destination: int, values: list[int]) -> None:
        before = self._waiting.get(destination)
        if before is not None:
            values = [one + other for one, other in zip(before, values, strict=True)]
        elif len(self._waiting) >= FORGOTTEN_LIMIT:
            return
        self._waiting[destination] = values

    async def _insert(self, connection: psycopg.AsyncConnection[Any]) -> None:
        waiting, self._waiting = self._waiting, {}
        try:
            columns = zip(*waiting.values(), strict=True)
            await connection.execute(_WRITE, [list(waiting), *map(list, columns)])
        except psycopg.Error:
            for destination, values in waiting.items():
                self._keep(destination, values)
            raise

    async def write(self, connection: psycopg.AsyncConnection[Any], now: float) -> None:
        """Write if it is time.

        Args:
            now: by a monotonic clock.

        Raises:
            psycopg.Error: nothing was written; it is kept for the next time.
        """
        if now < self._due:
            return
        cursor = await connection.execute(_UNTIL)
        self._due = now + (await cursor.fetchone() or (10.0,))[0]
        self.collect()
        if self._waiting:
            # Who closes cancels this: then it is still known whether these counts were written.
            await asyncio.shield(self._insert(connection))
        await connection.execute("SELECT msgweb.fold_tally()")
        await connection.execute("SELECT msgweb.sample_queues()")
        if now - self._rolled >= ROLL_UP:
            self._rolled = now
            await connection.execute("SELECT msgweb.roll_up_statistics()")
