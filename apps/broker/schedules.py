"""Schedules for Django code, inside its own transaction: messages that are sent again and again, or at times.

`schedule`, `unschedule`, `schedules`, `find`, `pause`, `resume`, `run_now`. When a schedule runs is in
`apps.broker.repeats`, whose names are these too; what is due is sent by the processes that run an engine
(`apps.broker.postgres.scheduler`). docs/reference/schedules.md tells users the rules.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction

from apps.broker.engine import DEFAULT_PRIORITY, PRIORITIES, Repeat, parse_address
from apps.broker.headers import encode_headers
from apps.broker.repeats import ACTIVEMQ_HEADERS as ACTIVEMQ_HEADERS
from apps.broker.repeats import LONGEST
from apps.broker.repeats import BadSchedule as BadSchedule
from apps.broker.repeats import check as check
from apps.broker.repeats import first_run as first_run
from apps.broker.repeats import from_activemq as from_activemq
from apps.broker.repeats import next_run as next_run
from msgweb.errors import BadDestination, BadMessage, LimitExceeded, NotFound

NAME_LIMIT = 255  # characters of a schedule's or a message group's name


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule.

    Attributes:
        destination: `/queue/x` or `/topic/x`.
        name: None for one that a client or an unnamed call made.
        cron, timezone, every: when it runs; `every` in seconds.
        next_at: of the next run. Overdue while nobody is there to send it.
        remaining: how many messages are still to be sent; None: without end.
        last_at, last_outcome: the last run; `sent`, `full` (its queue refused it), `failed`, or `bad_schedule` (it
            cannot be understood, and was paused).
        size: bytes of the body.
    """

    id: int
    namespace: str
    destination: str
    name: str | None
    cron: str | None
    timezone: str
    every: float | None
    next_at: datetime
    remaining: int | None
    paused: bool
    last_at: datetime | None
    last_outcome: str | None
    created_at: datetime
    priority: int
    persistent: bool
    ttl: float | None
    group: str | None
    size: int


_SELECT = """
SELECT s.id, d.namespace, '/' || d.kind || '/' || d.name, s.name, s.cron, s.timezone, s.period, s.next_at, s.remaining,
       s.paused, s.last_at, s.last_outcome, s.created_at, s.priority, s.persistent, s.ttl, s.group_key,
       octet_length(s.body)
FROM msgweb.schedule s JOIN msgweb.destination d ON d.id = s.destination
"""
# Deployed again, a schedule whose times are what they were keeps its place in them, and stays paused.
_PUT = """
INSERT INTO msgweb.schedule AS s (destination, name, next_at, cron, timezone, period, count, remaining, start_at,
                                  priority, persistent, ttl, group_key, headers, body)
VALUES (msgweb.destination_id(%(namespace)s, %(kind)s, %(queue)s), %(name)s, %(next_at)s, %(cron)s, %(timezone)s,
        %(period)s, %(count)s, %(count)s, %(start)s, %(priority)s, %(persistent)s, %(ttl)s, %(group)s, %(headers)s,
        %(body)s)
ON CONFLICT (destination, name) DO UPDATE SET (next_at, remaining, seeking, paused) = (
        SELECT CASE WHEN same THEN s.next_at ELSE excluded.next_at END,
               CASE WHEN same THEN s.remaining ELSE excluded.remaining END,
               same AND s.seeking,
               s.paused AND (same OR s.last_outcome IS DISTINCT FROM 'bad_schedule')
        FROM (SELECT (s.cron, s.timezone, s.period, s.count, s.start_at)
                     IS NOT DISTINCT FROM (excluded.cron, excluded.timezone, excluded.period, excluded.count,
                                           excluded.start_at)) AS x (same)),
    cron = excluded.cron, timezone = excluded.timezone, period = excluded.period, count = excluded.count,
    start_at = excluded.start_at, priority = excluded.priority, persistent = excluded.persistent, ttl = excluded.ttl,
    group_key = excluded.group_key, headers = excluded.headers, body = excluded.body
RETURNING id, pg_notify('msgweb_session', 'due')
"""


