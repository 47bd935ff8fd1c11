"""Rates, sparklines and charts: the figures of known traffic, at a cost that does not grow with what is kept."""

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.http import urlencode

from apps.accounts.models import Namespace
from apps.broker import outbox, statistics
from apps.broker.postgres.statistics import _WRITE, Counts, StatisticsWriter
from apps.console import charts
from apps.jobs import control, tally
from apps.jobs.models import Job
from apps.jobs.records import Batch, Finish, Json, Run, Start
from tests import sample_tasks
from tests.recording import Worker

pytestmark = pytest.mark.django_db(transaction=True)

LATEST = statistics.LATEST


@pytest.fixture
def home(transactional_db: None) -> str:
    """A namespace, in a database whose queues and figures are those of the test alone."""
    return Namespace.objects.create(name=f"rates.t{uuid.uuid4().hex}").name


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    return client


def execute(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def traffic(home: str, name: str, sent: int, delivered: int, acked: int, spans: int = 60) -> None:
    """So many in each span of ten seconds up to now, written by two processes, a third and two thirds of it. Also in
    the span that is not over, so that it does not matter if one ends meanwhile."""
    outbox.send(home, f"/queue/{name}", "x")
    execute("DELETE FROM msgweb.tally")
    for share in (1, 2):
        execute(
            "INSERT INTO msgweb.statistic (resolution, at, destination, sent, delivered, acked)"
            f" SELECT 10, {LATEST} - n * interval '10 seconds', d.id, %s, %s, %s"
            " FROM generate_series(-2, %s) AS n, msgweb.destination d WHERE d.namespace = %s AND d.name = %s",
            [*(count * share // 3 for count in (sent, delivered, acked)), spans, home, name],
        )


def url(home: str, name: str, **more: str) -> str:
    return f"/queue/?{urlencode({'namespace': home, 'name': name, **more})}"


def html(client: Client, path: str, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def row_of(client: Client, home: str, name: str) -> str:
    """A queue's row on the page of queues."""
    found = re.search(
        rf'<tr>\s*<td class="name"><a [^>]*namespace={home}&amp;name={name}".*?</tr>',
        html(client, "/queues/"),
        re.DOTALL,
    )
    assert found
    return found[0]


# -- the figures of queues


def test_rates_are_those_of_the_last_ten_seconds_of_all_processes(home: str) -> None:
    traffic(home, "orders", 120, 90, 30)
    key = (home, "queue", "orders")
    assert statistics.rates(home)[key] == statistics.Rates(12, 9, 3)
    found = statistics.recent(home)[key]
    assert (found.sent, found.delivered, found.acked) == ([120] * 60, [90] * 60, [30] * 60)
    assert statistics.recent(home, "orders") == statistics.recent(home)
    assert statistics.recent(home, "other") == {}


def test_what_happened_stands_in_its_own_span(home: str) -> None:
    outbox.send(home, "/queue/orders", "x")
    (at, now) = execute(f"UPDATE msgweb.tally SET at = {LATEST} - interval '123 seconds' RETURNING at, {LATEST}")[0]
    [(later,)] = execute(f"SELECT {LATEST}")  # a span may have ended meanwhile
    back = {(moment - at) // timedelta(seconds=10) for moment in (now, later)}
    sent = statistics.recent(home)[home, "queue", "orders"].sent
    assert sum(sent) == 1
    assert 59 - sent.index(1) in {one + 1 for one in back} | back


def test_a_process_writes_when_ten_seconds_are_over_and_for_these(conninfo: str) -> None:
    """Whenever a process looks, second by second: no span is left out, and none gets two."""
    counts = Counts()
    written: list[datetime] = []

    class Clock:
        """A connection on which it is `self.now` by the database's clock."""

        now = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)

        async def execute(self, sql: str, parameters: Any = None) -> "Clock":
            self.sql = sql
            if sql == _WRITE:
                moment = f"'{self.now.isoformat()}'::timestamptz"
                with psycopg.connect(conninfo, autocommit=True) as real:
                    binned = re.search(r"date_bin\(.*?'2000-01-01'\)", sql)
                    assert binned
                    row = real.execute(f"SELECT {binned[0].replace('clock_timestamp()', moment)}").fetchone()  # type: ignore[call-overload]
                written.append(row[0])
            return self

        async def fetchone(self) -> tuple[float] | None:
            moment = f"'{self.now.isoformat()}'::timestamptz"
            with psycopg.connect(conninfo, autocommit=True) as real:
                return real.execute(self.sql.replace("clock_timestamp()", moment)).fetchone()  # type: ignore[arg-type]

    async def days() -> None:
        clock = Clock()
        writer = StatisticsWriter(lambda: [(1, counts)])
        for second in range(200):
            counts.sent += 5
            # A look comes up to 0.2 s early or late, as the keeper's do.
            clock.now = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC) + timedelta(
                seconds=second + (second * 7 % 5 - 2) / 10
            )
            await writer.write(clock, 1000 + (clock.now - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds())  # type: ignore[arg-type]

    asyncio.run(days())
    assert len(written) >= 20
    assert {later - earlier for earlier, later in pairwise(written)} == {timedelta(seconds=10)}


def test_the_pages_show_rates_and_a_drawing_with_its_figures_in_words(home: str, admin: Client) -> None:
    traffic(home, "orders", 120, 90, 30)
    told = "Last 10 minutes: in 12 a second, at most 12; acked 3 a second, at most 3"
    row = row_of(admin, home, "orders")
    assert re.findall(r'class="num opt">(12|9|3)<', row) == ["12", "9", "3"]
    assert f"<title>{told}</title>" in row
    assert 'role="img"' in row
    overview = html(admin, "/", HX_Request="true")
    assert told in overview
    assert "<b>12<small>/s</small></b><span>messages in</span>" in overview
    page = html(admin, url(home, "orders"))
    for figure, words in (("12", "in"), ("9", "out"), ("3", "acked")):
        assert f"<b>{figure}<small>/s</small></b><span>messages {words}</span>" in page


def test_a_quick_queue_that_is_empty_at_each_look_does_not_read_0(home: str, admin: Client) -> None:
    traffic(home, "quick", 30_000, 30_000, 30_000)
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("DELETE FROM msgweb.message")
    row = row_of(admin, home, "quick")
    assert '<td class="num zero">0</td>' in row  # nothing is ready
    assert row.count(">3,000</td>") == 3


@pytest.mark.parametrize("reach", [*charts.REACHES, "nonsense"])
def test_the_page_of_a_queue_refreshes_in_place_and_keeps_what_it_shows(home: str, admin: Client, reach: str) -> None:
    traffic(home, "orders", 120, 90, 30, spans=358)
    page = html(admin, url(home, "orders", reach=reach))
    known = reach if reach in charts.REACHES else "hour"
    assert f'hx-get="{url(home, "orders", reach=known).replace("&", "&amp;")}"' in page
    assert f"Messages a second, last {known}: In " in page
    part = html(admin, url(home, "orders", reach=reach), HX_Request="true")
    assert "<html" not in part
    assert 'class="chart"' in part


def test_the_chart_of_an_hour_shows_each_half_minute_as_a_rate(home: str) -> None:
    traffic(home, "orders", 120, 90, 30, spans=365)
    [(latest,)] = execute(f"SELECT {LATEST}")
    execute("UPDATE msgweb.statistic SET ready = 7 WHERE at = %s", [latest - timedelta(minutes=10)])
    moved, kept = charts.queue_charts(home, "orders", "hour", latest + timedelta(seconds=10))
    assert [(line.now, line.highest) for line in moved.lines] == [("12", "12"), ("9", "9"), ("3", "3")]
    assert (moved.top, kept.top) == ("20", "10")
    assert kept.lines[0].highest == "7"
    assert len({point.partition(" ")[2] for point in moved.lines[0].path[1:].split("L")}) == 1  # steady: one height
    assert moved.ends == latest + timedelta(seconds=10)


def test_what_has_been_rolled_up_is_in_the_chart_of_a_day(home: str) -> None:
    traffic(home, "orders", 120, 90, 30, spans=358)
    [(latest,)] = execute(f"SELECT {LATEST}")
    before = charts.queue_charts(home, "orders", "day", latest)[0]
    execute("SELECT msgweb.roll_up_statistics(clock_timestamp() + interval '30 minutes')")
    assert execute("SELECT DISTINCT resolution FROM msgweb.statistic ORDER BY 1") == [(10,), (60,)]
    after = charts.queue_charts(home, "orders", "day", latest)[0]
    assert [line.highest for line in after.lines] == [line.highest for line in before.lines]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (0.001, "<0.01"),
        (0.02, "0.02"),
        (0.1, "0.1"),
        (3.44, "3.4"),
        (16.0, "16"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_figures_have_as_many_digits_as_tell_something(value: float, said: str) -> None:
    assert charts.figure(value) == said


@pytest.mark.parametrize(("highest", "top"), [(0, 1), (0.3, 0.5), (1, 1), (12, 20), (20, 20), (51, 100), (700, 1000)])
def test_a_scale_ends_at_a_round_number(highest: float, top: float) -> None:
    assert charts.scale(highest) == pytest.approx(top)


# -- the figures of jobs


def noted(namespace: str) -> tuple[int, int, int, int]:
    """Succeeded, failed, cancelled and expired on record."""
    [row] = execute(
        "SELECT coalesce(sum(succeeded), 0)::int, coalesce(sum(failed), 0)::int, coalesce(sum(cancelled), 0)::int,"
        " coalesce(sum(expired), 0)::int FROM msgweb.jobs_ended WHERE namespace = %s",
        [namespace],
    )
    return row  # type: ignore[return-value]


def test_every_end_of_a_job_is_noted_once_however_it_comes(home: str, conninfo: str) -> None:
    worker = Worker(conninfo, 101)
    jobs = [sample_tasks.add.enqueue(namespace=home, a=n) for n in range(8)]
    runs = [worker.run(job) for job in jobs[:5]]
    worker.write(
        Batch(
            finishes=[
                Finish(runs[0], "succeeded", result=Json("1")),
                Finish(runs[1], "succeeded", result=Json("1")),
                Finish(runs[2], "failed", error={"code": "x", "message": "y"}, again=False),
                Finish(runs[3], "interrupted"),  # ready again: no end
                Finish(runs[4], "cancelled"),
            ]
        )
    )
    assert noted(home) == (2, 1, 1, 0)
    assert worker.finish(runs[0], "succeeded", result=Json("1")) is None  # the same again is refused
    control.cancel(jobs[5].id, "the test")
    assert noted(home) == (2, 1, 2, 0)
    Job.objects.filter(id=jobs[6].id).update(expires_at=datetime(2000, 1, 1, tzinfo=UTC))
    execute("SELECT msgweb.upkeep_jobs()")
    assert noted(home) == (2, 1, 2, 1)


def test_jobs_that_are_recorded_whole_are_noted_by_one_row_a_batch(home: str, conninfo: str) -> None:
    [(session,)] = execute(
        "INSERT INTO msgweb.session (kind, host, pid, process, details, expires_at)"
        " VALUES ('worker', 'a-host', 42, 'x', '{}', clock_timestamp() + interval '1 hour') RETURNING id"
    )
    worker = Worker(conninfo, session)
    jobs = [sample_tasks.add.enqueue(namespace=home, a=n) for n in range(20)]
    starts = {Run(job.id, 1, session): Start(job.id, 1, session) for job in jobs}
    with psycopg.connect(conninfo) as alive:
        alive.execute("SELECT pg_advisory_lock(1297568599, %s)", [session])
        written = worker.write(
            Batch(finishes=[Finish(run, "succeeded", result=Json("1")) for run in starts], deferred=starts)
        )
    assert len(written.completed) == 20
    noted_rows = execute("SELECT task, succeeded, failed FROM msgweb.jobs_ended WHERE namespace = %s", [home])
    assert noted_rows == [("samples.add", 20, 0)]


def ends(namespace: str, back: str, succeeded: int, failed: int, task: str = "samples.add") -> None:
    execute(
        "INSERT INTO msgweb.jobs_ended (at, namespace, task, succeeded, failed)"
        f" SELECT {LATEST} - interval '10 seconds' * n, %s, %s, %s, %s FROM {back} AS n",
        [namespace, task, succeeded, failed],
    )


def test_jobs_a_minute_are_those_of_the_last_whole_minute(home: str, admin: Client) -> None:
    ends(home, "generate_series(-2, 400)", 50, 1)
    ends("another.place", "generate_series(-2, 400)", 7, 0)
    found = tally.ended(home)
    assert (found.finished_a_minute, found.failed_a_minute) == (6 * 51, 6)
    assert (found.finished, found.failed) == ([51] * 60, [1] * 60)
    succeeded, failed = tally.ended_in_hour(home)
    assert failed in range(360, 364)
    assert succeeded == 50 * failed
    assert tally.ended().finished_a_minute == 6 * 58
    for path, figure in (("/", "348"), ("/jobs/", "348"), (f"/jobs/?namespace={home}", "306")):
        page = html(admin, path, HX_Request="true")
        assert f"<b>{figure}<small>/min</small></b><span>jobs finished</span>" in page
        assert "<b>6<small>/min</small></b><span>jobs failed</span>" in page
        assert f"<title>Last 10 minutes: jobs finished {figure} a minute, at most {figure}</title>" in page


def test_jobs_a_minute_of_a_task_are_its_own(home: str, admin: Client) -> None:
    ends(home, "generate_series(-2, 400)", 50, 1)
    ends(home, "generate_series(-2, 400)", 3, 2, task="samples.fail")
    ends("another.place", "generate_series(-2, 400)", 7, 0)
    assert tally.ended(home, "samples.fail").finished_a_minute == 30
    execute("SELECT msgweb.roll_up_jobs_ended()")
    for query, finished, failed in (
        ({"task": "samples.add"}, 348, 6),
        ({"task": "samples.add", "namespace": home}, 306, 6),
        ({"task": "samples.fail"}, 30, 12),
        ({"task": "samples.none"}, 0, 0),
        ({"namespace": home}, 336, 18),
    ):
        page = html(admin, f"/jobs/?{urlencode(query)}", HX_Request="true")
        assert f"<b>{finished}<small>/min</small></b><span>jobs finished</span>" in page
        assert f"<b>{failed}<small>/min</small></b><span>jobs failed</span>" in page


def test_the_end_of_a_job_is_noted_for_its_task(home: str, conninfo: str) -> None:
    worker = Worker(conninfo, 101)
    jobs = [sample_tasks.add.enqueue(namespace=home, a=n) for n in range(3)] + [
        sample_tasks.tell.enqueue(namespace=home)
    ]
    runs = [worker.run(job) for job in jobs[1:]]
    worker.write(Batch(finishes=[Finish(run, "succeeded", result=Json("1")) for run in runs]))
    control.cancel(jobs[0].id, "the test")
    rows = "SELECT task, sum(succeeded)::int, sum(cancelled)::int FROM msgweb.jobs_ended WHERE namespace = %s"
    assert execute(f"{rows} GROUP BY 1 ORDER BY 1", [home]) == [("samples.add", 2, 1), ("samples.tell", 1, 0)]


def test_rolling_up_the_tally_changes_no_figure(home: str) -> None:
    ends(home, "generate_series(0, 20000, 7)", 3, 1)
    before, sums = tally.ended(home), noted(home)
    for _ in range(2):
        execute("SELECT msgweb.roll_up_jobs_ended()")
    after = tally.ended(home)
    assert noted(home) == sums
    assert sum(after.finished) in range(sum(before.finished) - 4, sum(before.finished) + 5)
    left = execute(
        "SELECT resolution, count(*), max(clock_timestamp() - at) FROM msgweb.jobs_ended GROUP BY 1 ORDER BY 1"
    )
    oldest = {0: timedelta(seconds=20), 10: timedelta(minutes=62), 60: timedelta(hours=26), 3600: timedelta(days=366)}
    assert {row[0] for row in left} >= {10, 60, 3600}
    for resolution, _, age in left:
        assert age < oldest[resolution]


def test_two_do_not_roll_up_at_once_and_what_is_older_than_a_year_goes(home: str, conninfo: str) -> None:
    execute(
        "INSERT INTO msgweb.jobs_ended (resolution, at, namespace, succeeded) VALUES"
        " (3600, clock_timestamp() - interval '366 days', %s, 1), (0, clock_timestamp() - interval '1 minute', %s, 1)",
        [home, home],
    )
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT pg_advisory_xact_lock(1297568602, 3)")
        execute("SELECT msgweb.roll_up_jobs_ended()")
        assert execute("SELECT resolution FROM msgweb.jobs_ended ORDER BY 1") == [(0,), (3600,)]
    execute("SELECT msgweb.roll_up_jobs_ended()")
    assert execute("SELECT resolution FROM msgweb.jobs_ended") == [(10,)]


LEFT = "SELECT (SELECT count(*) FROM msgweb.tally), (SELECT count(*) FROM msgweb.jobs_ended WHERE resolution = 0)"


def left_behind(home: str) -> None:
    """What was noted in five minutes in which no worker and no gateway was there: a message and a job a second. Also in
    the spans that are not over, so that it does not matter if one ends meanwhile."""
    outbox.send(home, "/queue/orders", "x")
    execute("DELETE FROM msgweb.tally")
    moments = f"SELECT {LATEST} + (29 - n) * interval '1 second' AS at FROM generate_series(0, 299) AS n"
    execute(
        f"INSERT INTO msgweb.tally (at, destination, sent) SELECT m.at, d.id, 1 FROM ({moments}) m"
        " CROSS JOIN msgweb.destination d WHERE d.namespace = %s",
        [home],
    )
    execute(f"INSERT INTO msgweb.jobs_ended (at, namespace, cancelled) SELECT at, %s, 1 FROM ({moments}) m", [home])


def test_where_nobody_folds_who_reads_does_and_sees_the_same(home: str, admin: Client) -> None:
    left_behind(home)
    assert execute(LEFT) == [(300, 300)]
    for _ in range(2):
        page = html(admin, "/", HX_Request="true")
        assert "in 1 a second, at most 1" in page
        assert "jobs finished 60 a minute, at most 60" in page
        [(messages, jobs)] = execute(LEFT)
        assert messages == 0
        assert jobs < 30  # of the span that is not over
    assert noted(home) == (0, 0, 300, 0)


def test_who_may_not_write_sees_the_same(home: str) -> None:
    left_behind(home)
    with transaction.atomic():
        execute("SET TRANSACTION READ ONLY")
        assert statistics.recent(home)[home, "queue", "orders"].sent[-20:] == [10] * 20
        assert tally.ended(home).finished[-20:] == [10] * 20
    assert execute(LEFT) == [(300, 300)]


# -- what the pages cost


@contextmanager
def plans() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The statements that are run, each with its plan as it was executed."""
    found: list[tuple[str, dict[str, Any]]] = []

    def explain(run: Any, sql: str, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        if sql.lstrip().startswith(("SELECT", "WITH")):
            raw: CursorWrapper = context["cursor"].cursor
            raw.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            plan = raw.fetchone()[0]  # type: ignore[index]
            found.append((sql, (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))
        return run(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        yield found


def most_read(plan: dict[str, Any]) -> float:
    """The most rows that a single node of the plan read."""
    read = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return max([read * plan["Actual Loops"], *(most_read(child) for child in plan.get("Plans", []))])


PAGES = ["/", "/queues/", "/jobs/", "/jobs/?state=failed", "/workers/", "/topics/", "/schedules/"]


def test_pages_ask_as_many_questions_with_many_queues_as_with_one(home: str, admin: Client) -> None:
    paths = [*PAGES, url(home, "q0"), url(home, "q0", reach="year")]

    def questions() -> list[int]:
        asked = []
        for path in paths:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                html(admin, path)
            asked.append(len(captured))
        return asked

    traffic(home, "q0", 30, 30, 30)
    one = questions()
    for number in range(1, 30):
        traffic(home, f"q{number}", 30, 30, 30, spans=3)
    assert questions() == one
    assert max(one) <= 25


KEPT = """
    INSERT INTO jobs_job (id, namespace, task, queue, arguments, priority, state, attempt, failures, max_attempts,
        delivery, reply_to, correlation_id, wants_progress, requested_by, created_at, finished_at)
    SELECT gen_random_uuid(), 'samples.' || n % 3, CASE WHEN n % 5000 = 0 THEN 'samples.rare' ELSE 'samples.add' END,
        'q', '{}', 4, CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 51 = 0 THEN 'cancelled' WHEN n % 52 = 0 THEN 'expired'
        ELSE 'succeeded' END, 1, 0, 1, 1, '', '', false, '', now() - n * interval '1 s', now()
    FROM generate_series(1, 40000) AS n
"""
ATTEMPTS = """
    INSERT INTO jobs_attempt (job_id, number, host, started_at, ended_at, outcome)
    SELECT id, 1, '', created_at, now(), CASE state WHEN 'failed' THEN 'interrupted' ELSE 'succeeded' END FROM jobs_job
"""


@pytest.mark.parametrize(
    "path",
    [
        *PAGES,
        "/jobs/?state=succeeded",
        "/jobs/?state=ready",
        "/jobs/?task=samples.rare",
        "/jobs/?namespace=samples.1",
        "/jobs/?namespace=samples.old",
        "/jobs/?namespace=samples.old&before=2100-01-01T00:00:00%2B00:00_" + str(uuid.UUID(int=0)),
        "/jobs/?namespace=samples.1&state=succeeded",
        "/jobs/?namespace=samples.1&task=samples.rare",
        "/jobs/?before=2026-01-01T00:00:00%2B00:00_" + str(uuid.UUID(int=0)),
    ],
)
def test_no_page_reads_all_jobs_all_messages_or_all_statistics(home: str, admin: Client, path: str) -> None:
    for number in range(3):
        Namespace.objects.create(name=f"samples.{number}")
    outbox.send(home, "/queue/orders", "x")
    execute(KEPT)
    execute(ATTEMPTS)
    execute("UPDATE jobs_job SET namespace = 'samples.old' WHERE created_at < now() - interval '38000 seconds'")
    execute(
        "INSERT INTO msgweb.message (destination, persistent, headers, body)"
        " SELECT id, true, '', '' FROM msgweb.destination, generate_series(1, 30000) WHERE namespace = %s",
        [home],
    )
    rows = (
        "SELECT CASE WHEN n < 360 THEN 10 WHEN n < 10000 THEN 60 ELSE 3600 END,"
        f" {LATEST} - n * interval '10 seconds', d."
        "{} FROM generate_series(0, 40000) n, generate_series(1, CASE WHEN n < 360 THEN {} ELSE 1 END),"
        " msgweb.destination d WHERE namespace = %s"
    )
    columns = "(resolution, at, {})"
    processes = 10  # each has written rows of its own
    execute(f"INSERT INTO msgweb.statistic {columns.format('destination')} {rows.format('id', processes)}", [home])
    execute(f"INSERT INTO msgweb.jobs_ended {columns.format('namespace')} {rows.format('namespace', 1)}", [home])
    execute("ANALYZE jobs_job, jobs_attempt, msgweb.message_persistent, msgweb.statistic, msgweb.jobs_ended")
    with plans() as found:
        html(admin, path)
    execute("DELETE FROM jobs_attempt")
    execute("DELETE FROM jobs_job")
    assert found
    for sql, plan in found:
        # Counts stop at 10,000; everything else is a page, or what is recent.
        counts = "LIMIT 10000" in sql or "LIMIT %(limit)s" in sql
        assert most_read(plan) <= (11_000 if counts else 1_500), sql
