"""Schedules on a real Postgres: each run once, whoever sends it and whoever dies. Times are moved, not awaited."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from django.db import IntegrityError, transaction

from apps.broker import schedules
from apps.broker.headers import decode_headers
from apps.broker.postgres import topics
from apps.broker.postgres.pipeline import PLANNING
from apps.broker.postgres.scheduler import _LOOK, _TAKE, MOST, ROUNDS, run_due
from apps.broker.schedules import BadSchedule
from tests.schedule_runs import (
    HOUR,
    NAMESPACE,
    add,
    add_by_sql,
    clean_namespace,
    due,
    in_thread,
    keeper,
    move,
    now_of,
    run,
    sent,
    sql,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def clean(conninfo: str) -> Iterator[None]:
    with clean_namespace(conninfo):
        yield


# --- One run


def test_a_due_run_sends_one_message_that_says_whose_it_is(conninfo):
    schedule = add(
        name="nightly: report",
        headers={"kind": "tick", "schedule-id": "mine"},
        content_type="text/plain",
        priority=7,
        persistent=False,
        ttl=30,
        group="g",
    )
    at = move(schedule, -HOUR)
    assert due(conninfo) is not None
    [(headers, body)] = sent()
    assert body == b"tick"
    assert headers == {
        "schedule-id": str(schedule.id),
        "schedule-name": "nightly: report",
        "scheduled-for": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": "tick",
        "content-type": "text/plain",
    }
    [row] = sql(
        "SELECT priority, persistent, group_key, session, round(extract(epoch FROM expires_at - enqueued_at))"
        " FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination WHERE d.namespace = %s",
        NAMESPACE,
    )
    assert row == (7, False, "g", None, 30)


def test_a_schedule_without_a_name_says_none_and_a_message_stays_as_it_was_made(conninfo):
    add(body="ü\0")
    due(conninfo)
    [(headers, body)] = sent()
    assert "schedule-name" not in headers and body == "ü\0".encode()


def test_runs_of_a_period_stand_on_their_first_however_late_they_are_sent(conninfo):
    schedule = add(every=3600)
    first = move(schedule, timedelta(minutes=-47))
    due(conninfo)
    assert now_of(schedule).next_at == first + HOUR


def test_nothing_is_sent_before_its_time(conninfo):
    schedule = add(every=60)
    move(schedule, HOUR)
    assert 3500 < due(conninfo) <= 3600
    assert sent() == []


def test_without_a_schedule_there_is_nothing_to_wait_for(conninfo):
    assert due(conninfo) is None


@pytest.mark.parametrize(("cron", "period"), [(None, timedelta(minutes=1)), ("{} * * * *", HOUR)])
def test_after_an_outage_one_run_makes_up_for_all_that_were_missed(conninfo, cron, period):
    later = (datetime.now(UTC) + timedelta(minutes=30)).minute  # whose time does not come in the midst of this
    schedule = add(every=None, cron=cron.format(later)) if cron else add(every=period)
    missed = move(schedule, -100 * HOUR)
    due(conninfo)
    due(conninfo)
    [(headers, _)] = sent()
    assert headers["scheduled-for"].startswith(missed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M"))
    [(ahead,)] = sql("SELECT next_at - clock_timestamp() FROM msgweb.schedule")
    assert timedelta(0) < ahead <= period


def test_a_cron_schedule_goes_from_time_to_time_in_its_zone(conninfo):
    schedule = add(every=None, cron="30  9 * * *", timezone="Asia/Kathmandu")
    assert schedule.cron == "30 9 * * *" and schedule.next_at.astimezone(UTC).strftime("%H:%M:%S") == "03:45:00"
    move(schedule, timedelta(days=-1))
    due(conninfo)
    assert now_of(schedule).next_at == schedule.next_at and len(sent()) == 1


def test_a_schedule_with_a_count_ends_after_so_many_messages(conninfo):
    schedule = add(count=3)
    for left in (2, 1, None):
        due(conninfo)
        state = now_of(schedule)
        assert (state and state.remaining) == left
        if state:
            assert state.last_outcome == "sent" and state.last_at is not None
            move(schedule, -HOUR)
    assert due(conninfo) is None and len(sent()) == 3


def test_a_cron_schedule_that_has_no_further_time_ends_with_its_last_run(conninfo):
    schedule = add(every=None, cron="0 0 1 * *")
    sql("UPDATE msgweb.schedule SET cron = '0 0 */16 * MON#5', next_at = now()")
    assert due(conninfo) is None
    assert now_of(schedule) is None and len(sent()) == 1


def test_a_run_wakes_the_consumers_and_a_new_schedule_the_keepers(conninfo):
    async def scenario(connection: psycopg.AsyncConnection[Any]) -> tuple[str, int, str]:
        await connection.execute("LISTEN msgweb_session")
        await connection.execute("LISTEN msgweb_ready")
        heard = connection.notifies()
        await in_thread(add)
        first = await anext(heard)
        await heard.aclose()
        async with keeper(conninfo) as other:
            await run_due(other)
        heard = connection.notifies()
        second = await anext(heard)
        await heard.aclose()
        return first.payload, int(second.payload.partition(":")[0]), second.channel

    [(called, queue, channel)] = run(conninfo, scenario)
    [(destination,)] = sql("SELECT id FROM msgweb.destination WHERE namespace = %s", NAMESPACE)
    assert (called, queue, channel) == ("due", destination, "msgweb_ready")


def test_a_schedule_may_send_to_a_topic(conninfo):
    async def scenario(connection: psycopg.AsyncConnection[Any]) -> str:
        await connection.execute("LISTEN msgweb_topic")
        async with keeper(conninfo) as other:
            await run_due(other)
        heard = connection.notifies()
        notification = await anext(heard)
        await heard.aclose()
        return notification.payload

    schedule = add("/topic/ticks", name="t")
    assert schedule.destination == "/topic/ticks"
    [payload] = run(conninfo, scenario)
    _, content = topics.parse_payload(payload)
    assert isinstance(content, bytes)
    [message] = topics.unpack(content)
    assert (message.address.namespace, message.address.name, message.body) == (NAMESPACE, "ticks", b"tick")
    assert decode_headers(message.headers)["schedule-name"] == "t"
    assert sent("ticks") == []


def test_a_queue_that_goes_takes_its_schedules_along(conninfo):
    schedule = add()
    sql("DELETE FROM msgweb.destination WHERE namespace = %s", NAMESPACE)
    assert now_of(schedule) is None and due(conninfo) is None


# --- Once, whoever sends it


def test_who_looks_while_another_sends_passes_over_and_sends_when_that_one_failed(conninfo):
    add()

    async def scenario(first: psycopg.AsyncConnection[Any]) -> list[float | None]:
        async with keeper(conninfo) as second:
            async with first.transaction() as sending:
                await run_due(first)
                meanwhile = await run_due(second)
                assert await in_thread(sent) == []
                raise psycopg.Rollback(sending)
            return [meanwhile, await run_due(second), await run_due(first)]

    [(meanwhile, then, after)] = run(conninfo, scenario)
    assert meanwhile is None  # all it knows is that run, which another has in hand
    assert then > 0 and after > 0
    assert len(sent()) == 1


def test_who_looks_after_another_has_sent_sends_nothing(conninfo):
    add()

    async def scenario(first: psycopg.AsyncConnection[Any]) -> None:
        async with keeper(conninfo) as second:
            async with first.transaction():
                await run_due(first)
                await run_due(second)
            await run_due(second)

    run(conninfo, scenario)
    assert len(sent()) == 1


def test_processes_that_race_send_each_run_once(conninfo):
    number, rounds = 60, 5
    made = [add(f"q{place % 7}", str(place), every=3600) for place in range(number)]

    async def racer(connection: psycopg.AsyncConnection[Any]) -> None:
        for _ in range(20):
            await run_due(connection)

    for _ in range(rounds):
        run(conninfo, racer, racer, racer, racer)
        sql("UPDATE msgweb.schedule SET next_at = next_at - interval '61 minutes'")
    bodies = sorted(int(body) for queue in range(7) for _, body in sent(f"q{queue}"))
    assert bodies == sorted(list(range(number)) * rounds)
    times = [(h["schedule-id"], h["scheduled-for"]) for queue in range(7) for h, _ in sent(f"q{queue}")]
    assert len(set(times)) == len(times) == len(made) * rounds


KILLED = """
import asyncio, os, signal, sys
from apps.broker.postgres.pipeline import connect
from apps.broker.postgres.scheduler import run_due

