"""Looking at who pins the horizon (`apps.broker.horizon`), on the connection of the lease: each process knows, for its
figures and the console; one of them says it in the log."""

import logging
from typing import Any

import psycopg

from apps.broker.horizon import QUERY, Holder, Horizon, Memory

logger = logging.getLogger(__name__)

PERIOD = 30.0  # seconds between two looks

#: Who speaks for all: the eldest gateway or worker, or the eldest at all. Parameter: the asking session.
_SPEAKS = """
SELECT %s = (
    SELECT s.id FROM msgweb.session s WHERE s.expires_at > clock_timestamp() ORDER BY s.kind = 'web', s.id LIMIT 1)
"""


class HorizonWatch:
    """One process's.

    Args:
        limit: seconds after which a holder is told of.

    Attributes:
        horizon: as it was at the last look.
    """

    def __init__(self, limit: float) -> None:
        self._memory = Memory(limit)
        self._looked_at = float("-inf")
        self._told: set[tuple[str, str]] = set()
        self.horizon = Horizon()

    async def look(self, connection: psycopg.AsyncConnection[Any], session: int, now: float) -> bool:
        """Look if it is time. Returns whether others are told of by now than before.

        Args:
            session: this process's.
            now: by a monotonic clock.

        Raises:
            psycopg.Error: the database does not answer.
        """
        if now - self._looked_at < PERIOD:
            return False
        self._looked_at = now
        cursor = await connection.execute(QUERY)
        before, self.horizon = self.horizon, self._memory.read(await cursor.fetchall(), now)
        names = {_name(one) for one in self.horizon.alarming}
        fresh = [one for one in self.horizon.alarming if _name(one) not in self._told]
        if fresh:
            cursor = await connection.execute(_SPEAKS, [session])
            if (await cursor.fetchone() or (False,))[0]:
                for one in fresh:
                    logger.warning(
                        "VACUUM can remove nothing that was deleted in the last %.0f s: %s holds it (%d transactions);"
                        " what to do: %s",
                        one.seconds, one.who, one.transactions, one.remedy,
                    )  # fmt: skip
        for _, name in self._told - names:
            logger.info("%s does not hold VACUUM up any more", name)
        self._told = names
        return names != {_name(one) for one in before.alarming}


def _name(holder: Holder) -> tuple[str, str]:
    return holder.kind, holder.name
