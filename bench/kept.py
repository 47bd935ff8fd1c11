"""What jobs that have ended cost those that come: enqueueing, the console's lists, and their removal.

On a temporary Postgres (fsync on), with a thousand and with a million jobs kept, each with an attempt and its events.
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


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 when it cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.kept", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=1_000_000, metavar="N", help="how many are kept (default: a million)"
    )
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
