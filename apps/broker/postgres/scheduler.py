"""Sends what is due of the schedules: each run once, whoever comes first.

Called by each process's keeper, on its connection. A run is one transaction: it takes the schedule's row, sends the
message and moves `next_at` on (or deletes a finished schedule); so a process that dies in between has sent nothing, and
another that looks meanwhile passes over the row. Whether something is due says the database's clock.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

from apps.broker.engine import Repeat
from apps.broker.repeats import BadSchedule, first_run, next_run

logger = logging.getLogger(__name__)

MOST = 50  # schedules in one transaction: each is a subtransaction, and above 64 of those every snapshot costs more
ROUNDS = 4  # transactions in one call
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

# The clock is a parameter of what searches: a volatile function is no condition of an index.
_LOOK = """
SELECT clock_timestamp(),
       (SELECT next_at FROM msgweb.schedule WHERE NOT paused AND next_at > %s ORDER BY next_at LIMIT 1)
"""
_TAKE = """
SELECT id, next_at, cron, timezone, period, seeking FROM msgweb.schedule
WHERE NOT paused AND next_at <= %s AND destination <> ALL (%s::int4[])
ORDER BY next_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
_FOUND = "UPDATE msgweb.schedule SET next_at = %s, seeking = false WHERE id = %s"
_GIVE_UP = "UPDATE msgweb.schedule SET paused = true, last_outcome = 'bad_schedule' WHERE id = %s"
_RUN = "SELECT id, destination, outcome, before, detail FROM msgweb.run_schedules(%s::int8[], %s::timestamptz[])"


class _Due(NamedTuple):
    id: int
    next_at: datetime
    cron: str | None
    timezone: str
    period: float | None
    seeking: bool


async def run_due(connection: psycopg.AsyncConnection[Any]) -> float | None:
    """Send what is due, at most `MOST * ROUNDS` messages.

    A run that its queue refuses is skipped, and logged when the run before was not refused. What another process is
    sending at this moment, or needs what an application's open transaction holds, is left for a later call.

    Args:
        connection: in autocommit mode; of one task at a time.

    Returns:
        Seconds until the next run, 0.0: call again at once; None: none is known of. Whatever it says, call once a
        second: some may be overdue because others held them.

    Raises:
        psycopg.Error: the database is away, or refuses; nothing is lost.
    """
    passed = _LONG_AGO
    busy: set[int] = set()
    for _ in range(ROUNDS):
        cursor = await connection.execute(_LOOK, [passed])
        row = await cursor.fetchone()
        assert row is not None
        now, due = row
        if due is None:
            return None
        if due > now:
            return float((due - now).total_seconds())
        if await _run(connection, now, busy) < MOST:
            passed = now
    return 0.0


async def _run(connection: psycopg.AsyncConnection[Any], now: datetime, busy: set[int]) -> int:
    """One transaction. Returns how many were taken, and adds the destinations that somebody else occupies to `busy`."""
    ids: list[int] = []
    following: list[datetime | None] = []
    hopeless: list[tuple[int, BadSchedule]] = []
    ran: Sequence[tuple[int, int, str, str | None, str | None]] = ()
    async with connection.transaction():
        cursor = await connection.execute(_TAKE, [now, list(busy), MOST])
        taken = [_Due(*row) for row in await cursor.fetchall()]
        for one in taken:
            try:
                at = await _settle(connection, one, now)
                if at <= now:
                    following.append(next_run(_repeat(one), at, now))
                    ids.append(one.id)
            except BadSchedule as error:
                await connection.execute(_GIVE_UP, [one.id])
                hopeless.append((one.id, error))
        if ids:
            cursor = await connection.execute(_RUN, [ids, following])
            ran = await cursor.fetchall()
    for schedule, why in hopeless:
        logger.error("schedule %d is paused: %s; replace it", schedule, why)
    for schedule, destination, outcome, before, detail in ran:
        if outcome == "busy":
            busy.add(destination)
        elif outcome == "full" and before != "full":
            logger.warning("schedule %d: a run is skipped, its queue is full", schedule)
        elif outcome == "failed" and before != "failed":
            logger.error("schedule %d: a run is skipped, it failed: %s", schedule, detail)
    return len(taken)


async def _settle(connection: psycopg.AsyncConnection[Any], one: _Due, now: datetime) -> datetime:
    """When its run is; of a schedule that was added without knowing: found now, and written down."""
    if not one.seeking:
        return one.next_at
    at = first_run(_repeat(one), 0.0, one.next_at)
    await connection.execute(_FOUND, [at, one.id])
    return at


def _repeat(one: _Due) -> Repeat:
    return Repeat(cron=one.cron, timezone=one.timezone, period=one.period)
