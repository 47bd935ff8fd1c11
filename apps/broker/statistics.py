"""What happened at a queue or topic, by time: for the console, the command and the API."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connections

COUNTED = (
    *("sent", "sent_bytes", "delivered", "delivered_bytes", "acked"),
    *("redelivered", "failed", "dead_lettered", "expired", "dropped"),
)
SPAN = 10  # seconds of the finest spans
RECENT_SPANS = 60
SETTLED = 2.5  # seconds after the end of a span until each process has written down what it counted in it
#: After so many seconds what is noted counts as left: gateways and workers fold it every ten. Where none of them is
#: there, who reads does it, if he may write.
LEFT_SECONDS = 60
WRITABLE = "current_setting('transaction_read_only') = 'off'"
_FOLD = f"""
    SELECT msgweb.fold_tally() WHERE {WRITABLE} AND EXISTS (
        SELECT FROM msgweb.tally t WHERE t.at < statement_timestamp() - interval '{LEFT_SECONDS} seconds')
"""
#: Spans of every length begin at whole multiples of it after this moment.
GRID = datetime(2000, 1, 1, tzinfo=UTC)
#: When the last span began that is counted wholly. The transaction's statements agree on it, and an index takes it.
LATEST = f"date_bin('{SPAN} seconds', statement_timestamp() - interval '{SPAN + SETTLED} seconds', '2000-01-01')"


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
    """Messages a second over the last ten seconds that are counted wholly."""

    sent: float = 0.0
    delivered: float = 0.0
    acked: float = 0.0


@dataclass(frozen=True, slots=True)
class Recent:
    """How many messages came, went out and were acked lately: RECENT_SPANS counts of SPAN seconds each, oldest first,
    the last of them the newest that is counted wholly."""

    sent: list[int]
    delivered: list[int]
    acked: list[int]

    @classmethod
    def nothing(cls) -> "Recent":
        """Where nothing happened."""
        return cls(*([0] * RECENT_SPANS for _ in range(3)))

    @property
    def rates(self) -> Rates:
        """Of the last span."""
        return Rates(self.sent[-1] / SPAN, self.delivered[-1] / SPAN, self.acked[-1] / SPAN)


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


def counted_until(now: datetime) -> datetime:
    """The end of the last span that is counted wholly."""
    settled = now - timedelta(seconds=SETTLED)
    return settled - (settled - GRID) % timedelta(seconds=SPAN)


def rates(namespace: str | None = None, *, using: str = "default") -> dict[tuple[str, str, str], Rates]:
    """Messages a second over the last ten seconds, by namespace, kind and name; of all that were used then."""
    return {key: recent.rates for key, recent in _recent(1, namespace, None, using).items()}


def recent(
    namespace: str | None = None, name: str | None = None, *, using: str = "default"
) -> dict[tuple[str, str, str], Recent]:
    """What happened in the last ten minutes, by namespace, kind and name; of all that were used then.

    Args:
        name: of this one alone.
    """
    return _recent(RECENT_SPANS, namespace, name, using)


def _recent(spans: int, namespace: str | None, name: str | None, using: str) -> dict[tuple[str, str, str], Recent]:
    one = """AND s.destination = ANY (ARRAY(
        SELECT id FROM msgweb.destination WHERE namespace = %(namespace)s AND name = %(name)s))"""
    with connections[using].cursor() as cursor:
        cursor.execute(_FOLD)
        cursor.execute(
            f"""
            SELECT d.namespace, d.kind, d.name, s.back, s.sent, s.delivered, s.acked
            FROM (SELECT s.destination, (extract(epoch FROM {LATEST} - s.at) / {SPAN})::integer AS back,
                         sum(s.sent)::bigint AS sent, sum(s.delivered)::bigint AS delivered,
                         sum(s.acked)::bigint AS acked
                  FROM msgweb.counted s
                  WHERE s.resolution = 10 AND s.at <= {LATEST}
                        AND s.at > {LATEST} - %(spans)s * interval '{SPAN} seconds'
                        {one if name is not None else ""}
                  GROUP BY 1, 2) s
            JOIN msgweb.destination d ON d.id = s.destination
            WHERE d.owner IS NULL AND (%(namespace)s::text IS NULL OR d.namespace = %(namespace)s)
            """,
            {"spans": spans, "namespace": namespace, "name": name},
        )
        found: dict[tuple[str, str, str], Recent] = {}
        for of_namespace, kind, of_name, back, *counts in cursor:
            key = of_namespace, kind, of_name
            if (one_found := found.get(key)) is None:
                one_found = found[key] = Recent(*([0] * spans for _ in range(3)))
            series_found = (one_found.sent, one_found.delivered, one_found.acked)
            for values, count in zip(series_found, counts, strict=True):
                values[-1 - back] = count
        return found
