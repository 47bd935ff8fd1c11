"""When schedules run, what cannot be scheduled, and what ActiveMQ's headers ask for."""

import contextlib
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apps.broker.engine import Options, Repeat
from apps.broker.repeats import CRON_LIMIT, BadSchedule, check, first_run, from_activemq, next_run

NOW = datetime(2026, 11, 24, 9, 30, 15, 250_000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
SOON = 2.0  # seconds that refusing (20 ms) may take on a loaded machine; an endless search would take for ever

moments = st.integers(0, 10**15).map(lambda late: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=late))
periods = st.floats(1, 1e7)


def runs(cron: str, timezone: str, after: datetime, until: datetime) -> list[str]:
    """The runs of an expression in a stretch of time, on the wall clock and with its distance from UTC."""
    times = []
    at = after
    while (following := next_run(Repeat(cron=cron, timezone=timezone), at, at)) is not None and following <= until:
        at = following
        times.append(at.astimezone(ZoneInfo(timezone)).strftime("%d %H:%M %z"))
    return times


# --- Periods


def test_a_period_runs_first_after_the_delay():
    assert first_run(Repeat(period=60), 0, NOW) == NOW
    assert first_run(Repeat(period=60), 2.5, NOW) == NOW + timedelta(seconds=2.5)


@given(moments, periods, st.lists(st.floats(0, 0.9), min_size=1, max_size=50))
def test_a_period_never_drifts_however_late_each_run_is_sent(start, period, lateness):
    repeat = Repeat(period=period)
    at = start
    for late in lateness:
        at = next_run(repeat, at, at + timedelta(seconds=period * late))
    assert at == start + len(lateness) * timedelta(seconds=period)


@given(moments, periods, st.floats(0, 1e9))
def test_after_a_long_outage_the_next_run_is_the_first_that_lies_ahead(previous, period, outage):
    now = previous + timedelta(seconds=outage)
    following = next_run(Repeat(period=period), previous, now)
    step = timedelta(seconds=period)
    assert now < following <= now + step
    assert (following - previous) % step == timedelta(0)


def test_a_run_that_was_sent_early_by_another_clock_is_not_sent_twice():
    assert next_run(Repeat(period=60), NOW, NOW - timedelta(seconds=5)) == NOW + timedelta(seconds=60)


# --- Cron expressions


@pytest.mark.parametrize(
    ("cron", "timezone", "expected"),
    [
        ("* * * * *", "UTC", "2026-11-24T09:31:00+00:00"),
        ("0 10 * * *", "UTC", "2026-11-24T10:00:00+00:00"),
        ("0 10 * * *", "Europe/Berlin", "2026-11-25T09:00:00+00:00"),
        ("0 9 * * MON-FRI", "America/New_York", "2026-11-24T14:00:00+00:00"),
        ("0 0 * * 7", "UTC", "2026-11-29T00:00:00+00:00"),
        ("0 0 29 2 *", "UTC", "2028-02-29T00:00:00+00:00"),
        ("0 0 L * *", "UTC", "2026-11-30T00:00:00+00:00"),
        ("*/20 8-10 * * *", "UTC", "2026-11-24T09:40:00+00:00"),
        ("  0\t10 * * * ", "UTC", "2026-11-24T10:00:00+00:00"),
    ],
)
def test_a_cron_expression_runs_first_at_its_next_time(cron, timezone, expected):
    assert first_run(Repeat(cron=cron, timezone=timezone), 0, NOW).isoformat() == expected


def test_a_cron_expression_runs_at_the_very_start_but_each_time_once():
    nine = datetime(2026, 11, 24, 9, tzinfo=UTC)
    repeat = Repeat(cron="0 9 * * *")
    assert first_run(repeat, 0, nine) == nine
    assert first_run(repeat, 60, nine - timedelta(seconds=60)) == nine
    assert next_run(repeat, nine, nine) == nine + timedelta(days=1)
    assert next_run(repeat, nine, nine + timedelta(milliseconds=3)) == nine + timedelta(days=1)


def test_a_cron_expression_skips_what_was_missed():
    repeat = Repeat(cron="0 9 * * *")
    assert next_run(repeat, NOW - timedelta(days=100), NOW) == datetime(2026, 11, 25, 9, tzinfo=UTC)


def test_a_delay_before_a_cron_expression_holds_its_runs_back():
    assert first_run(Repeat(cron="0 10 * * *"), 3600, NOW) == datetime(2026, 11, 25, 10, tzinfo=UTC)