async def main():
    connection = await connect(sys.argv[1], "msgweb test killed")
    async with connection.transaction():
        await run_due(connection)
        cursor = await connection.execute("SELECT count(*) FROM msgweb.message WHERE body = 'tick'")
        print((await cursor.fetchone())[0], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_process_killed_between_sending_and_commit_has_sent_nothing_and_another_sends(conninfo):
    schedule = add()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, conninfo],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "msgweb.settings"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout.strip() == "1"  # it had sent, in a transaction that never ended
    sql("SELECT FROM msgweb.schedule WHERE id = %s FOR UPDATE", schedule.id)  # waits until Postgres has noticed
    assert sent() == [] and now_of(schedule).next_at == schedule.next_at
    due(conninfo)
    due(conninfo)
    assert len(sent()) == 1


def test_what_an_application_changes_in_an_open_transaction_is_left_alone_meanwhile(conninfo):
    schedule = add(name="x")
    other = add(name="y")
    with transaction.atomic():
        schedules.pause(NAMESPACE, schedule.id)
        due(conninfo)
    due(conninfo)
    assert [headers["schedule-id"] for headers, _ in sent()] == [str(other.id)]


def test_a_call_is_bounded_and_says_that_there_is_more(conninfo):
    number = MOST * ROUNDS + 10
    for place in range(number):
        add(body=str(place))
    assert due(conninfo) == 0.0
    assert len(sent()) == MOST * ROUNDS
    assert due(conninfo) > 0
    assert len(sent()) == number


