"""What people do to queues: purge, delete, redrive dead letters, browse, and replay what was kept.

Each works in portions, a transaction each, so that a million messages are neither one giant transaction nor one lock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, transaction

from apps.broker.headers import decode_headers, escape_header
from apps.broker.sqlstates import translated
from msgweb.errors import Conflict, NotFound

BODY_LIMIT = 4_096  # bytes of a body that browsing shows
PAGE_LIMIT = 500
SEARCH_LIMIT = 100_000  # kept messages that a search by header looks at


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in a queue.

    Attributes:
        state: `ready`, `held` (by a session), `parked` (behind its group) or `delayed`.
        body: the first BODY_LIMIT bytes; `size` is all of it.
    """

    id: int
    state: str
    session: int | None
    priority: int
    enqueued_at: datetime
    available_at: datetime | None
    expires_at: datetime | None
    deliveries: int
    failures: int
    persistent: bool
    group: str | None
    headers: dict[str, str]
    body: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A message that was acked and is kept."""

    id: int
    enqueued_at: datetime
    acked_at: datetime
    deliveries: int
    priority: int
    correlation_id: str | None
    headers: dict[str, str]
    body: bytes
    size: int


class Ready(NamedTuple):
    """A message that is ready, whole; `headers` as they are kept."""

    id: int
    priority: int
    place: int
    deliveries: int
    headers: bytes
    body: bytes


class Walk:
    """A walk over the messages that are ready in a queue when it begins, in the order of delivery, without taking them.
    It costs an index scan a page, however many messages there are.

    Args:
        page: messages at once.
        most: bytes of bodies at once; a page has one message at least.
    """

    def __init__(self, namespace: str, queue: str, page: int, most: int, *, using: str = "default") -> None:
        self._place = (namespace, queue)
        self._page = page
        self._most = most
        self._using = using
        self._begun: datetime | None = None
        self._last: Ready | None = None

    def next_page(self) -> list[Ready]:
        """The next messages; none: that was all. A queue that does not exist has none."""
        parameters: dict[str, Any] = {
            "namespace": self._place[0],
            "queue": self._place[1],
            "page": self._page,
            "priority": self._last.priority if self._last else 10,
            "place": self._last.place if self._last else 0,
            "most": self._most,
        }
        with translated(), connections[self._using].cursor() as cursor:
            if self._begun is None:
                cursor.execute("SELECT now()")
                (self._begun,) = cursor.fetchone()
            cursor.execute(_WALK, {**parameters, "begun": self._begun})
            page = [Ready(row[0], row[1], row[2], row[3], bytes(row[4]), bytes(row[5])) for row in cursor.fetchall()]
        if page:
            self._last = page[-1]
        return page


_COLUMNS = "m.id, m.priority, coalesce(m.position, m.id) AS place, m.deliveries, m.headers, m.body, m.destination"
_SEEN = "m.session IS NULL AND m.enqueued_at <= %(begun)s AND (m.expires_at IS NULL OR m.expires_at > now())"
_WALK = f"""
    WITH q AS (
        SELECT id FROM msgweb.destination WHERE namespace = %(namespace)s AND kind = 'queue' AND name = %(queue)s
    ), page AS (
        (SELECT {_COLUMNS} FROM msgweb.message m
         WHERE m.destination = (SELECT id FROM q) AND m.priority = %(priority)s
           AND coalesce(m.position, m.id) > %(place)s AND {_SEEN}
         ORDER BY coalesce(m.position, m.id) LIMIT %(page)s)
        UNION ALL
        (SELECT {_COLUMNS} FROM msgweb.message m
         WHERE m.destination = (SELECT id FROM q) AND m.priority < %(priority)s AND {_SEEN}
         ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT %(page)s)
    ), numbered AS (
        SELECT *, sum(octet_length(body)) OVER (ORDER BY priority DESC, place) - octet_length(body) AS before
        FROM page ORDER BY priority DESC, place LIMIT %(page)s
    )
    SELECT id, priority, place, deliveries, headers, body FROM numbered
    WHERE before < %(most)s ORDER BY priority DESC, place
