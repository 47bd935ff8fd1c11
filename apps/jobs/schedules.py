"""Jobs at times: cron expressions and intervals, from the settings or made in the console.

    MSGWEB_SCHEDULES = {
        "nightly-report": {
            "namespace": "shop.production", "task": "shop.report", "arguments": {"days": 1},
            "cron": "30 2 * * 1-5", "timezone": "Europe/Berlin",
        },
        "refresh": {"namespace": "shop.production", "task": "shop.refresh", "every": 300, "misfire": "skip"},
    }

Every worker looks once a second for what is due (`apps.jobs.upkeep`). A due time is one transaction: it takes the
schedule's row, asks for the job, whose id is made of the schedule and the time, and moves on. So each due time runs
once, however many workers there are, and whatever dies in between. When a time is, says `apps.broker.repeats`.
"""

import logging
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from apps.broker.engine import Repeat
from apps.broker.repeats import BadSchedule, check, first_run, next_run
from apps.jobs import registry
from apps.jobs.asking import Ask
from apps.jobs.errors import UnknownSchedule
from apps.jobs.models import Job, Schedule
from apps.jobs.submit import ask_for
from msgweb.errors import MsgwebError

log = logging.getLogger(__name__)

MOST = 50  # schedules in one call
MISSED_LIMIT = 100  # missed times that the policy `all` makes up for, the latest ones
NAME_LIMIT = 200
MISFIRES = ("once", "skip", "all")
KEYS = frozenset(
    {"namespace", "task", "arguments", "cron", "every", "timezone", "misfire", "grace", "priority", "queue"}
)
_IDS = uuid.UUID("6f1d7b1e-6d0c-4b56-9f0a-6d73676a6f62")  # of schedules' jobs: a name space for uuid5


def put(name: str, definition: Mapping[str, Any], *, source: str = Schedule.Source.CONSOLE) -> Schedule:
    """Make a schedule, or change the one of that name. One whose times are what they were keeps its place in them.

    Args:
        definition: namespace, task, arguments; `cron` or `every` (seconds); timezone (an IANA name); misfire: what
            becomes of times that nobody was there for: `once` (make up for all of them by one run), `skip`, or `all`;
            grace: seconds that a time may be late before it counts as missed; priority; queue.

    Raises:
        BadSchedule: it cannot be, such as a cron expression that never fires; the text says why.
        UnknownTask: there is no such task.
        BadArguments: they do not fit the task.
    """
    repeat = _checked(name, definition)
    with transaction.atomic():
        schedule = Schedule.objects.select_for_update().filter(name=name).first() or Schedule(name=name)
        same = schedule.pk is not None and repeat_of(schedule) == repeat
        schedule.source = source
        schedule.namespace, schedule.task = definition["namespace"], definition["task"]
        schedule.arguments = dict(definition.get("arguments") or {})
        schedule.cron, schedule.every, schedule.zone = repeat.cron or "", repeat.period, repeat.timezone
        schedule.misfire, schedule.grace = definition.get("misfire", "once"), float(definition.get("grace", 60.0))
        schedule.priority, schedule.queue = definition.get("priority"), definition.get("queue") or ""
        if not same:
            now = _now()
            schedule.next_at = first_run(repeat, repeat.period or 0.0, now)
        schedule.save()
    return schedule


def problem_of(name: str, definition: Mapping[str, Any]) -> str | None:
    """Why a schedule cannot be; None: it can."""
    try:
        _checked(name, definition)
    except MsgwebError as error:
        return f"{name}: {error.message}"
    return None