# Berlin: on 29 March 2026 02:00 becomes 03:00; on 25 October 03:00 becomes 02:00, so that 02:30 comes twice.
SPRING = datetime(2026, 3, 28, 12, tzinfo=BERLIN).astimezone(UTC)
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=BERLIN).astimezone(UTC)
TWO_DAYS = timedelta(days=2)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # A time of day that does not exist: once, at the first moment that does.
        ("30 2 * * *", SPRING, ["29 03:00 +0200", "30 02:30 +0200"]),
        ("0,30 2 * * *", SPRING, ["29 03:00 +0200", "30 02:00 +0200", "30 02:30 +0200"]),
        ("0 3 * * *", SPRING, ["29 03:00 +0200", "30 03:00 +0200"]),
        # A time of day that comes twice: once, the first time.
        ("30 2 * * *", AUTUMN, ["25 02:30 +0200", "26 02:30 +0100"]),
        ("0 3 * * *", AUTUMN, ["25 03:00 +0100", "26 03:00 +0100"]),
    ],
)
def test_a_time_of_day_runs_once_a_day_where_clocks_change(cron, after, expected):
    assert runs(cron, "Europe/Berlin", after, after + TWO_DAYS) == expected


def test_a_repeated_hour_is_not_run_again_by_who_asks_within_it():
    second = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=BERLIN).astimezone(UTC)
    following = next_run(Repeat(cron="30 2 * * *", timezone="Europe/Berlin"), second, second)
    assert following.astimezone(BERLIN).strftime("%d %H:%M %z") == "26 02:30 +0100"


def test_an_interval_keeps_its_pace_where_clocks_change():
    def gaps(after: datetime) -> set[timedelta]:
        at, seen = after, set()
        for _ in range(200):
            following = next_run(Repeat(cron="*/15 * * * *", timezone="Europe/Berlin"), at, at)
            seen.add(following - at)
            at = following
        return seen

    assert gaps(SPRING) == gaps(AUTUMN) == {timedelta(minutes=15)}


cron_fields = st.lists(st.text("0123456789*/,-#LWMONTUE", min_size=1, max_size=12), min_size=5, max_size=5)


@given(cron_fields.map(" ".join), st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]))
def test_whatever_is_no_cron_expression_is_refused_as_such_and_soon(cron, timezone):
    begun = time.perf_counter()
    try:
        at = first_run(Repeat(cron=cron, timezone=timezone), 0, NOW)
    except BadSchedule:
        pass
    else:
        assert at > NOW
    assert time.perf_counter() - begun < SOON


@given(
    st.tuples(st.integers(0, 59), st.integers(0, 23), st.integers(1, 31), st.integers(1, 12), st.integers(0, 7)),
    st.lists(st.booleans(), min_size=5, max_size=5),
    moments,
)
def test_a_run_matches_its_expression(values, stars, now):
    fields = ["*" if star else str(value) for value, star in zip(values, stars, strict=True)]
    try:
        at = first_run(Repeat(cron=" ".join(fields)), 0, now)
    except BadSchedule:
        assume(False)
    assert at >= now and at.second == at.microsecond == 0
    wanted = [value if not star else None for value, star in zip(values, stars, strict=True)]
    assert wanted[0] in (None, at.minute) and wanted[1] in (None, at.hour) and wanted[3] in (None, at.month)
    of_month, of_week = wanted[2] in (None, at.day), wanted[4] in (None, at.isoweekday(), at.isoweekday() % 7)
    assert of_month or of_week if None not in (wanted[2], wanted[4]) else of_month and of_week


# --- What cannot be


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "cron",
    [
        "",
        "hello",
        "@daily",
        "* * * *",
        "* * * * * *",  # seconds are not for cron expressions here
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "1- * * * *",
        "-1 * * * *",
        "* * * * MON#6",
        "30 2 31 2 *",
        "0 0 30,31 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 */16 * MON#5",  # the 1st or 17th, and a fifth Monday: known only by searching
        "0 0 LW * */7",
        "\0 * * * *",
        "² * * * *",
        "1" * 5000 + " * * * *",
        "0-999999999999 * * * *",
        "*/99999999999999999999999 * * *",
        "* " * 100_000,
        ",".join(["*/1"] * 100_000) + " * * * *",
        "1/" * 100_000 + "1 * * * *",
        "1-" * 60 + "2 * * * *",
        "*" * 200 + " * * * *",
    ],
    ids=lambda cron: repr(cron[:24]),
)
def test_an_expression_that_is_none_or_never_fires_is_refused_soon(cron):
    begun = time.perf_counter()
    with pytest.raises(BadSchedule) as refused:
        check(Repeat(cron=cron))
    assert time.perf_counter() - begun < SOON
    assert refused.value.code == "bad_schedule" and refused.value.status == 400
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    "cron",
    [
        "0-999999999999 * * * *",
        "*/99999999999999999999999 * * *",
        ",".join(["*/1"] * 100_000) + " * * * *",
        ",".join(["*/1"] * 61) + " * * * *",
        "0 0 */16 * MON#5",
    ],
    ids=lambda cron: repr(cron[:24]),
)
def test_no_expression_takes_much_memory(cron):
    check(Repeat(cron="0 0 * * *"))  # what is loaded and kept once is not the expression's
    tracemalloc.start()
    try:
        with contextlib.suppress(BadSchedule):
            check(Repeat(cron=cron))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_expression_of_the_greatest_length_is_checked_soon():
    cron = ",".join(["*/1"] * 61) + " * * * *"
    assert CRON_LIMIT - 4 <= len(cron) <= CRON_LIMIT
    begun = time.perf_counter()
    check(Repeat(cron=cron))
    assert time.perf_counter() - begun < SOON