# --- What goes wrong


def test_a_full_queue_skips_runs_and_is_logged_once_until_it_takes_one_again(conninfo, caplog):
    schedule = add(every=60, count=9)
    sql("UPDATE msgweb.destination SET max_length = 1 WHERE namespace = %s", NAMESPACE)
    assert due(conninfo) > 0
    for _ in range(3):
        first = move(schedule, -HOUR)
        assert due(conninfo) > 0
        state = now_of(schedule)
        assert state.last_outcome == "full" and state.next_at > first
    assert len(sent()) == 1 and state.remaining == 8
    logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == 1 and "full" in logged[0].message and str(schedule.id) in logged[0].message
    sql(
        "DELETE FROM msgweb.message m USING msgweb.destination d WHERE d.id = m.destination AND d.namespace = %s",
        NAMESPACE,
    )
    for _ in range(2):
        move(schedule, -HOUR)
        due(conninfo)
    assert len(sent()) == 1
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_an_application_that_occupies_a_limited_queue_delays_its_runs_but_no_others(conninfo):
    """Its open transaction holds the queue's allowance: the keeper must neither wait for it nor send twice."""
    for place in range(MOST + 5):
        add("limited", str(place))
    add("free")
    sql("UPDATE msgweb.schedule SET next_at = next_at - interval '1 hour' WHERE body <> 'tick'")
    sql("UPDATE msgweb.destination SET max_length = 1000 WHERE namespace = %s AND name = 'limited'", NAMESPACE)
    with psycopg.connect(conninfo) as application:
        application.execute("SELECT msgweb.send(%s, 'limited', 'mine'::text)", [NAMESPACE])
        due(conninfo)
        due(conninfo)
        assert sent("limited") == [] and len(sent("free")) == 1
        application.commit()
    due(conninfo)
    due(conninfo)
    assert len(sent("limited")) == MOST + 5 + 1


def test_a_schedule_that_cannot_be_understood_is_paused_and_holds_up_no_other(conninfo, caplog):
    bad, good = add(name="bad", every=None, cron="0 9 * * *"), add("other")
    sql("UPDATE msgweb.schedule SET cron = 'often', next_at = next_at - interval '9 days' WHERE id = %s", bad.id)
    due(conninfo)
    due(conninfo)
    assert len(sent("other")) == 1 and sent() == []
    state = now_of(bad)
    assert state.paused and state.last_outcome == "bad_schedule"
    assert [str(bad.id) in record.message for record in caplog.records if record.levelno == logging.ERROR] == [True]
    with pytest.raises(BadSchedule):
        schedules.resume(NAMESPACE, bad.id)
    assert not add(name="bad", every=None, cron="0 10 * * *").paused
    assert now_of(good).last_outcome == "sent"


