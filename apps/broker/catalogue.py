"""What there is: queues, topics and sessions with their figures, for the console and the API.

Counts stop at `COUNT_LIMIT`, so that a page costs the same whether a thousand or ten million messages wait.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.db import connection

from apps.broker.statistics import Rates, rates

COUNT_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue. `ready` and `in_flight` stop at COUNT_LIMIT; `oldest_age` is of the oldest ready message, in seconds.
    `rates`: over the last ten seconds."""

    namespace: str
    name: str
    ready: int
    in_flight: int
    oldest_age: float | None
    consumers: int
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic and how many subscribe to it now."""

    namespace: str
    name: str
    subscribers: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A process that holds messages. `kind` is gateway, worker or web."""

    id: int
    kind: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    alive: bool
    details: dict[str, Any]


def queues(namespace: str | None = None, name: str | None = None) -> list[QueueInfo]:
    """The queues of a namespace, or of all, or the one of that name; reply queues are left out.

    Reads in the order of the index over what is ready, so that a backlog that was not analysed yet is not scanned.
    """
    rows = _rows(
        """
        WITH held AS MATERIALIZED (
            SELECT destination, count(*) AS n FROM msgweb.message
            WHERE session = ANY (ARRAY(SELECT id FROM msgweb.session)) GROUP BY destination)
        SELECT d.namespace, d.name, ready.n, least(coalesce(held.n, 0), %(limit)s),
               CASE WHEN ready.n > 0 THEN msgweb.oldest_age(d.id) END, consumers.n
        FROM msgweb.destination d
        LEFT JOIN held ON held.destination = d.id
        CROSS JOIN LATERAL (SELECT count(*) AS n FROM (
            SELECT FROM msgweb.message m WHERE m.destination = d.id AND m.session IS NULL
            ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT %(limit)s) x) ready
        CROSS JOIN LATERAL (
            SELECT coalesce(sum((s.details->'consumers'->>d.id::text)::integer), 0) AS n
            FROM msgweb.session s) consumers
        WHERE d.kind = 'queue' AND d.owner IS NULL AND (%(namespace)s::text IS NULL OR d.namespace = %(namespace)s)
              AND (%(name)s::text IS NULL OR d.name = %(name)s)
        ORDER BY d.namespace, d.name
        """,
        namespace=namespace,
        name=name,
    )
    known = rates(namespace)
    return [replace(QueueInfo(*row), rates=known.get((row[0], "queue", row[1]), Rates())) for row in rows]


def topics(namespace: str | None = None) -> list[TopicInfo]:
    """The topics of a namespace, or of all."""
    rows = _rows(
        """
        SELECT d.namespace, d.name, coalesce(sum((s.details->'consumers'->>d.id::text)::integer), 0)
        FROM msgweb.destination d LEFT JOIN msgweb.session s ON true
        WHERE d.kind = 'topic' AND (%(namespace)s::text IS NULL OR d.namespace = %(namespace)s)
        GROUP BY d.id ORDER BY d.namespace, d.name
        """,
        namespace=namespace,
    )
    return [TopicInfo(*row) for row in rows]


def sessions() -> list[SessionInfo]:
    """All sessions, the dead ones that nobody has buried yet included."""
    rows = _rows(
        """
        SELECT id, kind, host, pid, started_at, seen_at, expires_at > clock_timestamp(),
               details - 'consumers' - 'serving'
        FROM msgweb.session ORDER BY kind, id
        """
    )
    return [
        SessionInfo(id, kind, host, pid, started_at, seen_at, alive, json.loads(details))  # Django leaves jsonb as text
        for id, kind, host, pid, started_at, seen_at, alive, details in rows
    ]


def sessions_serving(kind: str) -> int:
    """How many processes of a kind have said that they serve, hold their lease, and the lock of a process that is
    there."""
    rows = _rows(
        """
        SELECT count(*) FROM msgweb.session s
        WHERE s.kind = %(kind)s AND s.details->'serving' = 'true' AND s.expires_at > clock_timestamp() AND EXISTS (
            SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 1297568599 AND l.objid = s.id::oid
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
        """,
        kind=kind,
    )
    return int(rows[0][0])


def _rows(sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, {"limit": COUNT_LIMIT, **parameters})
        return list(cursor.fetchall())