@pytest.mark.parametrize(
    ("repeat", "delay", "says"),
    [
        (Repeat(), 0, "either"),
        (Repeat(cron="* * * * *", period=60), 0, "either"),
        (Repeat(period=0.999), 0, "period"),
        (Repeat(period=0), 0, "period"),
        (Repeat(period=-5), 0, "period"),
        (Repeat(period=float("nan")), 0, "period"),
        (Repeat(period=float("inf")), 0, "period"),
        (Repeat(period=60, count=0), 0, "count"),
        (Repeat(period=60, count=-1), 0, "count"),
        (Repeat(period=60, count=2**31), 0, "count"),
        (Repeat(period=60), -1, "delay"),
        (Repeat(period=60), float("nan"), "delay"),
        (Repeat(period=60), 1e300, "delay"),
        (Repeat(cron="* * * * *"), float("inf"), "delay"),
        (Repeat(cron="* * * * *", timezone="Europe/Atlantis"), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone=""), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="Europe"), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="../../etc/passwd"), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="/etc/localtime"), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="right/Europe/Berlin"), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="x" * 100_000), 0, "time zone"),
        (Repeat(cron="* * * * *", timezone="\0"), 0, "time zone"),
        (Repeat(period=60, timezone="nowhere"), 0, "time zone"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_and_says_why(repeat, delay, says):
    with pytest.raises(BadSchedule) as refused:
        check(repeat, delay)
    assert says in refused.value.message and len(refused.value.message) < 500


def test_the_shortest_period_is_a_second():
    check(Repeat(period=1, count=1))


# --- ActiveMQ's headers


def amq(**values: object) -> dict[str, str]:
    return {f"AMQ_SCHEDULED_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        ({}, None),
        ({"priority": "4", "AMQ_SCHEDULED_ID": "x"}, None),
        (amq(DELAY=0, PERIOD=0, REPEAT=0, CRON=""), None),
        (amq(DELAY=60_000), Options(delay=60)),
        (amq(DELAY=1500), Options(delay=1.5)),
        (amq(PERIOD=10_000), Options(delay=10)),
        (amq(DELAY=30_000, PERIOD=10_000), Options(delay=30)),
        # ActiveMQ's own example: a delay of 30 s, then 10 messages at intervals of 10 s.
        (amq(DELAY=30_000, PERIOD=10_000, REPEAT=9), Options(delay=30, repeat=Repeat(period=10, count=10))),
        (amq(PERIOD=10_000, REPEAT=1), Options(delay=10, repeat=Repeat(period=10, count=2))),
        (amq(PERIOD=10_000, REPEAT=-1), Options(delay=10, repeat=Repeat(period=10))),
        (amq(CRON="0 * * * *"), Options(repeat=Repeat(cron="0 * * * *", timezone="Asia/Tokyo"))),
        (amq(CRON=" 0 * * * * ", DELAY=0, REPEAT=0), Options(repeat=Repeat(cron="0 * * * *", timezone="Asia/Tokyo"))),
    ],
)
def test_activemq_headers_ask_for_what_activemq_understands(headers, options):
    assert from_activemq(headers, "Asia/Tokyo") == options


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        (amq(DELAY=-1), "DELAY"),
        (amq(DELAY="soon"), "DELAY"),
        (amq(DELAY=""), "DELAY"),
        (amq(DELAY="1e3"), "DELAY"),
        (amq(DELAY="٣"), "DELAY"),
        (amq(DELAY="9" * 100_000), "DELAY"),
        (amq(DELAY="9" * 15), "delay"),
        (amq(PERIOD=-1), "PERIOD"),
        (amq(PERIOD=999, REPEAT=1), "period"),
        (amq(PERIOD=1000, REPEAT=-2), "REPEAT"),
        (amq(PERIOD=1000, REPEAT=2**31), "count"),
        (amq(REPEAT=3), "AMQ_SCHEDULED_PERIOD"),
        (amq(DELAY=1000, REPEAT=3), "AMQ_SCHEDULED_PERIOD"),
        (amq(CRON="0 * * * *", PERIOD=1000, REPEAT=9), "stands alone"),
        (amq(CRON="0 * * * *", DELAY=1000), "stands alone"),
        (amq(CRON="0 * * * *", REPEAT=-1), "stands alone"),
        (amq(CRON="0 0 * * * *"), "five"),
        (amq(CRON="30 2 31 2 *"), "never fires"),
    ],
)
def test_activemq_headers_that_cannot_be_are_refused_by_name(headers, says):
    with pytest.raises(BadSchedule) as refused:
        from_activemq(headers)
    assert says in refused.value.message and len(refused.value.message) < 500
