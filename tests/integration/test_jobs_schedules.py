"""Jobs at times: each due time once, whoever looks; what was missed; pause, resume, run now."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction

from apps.broker.repeats import BadSchedule
from apps.jobs import schedules, testing, upkeep
from apps.jobs.errors import UnknownSchedule, UnknownTask
from apps.jobs.models import Job, Schedule
from msgweb.errors import BadArguments, BadMessage
from tests import sample_tasks  # noqa: F401  declares them

pytestmark = pytest.mark.django_db(transaction=True)


def every(namespace: str, seconds: float = 60.0, **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "task": "samples.add", "arguments": {"a": 1}, "every": seconds, **more}


def overdue(name: str, seconds: float) -> datetime:
    """Let a schedule's next time have passed so long ago; when that was."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    Schedule.objects.filter(name=name).update(next_at=moment)
    return moment


def test_a_due_time_is_a_job_and_the_next_lies_ahead(namespace: str) -> None:
    asked, minute = datetime.now(UTC), timedelta(minutes=1)
    schedule = schedules.put("minutely", every(namespace))
    assert asked + minute <= schedule.next_at <= datetime.now(UTC) + minute
    assert schedules.run_due() == 0
    moment = overdue("minutely", 1)
    assert schedules.run_due() == 1
    assert schedules.run_due() == 0
    job = Job.objects.get()
    assert (job.task, job.arguments, job.requested_by) == ("samples.add", {"a": 1}, "schedule minutely")
    schedule.refresh_from_db()
    assert schedule.next_at == moment + timedelta(seconds=60)
    assert (schedule.last_at, schedule.last_job, schedule.last_outcome) == (moment, job.id, "asked for")


def test_a_cron_expression_follows_its_time_zone(namespace: str) -> None:
    definition = {"namespace": namespace, "task": "samples.talk", "cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"}
    schedule = schedules.put("nightly", definition)
    assert schedules.in_words(schedule) == "at 02:30, Monday through Friday (Europe/Berlin)"
    times = list(schedules.coming(schedule))
    assert len(times) == 5
    from zoneinfo import ZoneInfo

    local = [moment.astimezone(ZoneInfo("Europe/Berlin")) for moment in times]
    assert all((moment.hour, moment.minute) == (2, 30) and moment.weekday() < 5 for moment in local)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (60, "every minute"),
        (300, "every 5 minutes"),
        (86400, "every day"),
        (7200, "every 2 hours"),
        (90, "every 90 seconds"),
    ],
)
def test_an_interval_in_words(seconds: float, words: str) -> None:
    assert schedules.in_words(Schedule(every=seconds)) == words


def test_however_many_look_and_whatever_dies_a_time_runs_once(namespace: str) -> None:
    schedules.put("minutely", every(namespace))
    overdue("minutely", 1)

    def dying() -> None:
        with transaction.atomic():
            assert schedules.run_due() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dying()
    assert not Job.objects.exists()
    barrier = threading.Barrier(6)
    asked: list[int] = []

    def look() -> None:
        barrier.wait(10)
        asked.append(schedules.run_due())
        connection.close()

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(asked) == 1
    assert Job.objects.count() == 1


def test_a_time_that_was_run_before_is_the_same_job(namespace: str) -> None:
    """As after a crash of Postgres that lost the schedule's row, say, but not the job."""
    schedules.put("minutely", every(namespace))
    overdue("minutely", 1)
    before = Schedule.objects.get()
    schedules.run_due()
    Schedule.objects.update(next_at=before.next_at)
    schedules.run_due()
    assert Job.objects.count() == 1


@pytest.mark.parametrize(("misfire", "runs"), [("once", 1), ("skip", 0), ("all", 4)])
def test_what_was_missed_is_made_up_for_as_the_policy_says(namespace: str, misfire: str, runs: int) -> None:
    schedules.put("hourly", every(namespace, 3600, misfire=misfire))
    moment = overdue("hourly", 3.5 * 3600)
    assert schedules.run_due() == runs
    schedule = Schedule.objects.get()
    assert schedule.next_at == moment + timedelta(hours=4)
    assert schedules.run_due() == 0


def test_a_time_that_is_a_little_late_is_not_missed(namespace: str) -> None:
    schedules.put("hourly", every(namespace, 3600, misfire="skip", grace=60))
    overdue("hourly", 3600 + 30)
    assert schedules.run_due() == 1
    overdue("hourly", 3600 + 90)
    assert schedules.run_due() == 0


def test_paused_it_asks_for_nothing_and_resumed_it_makes_up_for_nothing(namespace: str) -> None:
    schedules.put("hourly", every(namespace, 3600))
    schedules.pause("hourly")
    moment = overdue("hourly", 2 * 3600 + 5)
    assert schedules.run_due() == 0
    assert schedules.run_now("hourly").state == "ready"
    assert schedules.resume("hourly").next_at == moment + timedelta(hours=3)
    assert schedules.run_due() == 0
    assert Job.objects.count() == 1
    schedules.remove("hourly")
    for call in (schedules.pause, schedules.resume, schedules.run_now, schedules.remove):
        with pytest.raises(UnknownSchedule):
            call("hourly")