def test_a_run_that_fails_is_skipped_and_logged_and_holds_up_no_other(conninfo, caplog):
    asked = datetime.now(UTC)
    bad = add(body="poison")
    add("other")
    sql(
        "CREATE FUNCTION msgweb.spit() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN IF NEW.body = 'poison' THEN RAISE EXCEPTION 'it tastes odd'; END IF; RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER spit BEFORE INSERT ON msgweb.message_persistent FOR EACH ROW EXECUTE FUNCTION msgweb.spit()")
    try:
        due(conninfo)
        move(bad, -HOUR)
        due(conninfo)
    finally:
        sql("DROP FUNCTION msgweb.spit CASCADE")
    assert len(sent("other")) == 1 and sent() == []
    assert now_of(bad).last_outcome == "failed" and now_of(bad).next_at > asked
    [logged] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "it tastes odd" in logged.message
    move(bad, -HOUR)
    due(conninfo)
    assert len(sent()) == 1


def test_what_ails_the_server_loses_no_run(conninfo):
    schedule = add()

    async def scenario(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await run_due(connection)
        await connection.execute("SET default_transaction_read_only = off")
        await run_due(connection)

    run(conninfo, scenario)
    assert len(sent()) == 1 and now_of(schedule).last_outcome == "sent"


# --- What the engine's writer adds


def test_a_period_that_is_added_runs_first_after_its_delay_by_the_databases_clock(conninfo):
    began = time.monotonic()
    schedule = add_by_sql(period=1000.0, delay=3000.0, remaining=2)
    left = due(conninfo)
    assert 3000 - (time.monotonic() - began) - 0.01 < left <= 3000
    first = move(schedule, timedelta(seconds=-3001))
    due(conninfo)
    [(at,)] = sql("SELECT next_at FROM msgweb.schedule")
    assert at == first + timedelta(seconds=1000) and [headers["a"] for headers, _ in sent()] == ["1"]


def test_a_cron_expression_that_is_added_runs_at_its_first_time_after_the_delay(conninfo):
    hour = (datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(hours=12)).hour  # far away, whenever this runs
    cron = f"0 {hour} * * *"
    schedule = add_by_sql(cron=cron, timezone="Europe/Berlin", delay=3600.0)
    asked = move(schedule, timedelta(0))
    assert due(conninfo) > 3590 - 1  # it is looked up when the delay is over
    move(schedule, timedelta(hours=-2))
    due(conninfo)
    assert sent() == []
    state = next(iter(schedules.schedules()))
    repeat = schedules.Repeat(cron=cron, timezone="Europe/Berlin")
    assert state.next_at == schedules.first_run(repeat, 0, asked - timedelta(hours=2))
    move(schedule, timedelta(days=-2))
    due(conninfo)
    assert len(sent()) == 1


def test_a_time_that_passes_between_adding_and_looking_is_not_missed(conninfo):
    schedule = add_by_sql(cron="* * * * *")
    move(schedule, timedelta(minutes=-10))
    due(conninfo)
    assert len(sent()) == 1


def test_adding_to_a_queue_that_has_gone_adds_nothing(conninfo):
    assert add_by_sql(period=5.0, destination=2**31 - 1) is None


@pytest.mark.parametrize(
    "values", [{}, {"cron": "* * * * *", "period": 5.0}, {"period": 5.0, "next_at": "infinity"}, {"period": "Infinity"}]
)
def test_the_table_takes_no_row_that_could_not_be_run(values):
    with pytest.raises(IntegrityError):
        add_by_sql(**values)


# --- Cost


@pytest.mark.parametrize(("statement", "types"), [(_LOOK, "timestamptz"), (_TAKE, "timestamptz, int4[], int8")])
def test_looking_for_what_is_due_reads_only_that_by_a_condition_of_the_index(conninfo, statement, types):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE msgweb.schedule")
        connection.execute(PLANNING)
        text = statement
        for place in range(1, types.count(",") + 2):
            text = text.replace("%s", f"${place}", 1)
        connection.execute(f"PREPARE looked ({types}) AS {text}")
        values = ", ".join({"timestamptz": "now()", "int4[]": "'{}'", "int8": "50"}[one] for one in types.split(", "))
        lines = [row[0].strip() for row in connection.execute(f"EXPLAIN (COSTS OFF) EXECUTE looked ({values})")]
    scans = [place for place, line in enumerate(lines) if "Scan" in line]
    assert [lines[place + 1] for place in scans if "schedule_next" in lines[place]], lines
    assert all(lines[place + 1].startswith("Index Cond: (next_at") for place in scans), lines