def _checked(name: str, definition: Mapping[str, Any]) -> Repeat:
    if unknown := sorted(set(definition) - KEYS):
        raise BadSchedule(f"schedule {name!r}: there is no {', '.join(unknown)}; there are {', '.join(sorted(KEYS))}")
    if not name or len(name) > NAME_LIMIT or "\0" in name:
        raise BadSchedule(f"a schedule's name has 1 to {NAME_LIMIT} characters and no NUL")
    namespace, task_name = definition.get("namespace"), definition.get("task")
    if not isinstance(namespace, str) or not isinstance(task_name, str):
        raise BadSchedule(f"schedule {name!r} needs a namespace and a task")
    misfire, grace = definition.get("misfire", "once"), definition.get("grace", 60.0)
    if misfire not in MISFIRES:
        raise BadSchedule(f"schedule {name!r}: misfire is one of {', '.join(MISFIRES)}, not {misfire!r}")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= 1e9:
        raise BadSchedule(f"schedule {name!r}: grace is a number of seconds, not {grace!r}")
    task = registry.load(task_name)
    arguments = dict(definition.get("arguments") or {})
    task.check(task.completed(arguments))
    Ask(priority=definition.get("priority"))
    repeat = Repeat(
        cron=definition.get("cron"), period=definition.get("every"), timezone=definition.get("timezone") or "UTC"
    )
    check(repeat)
    return repeat


def sync_settings() -> None:
    """Make the schedules of `MSGWEB_SCHEDULES`, and take away those that are no longer there. What cannot be is logged
    and left out: it must not keep a worker from its work (`manage.py check` finds it too)."""
    given: Mapping[str, Any] = getattr(settings, "MSGWEB_SCHEDULES", {})
    for name, definition in given.items():
        try:
            put(name, definition, source=Schedule.Source.SETTINGS)
        except MsgwebError as error:
            log.error("schedule %r of the settings is left out: %s", name, error.message)
    Schedule.objects.filter(source=Schedule.Source.SETTINGS).exclude(name__in=list(given)).delete()


def repeat_of(schedule: Schedule) -> Repeat:
    """When it runs."""
    return Repeat(cron=schedule.cron or None, period=schedule.every, timezone=schedule.zone)


def run_due() -> int:
    """Ask for the jobs that are due, at most for MOST schedules; what another process has at hand is left to it.

    Returns:
        How many jobs were asked for.
    """
    asked = 0
    with transaction.atomic():
        now = _now()
        due = Schedule.objects.select_for_update(skip_locked=True).filter(paused=False, next_at__lte=now)
        for schedule in due.order_by("next_at")[:MOST]:
            for moment in _moments(schedule, now):
                asked += _run(schedule, moment) is not None
            schedule.save()
    return asked


def _moments(schedule: Schedule, now: datetime) -> list[datetime]:
    """The times of a due schedule that are to run now; moves it on to the one that lies ahead."""
    repeat = repeat_of(schedule)
    missed = [schedule.next_at]
    try:
        following = next_run(repeat, schedule.next_at, now)
        if schedule.misfire == "all":
            moment = next_run(repeat, schedule.next_at, schedule.next_at)
            while moment is not None and moment <= now:
                missed = [*missed[-MISSED_LIMIT + 1 :], moment]
                moment = next_run(repeat, moment, moment)
        elif schedule.misfire == "skip":
            # The latest of the times that have passed, which may be in its grace.
            latest = _latest(repeat, schedule.next_at, now)
            missed = [latest] if now - latest <= timedelta(seconds=schedule.grace) else []
    except BadSchedule as error:  # a time zone that is gone, say
        schedule.paused = True
        schedule.last_outcome = f"paused: {error.message}"[:500]
        return []
    if following is None:
        schedule.paused = True
    else:
        schedule.next_at = following
    if not missed:
        schedule.last_outcome = "skipped: nobody was there in time"
    return missed


