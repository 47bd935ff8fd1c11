"""What happened at a queue or topic, by time: for the console, the command and the API."""

from dataclasses import dataclass
from datetime import datetime

from django.db import connections

COUNTED = (
    *("sent", "sent_bytes", "delivered", "delivered_bytes", "acked"),
    *("redelivered", "failed", "dead_lettered", "expired", "dropped"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """A span of time. Counts are sums over it; gauges are the highest that was sampled, None where nothing was.

    Attributes:
        at: when it begins.
        ready: counted up to 10,000.
        oldest_age: seconds.
    """

    at: datetime
    sent: int
    sent_bytes: int
    delivered: int
    delivered_bytes: int
    acked: int
    redelivered: int
    failed: int
    dead_lettered: int
    expired: int
    dropped: int
    ready: int | None
    in_flight: int | None
    oldest_age: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages a second over the last minute."""

    sent: float = 0.0
    delivered: float = 0.0
    acked: float = 0.0


def series(
    namespace: str,
    name: str,
    since: datetime,
    until: datetime,
    *,
    kind: str = "queue",
    resolution: int = 60,
    using: str = "default",
) -> list[Point]:
    """The spans between two moments, without gaps: where nothing happened the counts are 0.

    Args:
        resolution: seconds of a span. Kept are 10 s for an hour, a minute for a day, an hour for a year; of a span that
            is kept more coarsely than that, all counts are at its beginning.
    """
    sums = ", ".join(f"coalesce(sum(s.{one}), 0)::bigint" for one in COUNTED)
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"""
            SELECT span.at, {sums}, max(s.ready), max(s.in_flight), max(s.oldest_age)
            FROM generate_series(date_bin(make_interval(secs => %(step)s), %(since)s, '2000-01-01'), %(until)s,
                                 make_interval(secs => %(step)s)) AS span (at)
            LEFT JOIN (
                SELECT s.* FROM msgweb.counted s
                WHERE s.destination = (SELECT d.id FROM msgweb.destination d
                                       WHERE d.namespace = %(namespace)s AND d.kind = %(kind)s AND d.name = %(name)s)
                  AND s.resolution = ANY ('{{10,60,3600}}')
                  AND s.at >= %(since)s - interval '1 hour' AND s.at < %(until)s
            ) s ON date_bin(make_interval(secs => %(step)s), s.at, '2000-01-01') = span.at
            WHERE span.at < %(until)s
            GROUP BY span.at ORDER BY span.at
            """,
            {"step": resolution, "since": since, "until": until, "namespace": namespace, "kind": kind, "name": name},
        )
        return [Point(*row) for row in cursor.fetchall()]


def rates(namespace: str | None = None, *, using: str = "default") -> dict[tuple[str, str, str], Rates]:
    """Messages a second over the last whole minute, by namespace, kind and name; of all that were used."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            """
            SELECT d.namespace, d.kind, d.name, sum(s.sent) / 60.0, sum(s.delivered) / 60.0, sum(s.acked) / 60.0
            FROM msgweb.counted s JOIN msgweb.destination d ON d.id = s.destination
            WHERE s.resolution = 10 AND s.at >= msgweb.now_10s() - interval '60 seconds' AND s.at < msgweb.now_10s()
              AND d.owner IS NULL AND (%s::text IS NULL OR d.namespace = %s)
            GROUP BY d.id
            """,
            [namespace, namespace],
        )
        return {
            (row[0], row[1], row[2]): Rates(float(row[3]), float(row[4]), float(row[5])) for row in cursor.fetchall()
        }
