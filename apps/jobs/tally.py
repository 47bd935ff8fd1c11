"""How many jobs have ended lately: from the rows that whatever ends jobs appends, so that no jobs are counted."""

from dataclasses import dataclass

from django.db import connection

from apps.broker.statistics import LATEST, LEFT_SECONDS, RECENT_SPANS, SPAN, WRITABLE

MINUTE = 60 // SPAN  # spans


@dataclass(frozen=True, slots=True)
class Ended:
    """Jobs that have ended: RECENT_SPANS counts of SPAN seconds each, oldest first, the last of them the newest that is
    over.

    Attributes:
        finished: succeeded, failed, cancelled and expired.
    """

    finished: list[int]
    failed: list[int]

    @property
    def finished_a_minute(self) -> int:
        """In the last minute that is over."""
        return sum(self.finished[-MINUTE:])

    @property
    def failed_a_minute(self) -> int:
        """In the last minute that is over."""
        return sum(self.failed[-MINUTE:])


_SUCH = """
    AND (%(namespace)s::text IS NULL OR e.namespace = %(namespace)s) AND (%(task)s::text IS NULL OR e.task = %(task)s)
"""
# Workers and gateways roll up, mostly. The figures are right without, but each look reads what is left.
_ROLL_UP = f"""
    SELECT msgweb.roll_up_jobs_ended() WHERE {WRITABLE} AND EXISTS (
        SELECT FROM msgweb.jobs_ended e
        WHERE e.resolution = 0 AND e.at < statement_timestamp() - interval '{LEFT_SECONDS} seconds')
"""  # noqa: S608  constants
# There is a row for each task and namespace: they are summed before there is anything to reckon.
_ENDED = f"""
    SELECT (extract(epoch FROM {LATEST} - s.at) / {SPAN})::integer, s.finished, s.failed
    FROM (SELECT date_bin('{SPAN} seconds', e.at, '2000-01-01') AS at, sum(e.failed)::bigint AS failed,
                 sum(e.succeeded + e.failed + e.cancelled + e.expired)::bigint AS finished
          FROM msgweb.jobs_ended e
          WHERE e.resolution = ANY ('{{0,10}}') AND e.at > {LATEST} - {RECENT_SPANS} * interval '{SPAN} seconds'
                AND e.at < {LATEST} + interval '{SPAN} seconds' {_SUCH}
          GROUP BY 1) s
    WHERE s.at > {LATEST} - {RECENT_SPANS} * interval '{SPAN} seconds'
"""  # noqa: S608  constants
_IN_HOUR = f"""
    SELECT coalesce(sum(e.succeeded), 0)::bigint, coalesce(sum(e.failed), 0)::bigint FROM msgweb.jobs_ended e
    WHERE e.resolution = ANY ('{{0,10,60}}') AND e.at >= statement_timestamp() - interval '1 hour' {_SUCH}
"""  # noqa: S608  constants


def ended(namespace: str | None = None, task: str | None = None) -> Ended:
    """Jobs of a namespace and of a task, or of all, that have ended in the last ten minutes."""
    finished, failed = [0] * RECENT_SPANS, [0] * RECENT_SPANS
    with connection.cursor() as cursor:
        cursor.execute(_ROLL_UP)
        cursor.execute(_ENDED, {"namespace": namespace, "task": task})
        for back, all_of_them, of_them_failed in cursor:
            finished[-1 - back] = all_of_them
            failed[-1 - back] = of_them_failed
    return Ended(finished, failed)


def ended_in_hour(namespace: str | None = None, task: str | None = None) -> tuple[int, int]:
    """How many of them succeeded, and how many failed, in the last hour, until now."""
    with connection.cursor() as cursor:
        cursor.execute(_IN_HOUR, {"namespace": namespace, "task": task})
        [sums] = cursor.fetchall()
        return sums  # type: ignore[no-any-return]