def _latest(repeat: Repeat, moment: datetime, now: datetime) -> datetime:
    if repeat.period is not None:
        period = timedelta(seconds=repeat.period)
        return moment + ((now - moment) // period) * period
    for _ in range(10_000):
        following = next_run(repeat, moment, moment)
        if following is None or following > now:
            return moment
        moment = following
    return moment


def _run(schedule: Schedule, moment: datetime) -> Job | None:
    job_id = uuid.uuid5(_IDS, f"{schedule.pk} {moment.isoformat()}")
    schedule.last_at = moment
    try:
        with transaction.atomic():
            job = _ask(schedule, job_id)
    except MsgwebError as error:
        log.error("schedule %r: a job cannot be asked for: %s", schedule.name, error.message)
        schedule.last_outcome = f"{error.code}: {error.message}"[:500]
        return None
    schedule.last_job, schedule.last_outcome = job.id, "asked for"
    return job


def _ask(schedule: Schedule, job_id: uuid.UUID | None = None) -> Job:
    ask = Ask(
        job_id=job_id,
        requested_by=f"schedule {schedule.name}",
        priority=schedule.priority,
        queue=schedule.queue or None,
    )
    task = registry.load(schedule.task)
    return ask_for(task, schedule.namespace, task.completed(schedule.arguments), ask)


def find(name: str) -> Schedule:
    """The schedule of that name, its row locked if there is a transaction.

    Raises:
        UnknownSchedule: there is none.
    """
    rows = Schedule.objects.select_for_update() if connection.in_atomic_block else Schedule.objects.all()
    schedule = rows.filter(name=name).first()
    if schedule is None:
        raise UnknownSchedule(f"there is no schedule {name!r}")
    return schedule


def run_now(name: str) -> Job:
    """Ask for its job once more, now, whether it is paused or not. Its own times stay as they are.

    Raises:
        UnknownSchedule: there is none of that name.
        MsgwebError: as `submit`.
    """
    with transaction.atomic():
        schedule = find(name)
        job = _ask(schedule)
        schedule.last_job = job.id
        schedule.save(update_fields=["last_job"])
    return job


def pause(name: str) -> Schedule:
    """Ask for nothing until it is resumed.

    Raises:
        UnknownSchedule: there is none of that name.
    """
    with transaction.atomic():
        schedule = find(name)
        schedule.paused = True
        schedule.save(update_fields=["paused"])
    return schedule


def resume(name: str) -> Schedule:
    """Go on with its next time that lies ahead: what was missed meanwhile is not made up.

    Raises:
        UnknownSchedule: there is none of that name.
        BadSchedule: it has no further time.
    """
    with transaction.atomic():
        schedule = find(name)
        now = _now()
        if schedule.next_at <= now:
            following = next_run(repeat_of(schedule), schedule.next_at, now)
            if following is None:
                raise BadSchedule(f"schedule {name!r} has no further time")
            schedule.next_at = following
        schedule.paused = False
        schedule.save(update_fields=["paused", "next_at"])
    return schedule


def remove(name: str) -> None:
    """Take a schedule away. Its jobs stay.

    Raises:
        UnknownSchedule: there is none of that name.
    """
    find(name).delete()


def coming(schedule: Schedule, count: int = 5) -> Iterator[datetime]:
    """Its next times, in its time zone."""
    repeat, moment = repeat_of(schedule), schedule.next_at
    for _ in range(count):
        yield moment
        following = next_run(repeat, moment, moment)
        if following is None:
            return
        moment = following


def in_words(schedule: Schedule) -> str:
    """When it runs, in plain words: `at 02:30, Monday through Friday (Europe/Berlin)`, `every 5 minutes`."""
    if schedule.every is not None:
        return _every(schedule.every)
    # Here, since only the console asks for it: it would take half a megabyte of every worker.
    from cron_descriptor import CasingTypeEnum, ExpressionDescriptor, Options
    from cron_descriptor.Exception import FormatException

    options = Options()
    options.casing_type = CasingTypeEnum.Sentence
    options.use_24hour_time_format = True
    try:
        words = str(ExpressionDescriptor(schedule.cron, options).get_description())
        words = words[:1].lower() + words[1:]
    except FormatException:
        words = f"cron {schedule.cron}"  # cron takes more than there are words for
    return words if schedule.zone == "UTC" else f"{words} ({schedule.zone})"


def _every(seconds: float) -> str:
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            number = int(seconds // size)
            return f"every {name}" if number == 1 else f"every {number} {name}s"
    return f"every {seconds:g} seconds" if seconds != 1 else "every second"


def _now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment
