"""How long jobs that have ended, and their logs, are kept; and their removal, in portions, beside everything else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from apps.jobs.queries import query

JOBS = 1_000  # removed in one transaction
EVENTS = 10_000  # looked at in one transaction
ROUNDS = 5  # of each in one call
PERMITS = 10_000  # places of limits that are kept though nobody needs them
DEFAULTS = {"succeeded": 7.0, "failed": 30.0, "cancelled": 7.0, "expired": 7.0, "logs": 14.0}  # days


class BadRetention(ValueError):
    """A setting of how long things are kept that cannot be; the text says why."""


def parse(text: str) -> dict[str, float | None]:
    """Days by state, and of `logs`, from a text such as `succeeded=1,failed=90,logs=never`.

    `never` (None): they are never removed. What is not named is kept as long as usual (DEFAULTS).

    Raises:
        BadRetention: it cannot be read.
    """
    found: dict[str, float | None] = dict(DEFAULTS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in DEFAULTS:
            raise BadRetention(f"{part!r}: it is told of {', '.join(DEFAULTS)}")
        try:
            found[name] = None if value == "never" else float(value)
        except ValueError:
            raise BadRetention(f"{part!r}: give a number of days, or never") from None
        days = found[name]
        if days is not None and not 0 <= days <= 36_500:
            raise BadRetention(f"{part!r}: a number of days is 0 to 36500")
    return found


@dataclass(slots=True)
class Retention:
    """Removes what has been kept long enough.

    Attributes:
        days: by state, and of `logs`; None: never.
    """

    days: Mapping[str, float | None]
    _event: int = field(default=0, init=False)  # logs up to this event were looked at

    async def prune(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Remove some of it. Returns how many jobs and events went; 0: there is nothing (more) to remove.

        Args:
            connection: in autocommit mode.

        Raises:
            psycopg.Error: the database is away, or refuses.
        """
        now = datetime.now(UTC)
        removed = 0
        for state in ("succeeded", "failed", "cancelled", "expired"):
            days = self.days.get(state)
            if days is not None:
                parameters = {"state": state, "before": now - timedelta(days=days), "most": JOBS}
                removed += await self._rounds(connection, "prune_jobs", parameters, JOBS)
        kept = [days for days in self.days.values() if days is not None]
        if kept:
            parameters = {"before": now - timedelta(days=min(kept)), "most": JOBS}
            removed += await self._rounds(connection, "prune_batches", parameters, JOBS)
        removed += await self._rounds(connection, "prune_permits", {"beyond": PERMITS, "most": JOBS}, JOBS)
        removed += await self._rounds(connection, "prune_admissions", {"most": JOBS}, JOBS)
        if (days := self.days.get("logs")) is not None:
            removed += await self._prune_logs(connection, now - timedelta(days=days))
        return removed

    async def _rounds(
        self, connection: psycopg.AsyncConnection[Any], name: str, parameters: dict[str, Any], most: int
    ) -> int:
        removed = 0
        for _ in range(ROUNDS):
            row = await (await connection.execute(query(name), parameters)).fetchone()
            count: int = row[0] if row else 0
            removed += count
            if count < most:
                break
        return removed

    async def _prune_logs(self, connection: psycopg.AsyncConnection[Any], before: datetime) -> int:
        removed = 0
        for _ in range(ROUNDS):
            parameters = {"after": self._event, "before": before, "most": EVENTS}
            row = await (await connection.execute(query("prune_logs"), parameters)).fetchone()
            assert row is not None
            following, gone = row
            removed += gone
            if following is None:
                break
            self._event = following
        return removed
