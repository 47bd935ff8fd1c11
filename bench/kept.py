"""What jobs that have ended cost those that come: enqueueing, the console's lists, and their removal.

On a temporary Postgres (fsync on), with a thousand and with a million jobs kept, each with an attempt and its events.
With `--pages`: how long each page of the console and each list of the REST API takes with so many jobs, of several
states and namespaces.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable

import psycopg

from bench import brokers

NAMESPACE = "bench.kept"
FILL = """
WITH made AS (
    INSERT INTO jobs_job (id, namespace, task, queue, arguments, priority, state, attempt, failures, max_attempts,
        delivery, result, reply_to, correlation_id, wants_progress, requested_by, created_at, started_at, finished_at)
    SELECT gen_random_uuid(), %(namespace)s, 'bench.nothing', 'bench', '{"n": 1}', 4,
        CASE WHEN n %% 20 = 0 THEN 'failed' ELSE 'succeeded' END, 1, 0, 1, 1, '{"ok": true}', '', '', false, '',
        now() - n * interval '1 second', now() - n * interval '1 second', now() - n * interval '1 second'
    FROM generate_series(1, %(count)s) AS n RETURNING id, created_at
), attempts AS (
    INSERT INTO jobs_attempt (job_id, number, worker, host, started_at, ended_at, outcome)
    SELECT id, 1, 1, 'bench', created_at, created_at, 'succeeded' FROM made
)
INSERT INTO jobs_event (job_id, at, kind, data)
SELECT id, created_at, kind, '{"state": "succeeded", "attempt": 1}'
FROM made, unnest(ARRAY['state', 'state', 'log', 'state']) AS kind ORDER BY created_at
"""


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """The median of so many calls."""
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


def measure(conninfo: str, kept: int) -> tuple[list[float], int]:
    """Medians of each thing, in milliseconds, with so many jobs kept; and how many jobs were removed in a second."""
    from apps.jobs import registry
    from apps.jobs.asking import Ask
    from apps.jobs.models import Job
    from apps.jobs.retention import Retention
    from apps.jobs.submit import ask_for

    with psycopg.connect(conninfo, autocommit=True) as connection:
        if (more := kept - Job.objects.count()) > 0:
            connection.execute(FILL, {"namespace": NAMESPACE, "count": more})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    task = registry.find("bench.nothing")
    columns = ("id", "task", "state", "namespace", "created_at", "started_at", "finished_at", "requested_by")
    found = [
        milliseconds(lambda: ask_for(task, NAMESPACE, {"n": 1}, Ask()), 1000),
        milliseconds(lambda: list(Job.objects.only(*columns)[:51]), 200),
        milliseconds(lambda: list(Job.objects.filter(state="failed").only(*columns)[:51]), 200),
        milliseconds(lambda: list(Job.objects.filter(state="ready").only(*columns)[:51]), 200),
        milliseconds(lambda: list(Job.objects.filter(namespace=NAMESPACE, task="rare").only(*columns)[:51]), 200),
    ]

    async def prune() -> int:
        retention = Retention({"succeeded": 0.0})
        removed, until = 0, time.monotonic() + 5
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            while time.monotonic() < until and (count := await retention.prune(connection)):
                removed += count
        return round(removed / (time.monotonic() - until + 5))

    return found, asyncio.run(prune()) if kept > 10_000 else 0


SPREAD = """
UPDATE jobs_job j SET namespace = 'kept.n' || n %% 5, state = CASE WHEN n %% 20 = 1 THEN 'cancelled'
    WHEN n %% 20 = 2 THEN 'expired' WHEN n %% 40 = 3 THEN 'ready' WHEN n %% 4000 = 4 THEN 'running' ELSE state END
FROM (SELECT id, row_number() OVER () AS n FROM jobs_job) x WHERE x.id = j.id
"""
#: A namespace whose jobs are all older than those of the others.
OLD = """
UPDATE jobs_job SET namespace = 'kept.old'
WHERE created_at < (SELECT max(created_at) - 0.95 * (max(created_at) - min(created_at)) FROM jobs_job)
"""
#: Statistics as they are after a year: of twenty queues, by five processes where they are not rolled up.
STATISTICS = """
INSERT INTO msgweb.statistic (resolution, at, destination, sent, delivered, acked)
SELECT s.resolution, date_bin(make_interval(secs => s.resolution), now(), '2000-01-01')
    - n * make_interval(secs => s.resolution), d.id, 100, 100, 100