def schedule(
    namespace: str,
    destination: str,
    body: bytes | str,
    *,
    name: str | None = None,
    cron: str | None = None,
    every: float | timedelta | None = None,
    timezone: str = "UTC",
    start: datetime | None = None,
    count: int | None = None,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
    priority: int = DEFAULT_PRIORITY,
    persistent: bool = True,
    ttl: float | None = None,
    group: str | None = None,
    using: str = "default",
) -> ScheduleInfo:
    """Send a message again and again, or at times; from COMMIT on.

    With a name it can be said twice: the second replaces the first. Where the times are the same (cron, timezone,
    every, start, count) it keeps its place in them, what remains of its count, and whether it is paused; otherwise it
    begins anew. So deploying the same schedules each time neither doubles nor postpones a run. One that has had all
    its runs is gone, and would begin anew.

    Each message carries the headers `schedule-id`, `schedule-name` (if any) and `scheduled-for` (ISO 8601, UTC).

    Args:
        namespace: such as `taoshop.production`.
        destination: `/queue/x`, `/topic/x`, or a bare `x` (a queue).
        body: text is sent as UTF-8.
        name: at most 255 characters, one of its kind at the destination.
        cron: five fields: minute, hour, day of month, month, day of week.
        every: seconds between two runs, at least 1; an alternative to `cron`.
        timezone: of the cron expression.
        start: of `every`: the first run (default: now); where it has passed, runs still are `start` plus whole periods.
            Of `cron`: no run before it. Must know its time zone.
        count: how many messages are sent; None: without end. Runs that are skipped do not count.
        headers: the message's own headers; `content_type` adds one.
        priority: 0 to 9, higher first.
        persistent: whether the messages survive a crash of Postgres; the schedule itself does.
        ttl: seconds until a message expires.
        group: the messages' group.
        using: Django's name of the database connection whose transaction it joins.

    Raises:
        BadSchedule: its times cannot be: see `check`; or its name.
        BadDestination, BadMessage: its messages cannot be sent like that.
        NotFound: there is no such namespace.
    """
    address = parse_address(namespace, destination)
    wire = dict(headers or {})
    if content_type is not None:
        wire["content-type"] = content_type
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    repeat = Repeat(
        cron=cron if cron is None else " ".join(cron.split()), timezone=timezone, period=seconds, count=count
    )
    if name is not None and (not 1 <= len(name) <= NAME_LIMIT or not name.isprintable()):
        raise BadSchedule(f"a schedule's name has 1 to {NAME_LIMIT} characters, and no control characters among them")
    if start is not None and start.tzinfo is None:
        raise BadSchedule("`start` must know its time zone")
    if priority not in PRIORITIES:
        raise BadMessage(f"a priority is 0 to 9, not {priority}")
    if ttl is not None and not 0 < ttl <= LONGEST:
        raise BadMessage(f"a ttl is a number of seconds above 0, not {ttl:g}")
    if group is not None and (not 1 <= len(group) <= NAME_LIMIT or "\0" in group):
        raise BadMessage(f"a message group has 1 to {NAME_LIMIT} characters")
    row = {
        "namespace": address.namespace,
        "kind": address.kind,
        "queue": address.name,
        "name": name,
        "cron": repeat.cron,
        "timezone": timezone,
        "period": seconds,
        "count": count,
        "start": start,
        "priority": priority,
        "persistent": persistent,
        "ttl": ttl,
        "group": group,
        "headers": encode_headers(wire),
        "body": body.encode() if isinstance(body, str) else bytes(body),
    }
    with _cursor(using) as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row["next_at"] = _begin(repeat, start, cursor.fetchone()[0])
        cursor.execute(_PUT, row)
        schedule_id = cursor.fetchone()[0]
        cursor.execute(f"{_SELECT} WHERE s.id = %s", [schedule_id])
        return ScheduleInfo(*cursor.fetchone())


def schedules(
    namespace: str | None = None,
    destination: str | None = None,
    *,
    limit: int = 1000,
    after: int = 0,
    using: str = "default",
) -> list[ScheduleInfo]:
    """The schedules of a namespace, or of one of its destinations, or of all, by id.

    Args:
        limit: how many at most; the next page: `after` the last one's id.

    Raises:
        BadDestination: that is none.
    """
    address = parse_address(namespace or "", destination) if destination is not None else None
    with _cursor(using) as cursor:
        cursor.execute(
            f"{_SELECT} WHERE s.id > %(after)s AND (%(namespace)s::text IS NULL OR d.namespace = %(namespace)s)"
            " AND (%(name)s::text IS NULL OR (d.kind = %(kind)s AND d.name = %(name)s)) ORDER BY s.id LIMIT %(limit)s",
            {
                "after": after,
                "namespace": namespace,
                "kind": address and address.kind,
                "name": address and address.name,
                "limit": limit,
            },
        )
        return [ScheduleInfo(*row) for row in cursor.fetchall()]


def find(namespace: str, destination: str, name: str, *, using: str = "default") -> ScheduleInfo | None:
    """The schedule of that name; None: there is none.

    Raises:
        BadDestination: that is none.
    """
    address = parse_address(namespace, destination)
    with _cursor(using) as cursor:
        cursor.execute(
            f"{_SELECT} WHERE d.namespace = %s AND d.kind = %s AND d.name = %s AND s.name = %s",
            [namespace, address.kind, address.name, name],
        )
        row = cursor.fetchone()
    return None if row is None else ScheduleInfo(*row)


