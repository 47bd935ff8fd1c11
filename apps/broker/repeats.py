"""When a message that is sent again and again is sent: a period, or a cron expression in a time zone. No I/O.

And what clients of ActiveMQ ask for by the AMQ_SCHEDULED_* headers of a SEND. docs/reference/schedules.md tells users
the rules.
"""

import functools
import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

from apps.broker.engine import Options, Repeat
from msgweb.errors import BadRequest

SHORTEST_PERIOD = 1.0  # seconds
LONGEST = 3e9  # seconds (95 years): of a period, a delay, a time to live
COUNT_LIMIT = 2**31 - 1
CRON_LIMIT = 255  # characters

#: Headers of a SEND by which clients of ActiveMQ ask for a delay or a schedule. A message carries none of them on.
ACTIVEMQ_HEADERS = frozenset(
    {"AMQ_SCHEDULED_DELAY", "AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT", "AMQ_SCHEDULED_CRON"}
)
_INSTANT = timedelta(microseconds=1)
_INTEGER = re.compile(r"-?[0-9]{1,15}")


class BadSchedule(BadRequest):
    """A delay or schedule that cannot be, such as a cron expression that never fires."""

    code = "bad_schedule"


def check(repeat: Repeat, delay: float = 0.0) -> None:
    """Refuse what cannot be. Takes some 20 ms at most, whatever the expression.

    Raises:
        BadSchedule: neither or both of cron and period; a cron expression that is none, has not five fields, or never
            fires; an unknown time zone; a period under a second or over 95 years; a count below 1; a negative delay.
    """
    first_run(repeat, delay, datetime.now(UTC))


def first_run(repeat: Repeat, delay: float, now: datetime) -> datetime:
    """When the first run is.

    Of a period: after the delay. Of a cron expression: its first time after the delay; that time itself included.

    Args:
        delay: seconds.
        now: by the database's clock.

    Raises:
        BadSchedule: as `check`.
    """
    _check(repeat, delay)
    start = now + timedelta(seconds=delay)
    if repeat.cron is None:
        return start
    first = _cron_after(repeat.cron, repeat.timezone, start - _INSTANT)
    if first is None:
        raise BadSchedule(f"cron expression {repeat.cron!r} never fires (there is no such day within 50 years)")
    return first


def next_run(repeat: Repeat, previous: datetime, now: datetime) -> datetime | None:
    """When the run after `previous` is: the first that lies ahead.

    Never drifts: of a period, runs are the first run plus whole periods, however late each was sent. Runs that were
    missed (nobody was there to send them) are skipped: a run that is overdue is sent once, and this is the next.

    Args:
        previous: when the run that is sent now was due.
        now: by the database's clock.

    Returns:
        None if a cron expression has no further time (within 50 years).

    Raises:
        BadSchedule: as `check`.
    """
    _check(repeat, 0.0)
    if repeat.cron is not None:
        return _cron_after(repeat.cron, repeat.timezone, max(previous, now))
    assert repeat.period is not None
    period = timedelta(seconds=repeat.period)
    behind = max((now - previous) // period, 0)
    return previous + (behind + 1) * period


def _check(repeat: Repeat, delay: float) -> None:
    if not 0 <= delay <= LONGEST:
        raise BadSchedule(f"a delay is 0 to {LONGEST:.0f} seconds, not {delay:g}")
    if repeat.count is not None and not 1 <= repeat.count <= COUNT_LIMIT:
        raise BadSchedule(f"a count of runs is 1 to {COUNT_LIMIT}, not {repeat.count}")
    if (repeat.cron is None) == (repeat.period is None):
        raise BadSchedule("a schedule has either a cron expression or a period: give one of them")
    if repeat.period is not None and not SHORTEST_PERIOD <= repeat.period <= LONGEST:
        raise BadSchedule(f"a period is {SHORTEST_PERIOD:g} to {LONGEST:.0f} seconds, not {repeat.period:g}")
    _zone(repeat.timezone)


def _cron_after(cron: str, timezone: str, moment: datetime) -> datetime | None:
    """The expression's first time after a moment, in UTC; None: none within 50 years.

    cronsim follows Debian's cron where clocks change, but for times of day it counts on the wall clock: within an hour
    that comes twice it may answer with one that has passed.
    """
    if len(cron) > CRON_LIMIT:
        raise BadSchedule(f"a cron expression has at most {CRON_LIMIT} characters, not {len(cron)}")
    fields = len(cron.split())
    if fields != 5:
        raise BadSchedule(
            f"cron expression {cron!r} has {fields} fields; it takes five:"
            " minute, hour, day of month, month, day of week"
        )
    try:
        for time in CronSim(cron, moment.astimezone(_zone(timezone))):
            instant = time.astimezone(UTC)
            if instant > moment:
                return instant
    except CronSimError as error:
        raise BadSchedule(f"cron expression {cron!r} is none, or never fires: {error}") from error
    return None


def _zone(name: str) -> tzinfo:
    """A time zone by its IANA name. Only known names are looked up, so that a name is never a path."""
    if name == "UTC":
        return UTC
    if name not in _zone_names():
        raise BadSchedule(f"{name[:100]!r} is no time zone: give an IANA name, such as Europe/Berlin")
    return zoneinfo.ZoneInfo(name)


@functools.cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def from_activemq(headers: Mapping[str, str], timezone: str = "UTC") -> Options | None:
    """What a SEND's AMQ_SCHEDULED_* headers ask for, as ActiveMQ understands them.

    DELAY, PERIOD: milliseconds. REPEAT: how many times more, -1: without end. Without DELAY the first comes after
    PERIOD. PERIOD without REPEAT: once. CRON: five fields, without end. CRON together with one of the others (in
    ActiveMQ: a series at each of its times) is refused; zeros ask for nothing.

    Args:
        headers: the message's, decoded; others than these four do not matter.
        timezone: of the cron expression (ActiveMQ: that of the server).

    Returns:
        Options with a delay or a repeat; None if they ask for neither.

    Raises:
        BadSchedule: as `check`; a value that is no number; REPEAT without PERIOD.
    """
    cron = headers.get("AMQ_SCHEDULED_CRON", "").strip()
    delay = _number(headers, "AMQ_SCHEDULED_DELAY") / 1000
    period = _number(headers, "AMQ_SCHEDULED_PERIOD") / 1000
    again = _number(headers, "AMQ_SCHEDULED_REPEAT", least=-1)
    if cron:
        if delay or period or again:
            raise BadSchedule(
                "AMQ_SCHEDULED_CRON stands alone: leave out AMQ_SCHEDULED_DELAY, _PERIOD and _REPEAT,"
                " or say in the expression itself when to run"
            )
        options = Options(repeat=Repeat(cron=cron, timezone=timezone))
    elif again:
        if not period:
            raise BadSchedule("AMQ_SCHEDULED_REPEAT needs AMQ_SCHEDULED_PERIOD, the milliseconds from run to run")
        repeat = Repeat(period=period, count=None if again < 0 else again + 1)
        options = Options(delay=delay or period, repeat=repeat)
    elif delay or period:
        options = Options(delay=delay or period)
    else:
        return None
    if options.repeat is not None:
        check(options.repeat, options.delay)
    elif options.delay > LONGEST:
        raise BadSchedule(f"a delay is at most {LONGEST:.0f} seconds, not {options.delay:.0f}")
    return options


def _number(headers: Mapping[str, str], name: str, least: int = 0) -> int:
    text = headers.get(name, "0")
    if not _INTEGER.fullmatch(text) or int(text) < least:
        raise BadSchedule(f"{name} is a whole number, {least} or more, not {text[:100]!r}")
    return int(text)
