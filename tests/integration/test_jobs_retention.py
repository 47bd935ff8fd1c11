"""What has been kept long enough goes."""

import asyncio
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection

from apps.jobs import events, retention
from apps.jobs.asking import Ask
from apps.jobs.flows import batch
from apps.jobs.listing import newest
from apps.jobs.models import Attempt, Batch, Event, Job, Progress, Step
from apps.jobs.records import Batch as Writes
from apps.jobs.records import LogLine, Mark
from apps.jobs.retention import BadRetention, Retention, parse
from apps.jobs.selection import Selection
from tests import sample_tasks
from tests.recording import Worker

pytestmark = pytest.mark.django_db(transaction=True)


def done(namespace: str, worker: Worker, outcome: str = "succeeded", days: float = 0) -> Job:
    """A job that ended so many days ago, with all that is known of one."""
    job = sample_tasks.only_once.enqueue(namespace=namespace)
    run = worker.run(job)
    now = datetime.now(UTC)
    worker.write(Writes(notes=[LogLine(run, now, "info", "a line"), Mark(run, now, 1, 2, "half")]))
    Step.objects.create(job=job, name="one", attempt=1)
    worker.finish(run, outcome, again=False)
    moment = now - timedelta(days=days)
    Job.objects.filter(id=job.id).update(created_at=moment, finished_at=moment)
    Event.objects.filter(job=job).update(at=moment)
    return job


def prune(conninfo: str, **days: float | None) -> int:
    """All that is to go; how much that was."""

    async def main() -> int:
        keeper, removed = Retention({**dict.fromkeys(retention.DEFAULTS, None), **days}), 0
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            while count := await keeper.prune(connection):
                removed += count
        return removed

    return asyncio.run(main())


def test_jobs_go_by_their_age_and_state_with_all_that_is_known_of_them(
    namespace: str, worker: Worker, conninfo: str
) -> None:
    old, new = done(namespace, worker, days=8), done(namespace, worker, days=6)
    failed = done(namespace, worker, "failed", days=8)
    waiting = sample_tasks.add.enqueue(namespace=namespace, a=1)
    Job.objects.filter(id=waiting.id).update(created_at=datetime.now(UTC) - timedelta(days=900))
    assert prune(conninfo, succeeded=7, failed=30) == 1
    assert set(Job.objects.values_list("id", flat=True)) == {new.id, failed.id, waiting.id}
    for model in (Event, Attempt, Progress, Step):
        rows: Any = model
        assert not rows.objects.filter(job_id=old.id).exists()
        assert rows.objects.filter(job_id=new.id).exists()
    assert prune(conninfo, succeeded=0) == 1
    assert prune(conninfo) == 0


def test_logs_go_before_their_jobs_and_changes_of_state_stay(
    namespace: str, worker: Worker, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVENTS", 3)
    jobs = [done(namespace, worker, "failed", days=days) for days in (20, 20, 10)]
    running = sample_tasks.only_once.enqueue(namespace=namespace)
    run = worker.run(running)
    worker.write(Writes(notes=[LogLine(run, datetime.now(UTC) - timedelta(days=30), "info", "long ago")]))
    assert prune(conninfo, logs=14) == 4

    def kinds(job: Job) -> list[str]:
        return [event.kind for event in events.after(job.id)]

    assert kinds(jobs[0]) == kinds(jobs[1]) == ["state", "state", "state"]
    assert kinds(jobs[2]) == ["state", "state", "log", "progress", "state"]
    assert "log" in kinds(running)  # it is not over


def test_what_others_wait_for_stays_and_batches_go_with_their_jobs(
    namespace: str, worker: Worker, conninfo: str
) -> None:
    with batch(namespace) as complete:
        job = complete.add(sample_tasks.only_once)
    with batch(namespace) as going_on:
        ended = going_on.add(sample_tasks.only_once)
        going_on.add(sample_tasks.only_once)
    for one in (job, ended):
        worker.do(one)
    held = sample_tasks.tell.enqueue(namespace=namespace)
    sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[held.id]))
    Job.objects.filter(id=held.id).update(state="succeeded", finished_at=datetime.now(UTC))
    assert prune(conninfo, succeeded=0) == 2
    assert set(Batch.objects.values_list("id", flat=True)) == {going_on.id}
    assert Job.objects.filter(id__in=[ended.id, held.id]).count() == 2


def test_many_go_in_portions(namespace: str, worker: Worker, conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "JOBS", 2)
    for _ in range(13):
        done(namespace, worker, days=1)
    assert prune(conninfo, succeeded=0.5) == 13


def test_how_long_is_told_in_days() -> None:
    assert parse("") == retention.DEFAULTS
    assert parse("succeeded=0.5, logs=never") == {**retention.DEFAULTS, "succeeded": 0.5, "logs": None}
    for wrong in ("running=1", "succeeded", "succeeded=x", "failed=-1", "failed=nan", "logs=1e9"):
        with pytest.raises(BadRetention):
            parse(wrong)


def test_wrong_settings_are_named_by_check(settings: Any) -> None:
    settings.MSGWEB_JOBS_KEEP = "running=1"
    settings.MSGWEB_SCHEDULES = {"odd": {"namespace": "a.b", "task": "no.such", "every": 5}}
    with pytest.raises(SystemCheckError, match=r"jobs\.E010(?s:.*)jobs\.E011"):
        call_command("check", stdout=StringIO(), stderr=StringIO())


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"state": "failed"},
        {"state": "ready"},
        {"but": "running"},
        {"task": "samples.rare"},
        {"namespace": "samples.ready"},
        {"namespace": "samples.ready", "task": "samples.add"},
        {"namespace": "samples.many", "task": "samples.rare"},
        {"namespace": "samples.rare"},
        {"namespace": "samples.many", "state": "succeeded"},
    ],
    ids=str,
)
def test_no_list_reads_the_whole_table(namespace: str, condition: dict[str, str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs_job (id, namespace, task, queue, arguments, priority, state, attempt, failures,"
            " max_attempts, delivery, reply_to, correlation_id, wants_progress, requested_by, created_at, finished_at)"
            " SELECT gen_random_uuid(), 'samples.many', 'samples.add', 'q', '{}', 4,"
            " CASE WHEN n % 50 = 0 THEN 'failed'"
            " ELSE 'succeeded' END, 1, 0, 1, 1, '', '', false, '', now() - n * interval '1 s', now()"
            " FROM generate_series(1, 20000) AS n"
        )
        cursor.execute(
            "INSERT INTO jobs_job (id, namespace, task, queue, arguments, created_at)"
            " SELECT gen_random_uuid(), 'samples.ready', 'samples.add', 'q', '{}', now() - n * interval '1 s'"
            " FROM generate_series(1, 20000) AS n"
        )
        cursor.execute("ANALYZE jobs_job")
    plans = []

    def explain(run: Any, sql: str, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        raw = context["cursor"].cursor
        raw.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
        plans.append(raw.fetchone()[0][0]["Plan"])
        return run(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        newest(51, **condition)
        if "but" not in condition:
            list(Selection(**condition).newest(51))

    def read(node: dict[str, Any]) -> float:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        return max([own, *(read(child) for child in node.get("Plans", []))])

    assert plans
    assert max(map(read, plans)) < 1000
