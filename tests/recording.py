"""Records what a worker would, without a worker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from django.db import connection

from apps.broker.headers import decode_headers
from apps.jobs.models import Job
from apps.jobs.recorder import Recorder
from apps.jobs.records import Batch, Finish, NotStarted, Run, Start, Started, Written

T = TypeVar("T")


class Worker:
    """Writes batches as the worker of a session would."""

    def __init__(self, conninfo: str, session: int) -> None:
        self._conninfo = conninfo
        self.session = session

    def write(self, batch: Batch) -> Written:
        return self._with_recorder(lambda recorder: recorder.write(batch))

    def start(self, job: Job, delivery: int = 1, ticket: int = 0) -> Started | NotStarted:
        return self.write(Batch(starts=[Start(job.id, delivery, self.session, ticket)])).starts[job.id]

    def run(self, job: Job, delivery: int = 1, ticket: int = 0) -> Run:
        started = self.start(job, delivery, ticket)
        assert isinstance(started, Started)
        return started.run

    def finish(self, run: Run, outcome: str, **details: Any) -> str | None:
        written = self.write(Batch(finishes=[Finish(run, outcome, **details)]))
        if run in written.refused:
            return None
        return written.finishes[run]

    def _with_recorder(self, call: Callable[[Recorder], Awaitable[T]]) -> T:
        async def main() -> T:
            async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                return await call(Recorder(connection, "a-host", 42))

        return asyncio.run(main())

    def begin(self, job: Job) -> Started | NotStarted:
        """Take its newest message, as the broker would deliver it."""
        job.refresh_from_db()
        return self.start(job, 1, job.ticket)

    def do(self, job: Job, outcome: str = "succeeded", **details: Any) -> str | None:
        """Begin and end."""
        started = self.begin(job)
        assert isinstance(started, Started), started
        return self.finish(started.run, outcome, **details)


def messages(namespace: str, queue: str) -> list[tuple[dict[str, str], bytes, float | None]]:
    """Headers and body of what waits in a queue, and seconds until it is available (None: now)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.headers, m.body, extract(epoch FROM m.available_at - clock_timestamp())::float8"
            " FROM msgweb.message m JOIN msgweb.destination d"
            " ON d.id = m.destination WHERE d.namespace = %s AND d.name = %s ORDER BY m.id",
            [namespace, queue],
        )
        return [(decode_headers(bytes(h)), bytes(b), delay) for h, b, delay in cursor.fetchall()]


def upkeep() -> None:
    """What time brings, now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT msgweb.upkeep_jobs()")


def pass_time(seconds: float) -> None:
    """Let so much time pass for every job: what lies ahead comes nearer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET run_at = run_at - make_interval(secs => %s),"
            " expires_at = expires_at - make_interval(secs => %s), created_at = created_at - make_interval(secs => %s)",
            [seconds] * 3,
        )
