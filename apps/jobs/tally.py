"""How many jobs have ended lately: from the rows that whatever ends jobs appends, so that no jobs are counted."""

from dataclasses import dataclass

from django.db import connection

from apps.broker.statistics import LATEST, RECENT_SPANS, SPAN

MINUTE = 60 // SPAN  # spans


@dataclass(frozen=True, slots=True)
class Ended:
    """Jobs that have ended: RECENT_SPANS counts of SPAN seconds each, oldest first, the last of them the newest that is
    over; and the sums of the last hour, until now.

    Attributes:
        finished: succeeded, failed, cancelled and expired.
        succeeded_in_hour: in the last hour, as `failed_in_hour`.
    """

    finished: list[int]
    failed: list[int]
    succeeded_in_hour: int
    failed_in_hour: int

    @property
    def finished_a_minute(self) -> int:
        """In the last minute that is over."""
        return sum(self.finished[-MINUTE:])

    @property
    def failed_a_minute(self) -> int:
        """In the last minute that is over."""
        return sum(self.failed[-MINUTE:])


# `back` is negative for what is younger than the last span: that is in the sums of the hour alone.
_ENDED = f"""
    SELECT back, sum(e.succeeded + e.failed + e.cancelled + e.expired)::bigint, sum(e.failed)::bigint,
           sum(e.succeeded)::bigint
    FROM msgweb.jobs_ended e CROSS JOIN LATERAL (SELECT floor(extract(epoch FROM {LATEST}
        - date_bin('{SPAN} seconds', e.at, '2000-01-01')) / {SPAN})::integer AS back) b
    WHERE e.resolution = ANY ('{{0,10,60}}') AND e.at >= statement_timestamp() - interval '1 hour'
      AND (%(namespace)s::text IS NULL OR e.namespace = %(namespace)s)
    GROUP BY back
"""  # noqa: S608  constants


def ended(namespace: str | None = None) -> Ended:
    """Jobs of a namespace, or of all, that have ended lately."""
    finished, failed = [0] * RECENT_SPANS, [0] * RECENT_SPANS
    succeeded_in_hour = failed_in_hour = 0
    with connection.cursor() as cursor:
        cursor.execute(_ENDED, {"namespace": namespace})
        for back, all_of_them, of_them_failed, of_them_succeeded in cursor:
            succeeded_in_hour += of_them_succeeded
            failed_in_hour += of_them_failed
            if 0 <= back < RECENT_SPANS:
                finished[-1 - back] = all_of_them
                failed[-1 - back] = of_them_failed
    return Ended(finished, failed, succeeded_in_hour, failed_in_hour)