"""


def purge(namespace: str, queue: str, *, using: str = "default") -> int:
    """Remove what waits; what a consumer holds stays. Returns how many went.

    Raises:
        NotFound: there is no such queue.
    """
    return _in_portions("SELECT msgweb.purge(%s, %s, %s)", [namespace, queue], 5_000, using)


def delete(namespace: str, queue: str, *, force: bool = False, using: str = "default") -> int:
    """Remove a queue with what waits in it, what it keeps, and its bindings. Returns how many messages went.

    Raises:
        NotFound: there is no such queue.
        Conflict: it has messages or consumers, and `force` is not given.
    """
    with translated(), connections[using].cursor() as cursor:
        cursor.execute(
            """
            SELECT q.id, EXISTS (SELECT FROM msgweb.session s WHERE s.details->'consumers' ? q.id::text),
                   EXISTS (SELECT FROM msgweb.message m WHERE m.destination = q.id AND m.session IS NULL)
            FROM (SELECT msgweb.queue_id(%s, %s) AS id) q
            """,
            [namespace, queue],
        )
        identifier, consumed, used = cursor.fetchone()
        if (consumed or used) and not force:
            what = "consumers" if consumed else "messages"
            raise Conflict(f"the queue {queue} has {what}; delete it by force if you mean it")
        gone = purge(namespace, queue, using=using)
        cursor.execute("DELETE FROM msgweb.destination WHERE id = %s", [identifier])
    return gone


def redrive(
    namespace: str,
    queue: str,
    *,
    ids: Sequence[int] | None = None,
    reason: str | None = None,
    to: str | None = None,
    most: int | None = None,
    using: str = "default",
) -> int:
    """Send dead letters back to where they came from, in their order. Returns how many; the others stay.

    Args:
        queue: the dead-letter queue.
        ids: these alone.
        reason: those alone: `expired`, `max-deliveries`, `rejected`, `overflow`.
        to: another queue than the one they came from.
        most: at most so many.

    Raises:
        NotFound: there is no such queue.
    """
    moved = 0
    while most is None or moved < most:
        portion = 1_000 if most is None else min(1_000, most - moved)
        with translated(), connections[using].cursor() as cursor:
            cursor.execute(
                "SELECT msgweb.redrive(%s, %s, %s::bigint[], %s, %s, %s)",
                [namespace, queue, None if ids is None else list(ids), reason, to, portion],
            )
            (count,) = cursor.fetchone()
        moved += count
        if count < portion:
            break
    return moved


def browse(
    namespace: str, queue: str, *, state: str = "ready", after: int = 0, limit: int = 50, using: str = "default"
) -> list[Waiting]:
    """A page of a queue's messages, without taking them; in the order of delivery where they are ready.

    Args:
        state: `ready`, `held`, `parked` or `delayed`.
        after: how many to pass over, at most 10,000.

    Raises:
        NotFound: there is no such queue.
    """
    condition, order = {
        "ready": ("m.session IS NULL", "m.priority DESC, coalesce(m.position, m.id)"),
        "held": ("m.session > 0", "coalesce(m.position, m.id)"),
        "parked": ("m.group_key IS NOT NULL AND m.session = 0", "m.group_key, m.id + 0"),
        "delayed": ("m.session = -1", "m.available_at"),
    }[state]
    with translated(), connections[using].cursor() as cursor:
        cursor.execute(
            f"""
            SELECT m.id, m.session, m.priority, m.enqueued_at, m.available_at, m.expires_at, m.deliveries, m.failures,
                   m.persistent, m.group_key, m.headers, substring(m.body FROM 1 FOR %s), octet_length(m.body)
            FROM msgweb.message m WHERE m.destination = msgweb.queue_id(%s, %s) AND {condition}
            ORDER BY {order} OFFSET %s LIMIT %s
            """,
            [BODY_LIMIT, namespace, queue, min(after, 10_000), min(limit, PAGE_LIMIT)],
        )
        return [
            Waiting(
                id=row[0],
                state=state,
                session=row[1] if state == "held" else None,
                priority=row[2],
                enqueued_at=row[3],
                available_at=row[4],
                expires_at=row[5],
                deliveries=row[6],
                failures=row[7],
                persistent=row[8],
                group=row[9],
                headers=decode_headers(bytes(row[10])),
                body=bytes(row[11]),
                size=row[12],
            )
            for row in cursor.fetchall()
        ]


def kept(
    namespace: str,
    queue: str,
    *,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: str | None = None,
    header: tuple[str, str] | None = None,
    limit: int = 50,
    using: str = "default",
) -> list[Kept]:
    """Kept messages, the newest first.

    Args:
        before: only those with a smaller id: the next page.
        since, until: when they were acked.
        header: name and value; among the SEARCH_LIMIT newest.

    Raises:
        NotFound: there is no such queue.
    """
    conditions: list[str] = []
    parameters: list[Any] = []
    for condition, value in [
        ("k.id < %s", before),
        ("k.acked_at >= %s", since),
        ("k.acked_at < %s", until),
        ("k.correlation_id = %s", None if correlation_id is None else escape_header(correlation_id).decode()),
    ]:
        if value is not None:
            conditions.append(f"AND {condition}")
            parameters.append(value)
    matching = "true"
    if header is not None:
        matching = "position(%s::bytea IN E'\\n'::bytea || x.headers) > 0"
        parameters.append(b"\n%b:%b\n" % (escape_header(header[0]), escape_header(header[1])))
    with translated(), connections[using].cursor() as cursor:
        cursor.execute(
            f"""
            SELECT x.id, x.enqueued_at, x.acked_at, x.deliveries, x.priority, x.correlation_id, x.headers,
                   substring(x.body FROM 1 FOR {BODY_LIMIT}), octet_length(x.body)
            FROM (SELECT * FROM msgweb.kept_message k WHERE k.destination = msgweb.queue_id(%s, %s)
                  {" ".join(conditions)} ORDER BY k.id DESC LIMIT {SEARCH_LIMIT}) x
            WHERE {matching} ORDER BY x.id DESC LIMIT %s
            """,
            [namespace, queue, *parameters, min(limit, PAGE_LIMIT)],
        )
        return [
            Kept(
                id=row[0],
                enqueued_at=row[1],
                acked_at=row[2],
                deliveries=row[3],
                priority=row[4],
                correlation_id=row[5],
                headers=decode_headers(bytes(row[6])),
                body=bytes(row[7]),
                size=row[8],
            )
            for row in cursor.fetchall()
        ]


def replay(
    namespace: str, queue: str, ids: Sequence[int], *, to: str | None = None, using: str = "default"
) -> dict[int, int]:
    """Send kept messages again, as new ones. Returns the new ids by the old.

    Raises:
        NotFound: there is no such queue, or one of the messages is not kept (any more): nothing was sent.
        QueueFull: nothing was sent.
    """
    sent = {}
    with translated(), transaction.atomic(using), connections[using].cursor() as cursor:
        for identifier in ids:
            cursor.execute("SELECT msgweb.replay(%s, %s, %s, %s)", [namespace, queue, identifier, to])
            (sent[identifier],) = cursor.fetchone()
    return sent


def names(namespace: str, *, using: str = "default") -> Iterator[str]:
    """The queues of a namespace."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT name FROM msgweb.destination WHERE namespace = %s AND kind = 'queue' AND owner IS NULL"
            " ORDER BY name",
            [namespace],
        )
        yield from (row[0] for row in cursor.fetchall())


def _in_portions(statement: str, parameters: list[Any], portion: int, using: str) -> int:
    total = 0
    while True:
        with translated(), connections[using].cursor() as cursor:
            cursor.execute(statement, [*parameters, portion])
            row = cursor.fetchone()
        if row is None:
            raise NotFound("there is no such queue")
        total += row[0]
        if row[0] < portion:
            return int(total)