def unschedule(namespace: str, schedule_id: int, *, using: str = "default") -> None:
    """Send it no more. What it has sent stays in its queue.

    Raises:
        NotFound: the namespace has no such schedule.
    """
    with _cursor(using) as cursor:
        cursor.execute(
            "DELETE FROM msgweb.schedule s USING msgweb.destination d"
            " WHERE d.id = s.destination AND d.namespace = %s AND s.id = %s RETURNING s.id",
            [namespace, schedule_id],
        )
        _must_exist(cursor.fetchone(), schedule_id)


def run_now(namespace: str, schedule_id: int, *, using: str = "default") -> int | None:
    """Send its message once more, now, whether it is paused or not. Its own runs and its count stay as they are.

    Returns:
        The message's id; None for a topic's.

    Raises:
        NotFound: the namespace has no such schedule.
        LimitExceeded: its queue is full.
    """
    with _cursor(using) as cursor:
        cursor.execute(
            "SELECT (msgweb.send_scheduled(s, clock_timestamp(), true)).id"
            " FROM msgweb.schedule s JOIN msgweb.destination d ON d.id = s.destination"
            " WHERE d.namespace = %s AND s.id = %s",
            [namespace, schedule_id],
        )
        return _must_exist(cursor.fetchone(), schedule_id)[0]  # type: ignore[no-any-return]


def pause(namespace: str, schedule_id: int, *, using: str = "default") -> None:
    """Send nothing until it is resumed.

    Raises:
        NotFound: the namespace has no such schedule.
    """
    with _cursor(using) as cursor:
        cursor.execute(
            "UPDATE msgweb.schedule s SET paused = true FROM msgweb.destination d"
            " WHERE d.id = s.destination AND d.namespace = %s AND s.id = %s RETURNING s.id",
            [namespace, schedule_id],
        )
        _must_exist(cursor.fetchone(), schedule_id)


def resume(namespace: str, schedule_id: int, *, using: str = "default") -> datetime:
    """Go on with its next run that lies ahead: what was missed meanwhile is not made up.

    Returns:
        When that is.

    Raises:
        NotFound: the namespace has no such schedule.
        BadSchedule: it was paused because it cannot be understood, and still cannot: schedule it anew.
    """
    with transaction.atomic(using=using), _cursor(using) as cursor:
        cursor.execute(
            "SELECT s.cron, s.timezone, s.period, s.next_at, s.seeking, clock_timestamp()"
            " FROM msgweb.schedule s JOIN msgweb.destination d ON d.id = s.destination"
            " WHERE d.namespace = %s AND s.id = %s FOR UPDATE OF s",
            [namespace, schedule_id],
        )
        cron, timezone, period, next_at, seeking, now = _must_exist(cursor.fetchone(), schedule_id)
        repeat = Repeat(cron=cron, timezone=timezone, period=period)
        if seeking:
            next_at = first_run(repeat, 0.0, max(next_at, now))
        elif next_at < now:
            next_at = next_run(repeat, next_at, now) or first_run(repeat, 0.0, now)
        cursor.execute(
            "UPDATE msgweb.schedule s SET paused = false, seeking = false, next_at = %s WHERE s.id = %s"
            " RETURNING pg_notify('msgweb_session', 'due')",
            [next_at, schedule_id],
        )
    return next_at  # type: ignore[no-any-return]


def _begin(repeat: Repeat, start: datetime | None, now: datetime) -> datetime:
    ahead = 0.0 if start is None else max((start - now).total_seconds(), 0.0)
    first = first_run(repeat, ahead, now)
    if repeat.cron is None and start is not None and start < now:
        return next_run(repeat, start, now) or first
    return first


def _must_exist(row: tuple[Any, ...] | None, schedule_id: int) -> tuple[Any, ...]:
    if row is None:
        raise NotFound(f"there is no schedule {schedule_id}")
    return row


@contextmanager
def _cursor(using: str) -> Iterator[Any]:
    """A cursor of the caller's transaction. What the engine's functions refuse becomes an error of ours."""
    refusals = {"MW400": BadDestination, "MW404": NotFound, "MW413": LimitExceeded}
    try:
        with connections[using].cursor() as cursor:
            yield cursor
    except DatabaseError as error:
        refusal = refusals.get(getattr(error.__cause__, "sqlstate", ""))
        if refusal is None:
            raise
        raise refusal(str(error.__cause__).partition("\n")[0]) from error
