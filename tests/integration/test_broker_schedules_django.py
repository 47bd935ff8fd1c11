"""Schedules for Django code: in its transaction, deployed again, paused, run now, refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from apps.broker import schedules
from apps.broker.schedules import BadSchedule
from msgweb.errors import BadDestination, BadMessage, LimitExceeded, NotFound
from tests.schedule_runs import HOUR, NAMESPACE, add, add_by_sql, clean_namespace, due, move, now_of, sent, sql

START = datetime(2080, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def clean(conninfo: str) -> Iterator[None]:
    with clean_namespace(conninfo):
        yield


def test_a_schedule_belongs_to_the_callers_transaction(conninfo):
    with transaction.atomic():
        add()
        assert due(conninfo) is None
        transaction.set_rollback(True)
    assert schedules.schedules() == [] and due(conninfo) is None


def test_deploying_a_schedule_again_neither_doubles_nor_postpones_it(conninfo):
    options = {"name": "report", "every": 3600, "count": 5, "start": datetime(2026, 1, 1, tzinfo=UTC)}
    first = add(body="old", **options)
    due(conninfo)
    move(first, timedelta(minutes=-20))
    before = now_of(first)
    again = add(body="new", priority=9, **options)
    assert again.id == first.id and again.next_at == before.next_at and again.remaining == before.remaining
    assert again.priority == 9 and len(schedules.schedules(NAMESPACE)) == 1
    move(again, -HOUR)
    due(conninfo)
    assert [body for _, body in sent()][-1] == b"new"


def test_a_paused_schedule_stays_paused_when_it_is_deployed_again():
    first = add(name="report")
    schedules.pause(NAMESPACE, first.id)
    assert add(name="report").paused


@pytest.mark.parametrize(
    ("changed", "begins"),
    [
        ({"every": 30}, None),
        ({"count": 4}, None),
        ({"count": None}, None),
        ({"start": datetime(2090, 1, 1, tzinfo=UTC)}, datetime(2090, 1, 1, tzinfo=UTC)),
        ({"every": None, "cron": "* * * * *", "start": START}, START),
        ({"every": None, "cron": "* * * * *", "start": START, "timezone": "Europe/Berlin"}, START),
    ],
)
def test_a_schedule_whose_times_were_changed_begins_anew(conninfo, changed, begins):
    first = add(name="report", count=5)
    due(conninfo)
    move(first, 100 * HOUR)
    options = {"name": "report", "count": 5, **changed}
    asked = datetime.now(UTC)
    again = add(**options)
    assert again.id == first.id and again.remaining == options["count"]
    assert (begins or asked) <= again.next_at <= (begins or datetime.now(UTC) + timedelta(seconds=10))


def test_schedules_of_one_name_at_two_queues_are_two_and_without_a_name_each_is_its_own():
    add("a", name="x"), add("b", name="x"), add("a"), add("a")
    assert [(one.destination, one.name) for one in schedules.schedules(NAMESPACE)] == [
        ("/queue/a", "x"), ("/queue/b", "x"), ("/queue/a", None), ("/queue/a", None)]  # fmt: skip
    assert len(schedules.schedules(NAMESPACE, "a")) == 3
    third = schedules.schedules(NAMESPACE)[2]
    assert [one.id for one in schedules.schedules(NAMESPACE, after=third.id - 1, limit=1)] == [third.id]
    assert schedules.find(NAMESPACE, "/queue/b", "x").destination == "/queue/b"
    assert schedules.find(NAMESPACE, "/queue/b", "y") is None


def test_start_says_on_what_a_period_stands_whether_it_has_passed_or_not():
    future, past = datetime(2090, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    assert add(every=3600, start=future).next_at == future
    asked = datetime.now(UTC)
    at = add(every=timedelta(hours=1), start=past).next_at
    assert (at.minute, at.second, at.microsecond) == (0, 7, 0) and asked < at <= datetime.now(UTC) + HOUR
    assert add(every=None, cron="0 12 * * *", start=future).next_at == datetime(2090, 1, 1, 12, tzinfo=UTC)


def test_run_now_sends_one_more_and_changes_nothing_else(conninfo):
    schedule = add(count=2, start=datetime(2090, 1, 1, tzinfo=UTC), name="x")
    schedules.pause(NAMESPACE, schedule.id)
    before = now_of(schedule)
    assert isinstance(schedules.run_now(NAMESPACE, schedule.id), int)
    [(headers, _)] = sent()
    assert headers["schedule-name"] == "x" and now_of(schedule) == before
    sql("UPDATE msgweb.destination SET max_length = 1 WHERE namespace = %s", NAMESPACE)
    with pytest.raises(LimitExceeded):
        schedules.run_now(NAMESPACE, schedule.id)


def test_a_paused_schedule_sends_nothing_and_makes_up_for_nothing_when_resumed(conninfo):
    schedule = add(every=60)
    schedules.pause(NAMESPACE, schedule.id)
    first = move(schedule, -100 * HOUR)
    assert due(conninfo) is None
    asked, minute = datetime.now(UTC), timedelta(minutes=1)
    at = schedules.resume(NAMESPACE, schedule.id)
    assert asked < at <= datetime.now(UTC) + minute and (at - first) % minute == timedelta(0)
    assert due(conninfo) > 0 and sent() == []
    move(schedule, -HOUR)
    due(conninfo)
    assert len(sent()) == 1


def test_resuming_what_was_not_missed_keeps_its_time(conninfo):
    schedule = add(every=None, cron="0 9 * * *")
    schedules.pause(NAMESPACE, schedule.id)
    assert schedules.resume(NAMESPACE, schedule.id) == schedule.next_at
    added = add_by_sql(cron="0 9 * * *")
    schedules.pause(NAMESPACE, added)
    assert schedules.resume(NAMESPACE, added) == schedule.next_at
    assert due(conninfo) > 0 and sent() == []


def test_an_unscheduled_message_comes_no_more(conninfo):
    schedule = add()
    schedules.unschedule(NAMESPACE, schedule.id)
    assert due(conninfo) is None and schedules.schedules() == []


@pytest.mark.parametrize("verb", [schedules.unschedule, schedules.run_now, schedules.pause, schedules.resume])
def test_a_namespace_has_no_hand_in_anothers_schedules(verb):
    schedule = add()
    with pytest.raises(NotFound):
        verb("other.test", schedule.id)
    with pytest.raises(NotFound):
        verb(NAMESPACE, schedule.id + 1)
    assert now_of(schedule) == schedule and sent() == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"every": None}, BadSchedule),
        ({"cron": "* * * * *"}, BadSchedule),
        ({"every": 0.5}, BadSchedule),
        ({"every": timedelta(0)}, BadSchedule),
        ({"every": None, "cron": "30 2 31 2 *"}, BadSchedule),
        ({"timezone": "Mars"}, BadSchedule),
        ({"count": 0}, BadSchedule),
        ({"name": ""}, BadSchedule),
        ({"name": "x" * 256}, BadSchedule),
        ({"name": "a\nb"}, BadSchedule),
        ({"start": datetime(2090, 1, 1)}, BadSchedule),  # noqa: DTZ001
        ({"start": datetime(9999, 12, 31, tzinfo=UTC)}, BadSchedule),
        ({"priority": 10}, BadMessage),
        ({"ttl": 0}, BadMessage),
        ({"ttl": float("nan")}, BadMessage),
        ({"group": ""}, BadMessage),
        ({"group": "g\0"}, BadMessage),
        ({"headers": {"destination": "/queue/x"}}, BadMessage),
        ({"queue": "/reply-queue/x"}, BadDestination),
        ({"queue": ""}, BadDestination),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(options, error):
    with pytest.raises(error):
        add(**options)
    assert schedules.schedules() == []


def test_an_unknown_namespace_is_refused():
    with pytest.raises(NotFound):
        schedules.schedule("nobody.test", "q", "x", every=60)