def test_put_again_it_keeps_its_place_unless_its_times_are_others(namespace: str) -> None:
    first = schedules.put("hourly", every(namespace, 3600))
    Schedule.objects.update(next_at=first.next_at - timedelta(minutes=20), paused=True)
    same = schedules.put("hourly", every(namespace, 3600, priority=9))
    assert same.next_at == first.next_at - timedelta(minutes=20)
    assert (same.paused, same.priority) == (True, 9)
    assert schedules.put("hourly", every(namespace, 1800)).next_at < first.next_at


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"every": 0.5}, BadSchedule),
        ({"every": None}, BadSchedule),
        ({"cron": "* * * * *"}, BadSchedule),
        ({"every": None, "cron": "0 0 31 2 *"}, BadSchedule),
        ({"every": None, "cron": "often"}, BadSchedule),
        ({"timezone": "Mars/Olympus"}, BadSchedule),
        ({"misfire": "perhaps"}, BadSchedule),
        ({"grace": -1}, BadSchedule),
        ({"evry": 3}, BadSchedule),
        ({"namespace": None}, BadSchedule),
        ({"task": "no.such"}, UnknownTask),
        ({"arguments": {"z": 1}}, BadArguments),
        ({"priority": 12}, BadMessage),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(namespace: str, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        schedules.put("wrong", {**every(namespace), **change})
    with pytest.raises(BadSchedule):
        schedules.put("", every(namespace))
    assert not Schedule.objects.exists()


def test_a_run_that_cannot_be_asked_for_stops_no_other(namespace: str) -> None:
    for name in ("a", "b", "c"):
        schedules.put(name, every(namespace))
        overdue(name, 1)
    Schedule.objects.filter(name="b").update(task="samples.gone")
    assert schedules.run_due() == 2
    broken = Schedule.objects.get(name="b")
    assert broken.last_outcome.startswith("unknown_task: ")
    assert broken.next_at > datetime.now(UTC)


def test_a_module_that_breaks_is_one_schedules_trouble_and_nobody_elses(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_tasks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a", "b"):
        schedules.put(name, every(namespace))
        overdue(name, 1)
    Schedule.objects.filter(name="a").update(task="broken_tasks.work")
    assert schedules.run_due() == 1
    assert "ZeroDivisionError" in Schedule.objects.get(name="a").last_outcome


def test_a_time_zone_that_is_gone_pauses_its_schedule(namespace: str) -> None:
    schedules.put("daily", {"namespace": namespace, "task": "samples.talk", "cron": "0 0 * * *"})
    overdue("daily", 1)
    Schedule.objects.update(zone="Mars/Olympus")
    assert schedules.run_due() == 0
    schedule = Schedule.objects.get()
    assert schedule.paused
    assert "Mars/Olympus" in schedule.last_outcome


def test_the_settings_schedules_come_and_go_with_them(namespace: str, settings: Any) -> None:
    schedules.put("by-hand", every(namespace))
    settings.MSGWEB_SCHEDULES = {"one": every(namespace), "two": every(namespace), "wrong": {"every": 3}}
    schedules.sync_settings()
    assert set(Schedule.objects.values_list("name", flat=True)) == {"by-hand", "one", "two"}
    settings.MSGWEB_SCHEDULES = {"two": every(namespace)}
    schedules.sync_settings()
    assert set(Schedule.objects.values_list("name", flat=True)) == {"by-hand", "two"}


def test_a_worker_looks_at_the_settings_schedules_only_if_there_are_or_were_some(
    namespace: str, settings: Any, conninfo: str
) -> None:
    async def count() -> bool:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as opened:
            return await upkeep.settings_count(opened)

    settings.MSGWEB_SCHEDULES = {}
    assert not asyncio.run(count())
    schedules.put("of the console", every(namespace))
    assert not asyncio.run(count())
    settings.MSGWEB_SCHEDULES = {"one": every(namespace)}
    assert asyncio.run(count())
    schedules.sync_settings()
    settings.MSGWEB_SCHEDULES = {}
    assert asyncio.run(count())  # those are to go
    schedules.sync_settings()
    assert not asyncio.run(count())


def test_time_passes_for_schedules_too(namespace: str) -> None:
    schedules.put("minutely", every(namespace))
    assert testing.run_due() == []
    testing.advance(61)
    assert [job.task for job in testing.run_due()] == ["samples.add"]


def test_a_django_task_is_scheduled_by_its_path(namespace: str) -> None:
    path = "tests.sample_django_tasks.double"
    schedules.put("double", {"namespace": namespace, "task": path, "arguments": {"n": 4}, "every": 60})
    schedules.put("echo", {"namespace": namespace, "task": path, "arguments": {"args": [5]}, "every": 60})
    testing.advance(61)
    assert sorted(job.result for job in testing.run_due()) == [8, 10]