FROM (VALUES (10, 360, 5), (60, 1440, 1), (3600, 8760, 1)) AS s (resolution, rows, processes), msgweb.destination d,
    generate_series(0, s.rows) AS n, generate_series(1, s.processes)
"""
ENDED = """
INSERT INTO msgweb.jobs_ended (resolution, at, namespace, succeeded)
SELECT s.resolution, date_bin('10 seconds', now(), '2000-01-01') - n * make_interval(secs => s.every),
    'kept.n' || name, 10
FROM (VALUES (0, 2000, 0.005), (10, 360, 10), (60, 1440, 60), (3600, 8760, 3600)) AS s (resolution, rows, every),
    generate_series(0, s.rows) AS n, generate_series(0, 4) AS name
"""


def measure_pages(conninfo: str, kept: int) -> None:
    """Print how long the pages and lists take, in milliseconds: the first look and the median of ten."""
    from django.contrib.auth import get_user_model
    from django.test import Client
    from django.test.utils import setup_test_environment

    from apps.accounts.models import Namespace
    from apps.broker import outbox
    from apps.jobs.models import Job

    for number in range(5):
        home = Namespace.objects.create(name=f"kept.n{number}").name
        for queue in range(4):
            outbox.send(home, f"/queue/q{queue}", "x")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(FILL, {"namespace": NAMESPACE, "count": kept})
        for statement in (SPREAD, OLD, STATISTICS, ENDED):
            connection.execute(statement, {})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    setup_test_environment()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("bench", password="x"))
    oldest = Job.objects.order_by("created_at")[100]
    job, first = f"/jobs/{oldest.id}/", "kept.n0"
    paths = [
        *("/", "/jobs/", *(f"/jobs/?state={state}" for state in Job.State.values)),
        *(f"/jobs/?namespace={first}", f"/jobs/?namespace={first}&state=failed", "/jobs/?task=bench.nothing"),
        *(
            "/jobs/?namespace=kept.old",
            "/jobs/?namespace=kept.old&state=failed",
            "/jobs/?namespace=kept.n0&state=cancelled",
        ),
        *("/jobs/?task=bench.rare", f"/jobs/?namespace={first}&task=bench.nothing&state=expired"),
        f"/jobs/?before={oldest.created_at.isoformat().replace('+', '%2B')}_{oldest.id}",
        *(job, f"{job}log.txt", "/schedules/", "/queues/", "/topics/", "/workers/", "/connections/"),
        *(f"/queue/?namespace={first}&name=q0&reach={reach}" for reach in ("hour", "day", "year")),
        *("/access/", "/access/people/", "/access/log/"),
        *(f"/api/v1/namespaces/{first}/queues", "/api/v1/tasks", f"/api/v1{job[:-1]}", f"/api/v1{job}log"),
    ]
    print("| page | first, ms | median, ms |")
    print("| --- | ---: | ---: |")
    for path in paths:

        def look(path: str = path) -> None:
            response = client.get(path)
            if response.status_code != 200:
                raise brokers.BenchError(f"{path}: status {response.status_code}")

        print(f"| `{path}` | {milliseconds(look, 1):.0f} | {milliseconds(look, 10):.0f} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 when it cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.kept", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=1_000_000, metavar="N", help="how many are kept (default: a million)"
    )
    parser.add_argument("--pages", action="store_true", help="measure the console's pages and the REST API's lists")
    options = parser.parse_args(arguments)
    try:
        with brokers.installation() as place:
            os.environ.update(place.env)
            os.environ.pop("DATABASE_URL", None)
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")
            import django

            django.setup()
            from apps.accounts.models import Namespace
            from apps.jobs import task

            @task(name="bench.nothing", queue="bench")
            def nothing(context: object, *, n: int) -> None:
                """Nothing."""

            Namespace.objects.create(name=NAMESPACE)
            if options.pages:
                measure_pages(place.conninfo, options.jobs)
                return 0
            print("| kept | enqueue, ms | list, ms | failed, ms | ready, ms | rare task, ms | removed a second |")
            print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
            for kept in (1_000, options.jobs):
                found, removed = measure(place.conninfo, kept)
                cells = " | ".join(f"{value:.2f}" for value in found)
                print(f"| {kept:,} | {cells} | {f'{removed:,}' if removed else ''} |", flush=True)
            print(f"\nPostgreSQL {place.version}, fsync on; Python {sys.version.split()[0]}")
    except brokers.BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
