"""What is admitted in the transaction of the claim that brought it, and what is not."""

import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection
from psycopg import pq

from apps.jobs import control
from apps.jobs.admission import CLAIMED, CLAIMED_NAMES, claimed_parameters, claimed_rows
from apps.jobs.asking import Ask
from apps.jobs.models import Job
from apps.jobs.records import Run, Start, Started
from apps.jobs.submit import submit
from tests import sample_tasks

pytestmark = pytest.mark.django_db(transaction=True)

CLAIM = (
    "UPDATE msgweb.message m SET session = $1::int4, deliveries = deliveries + 1 FROM msgweb.destination d"
    " WHERE d.id = m.destination AND d.namespace = $7::text RETURNING m.id, m.deliveries, m.headers"
)
TASKS = (sample_tasks.add.name, sample_tasks.nothing.name)


class Claimer:
    """Claims all of a namespace's messages, and asks along."""

    def __init__(self, conninfo: str, session: int) -> None:
        self._conninfo = conninfo
        self._session = session

    def claim(
        self,
        namespace: str,
        tasks: Sequence[str] = TASKS,
        number: int = 1,
        settled: Sequence[int] = (),
        commit: bool = True,
    ) -> dict[Start, Started | None]:
        with psycopg.connect(self._conninfo) as opened:
            rows = self.rows(opened, namespace, tasks, number, settled)
            if not commit:
                opened.rollback()
        return dict(claimed_rows(self._session, rows))

    def rows(
        self,
        opened: "psycopg.Connection[tuple[object, ...]]",
        namespace: str,
        tasks: Sequence[str] = TASKS,
        number: int = 1,
        settled: Sequence[int] = (),
    ) -> list[list[bytes | None]]:
        """What is said of the claimed messages, in a transaction that is left open."""
        opened.execute("SELECT 1")
        names = {name: f"${place}" for place, name in enumerate(("session", *CLAIMED_NAMES), 1)}
        parts = re.sub(r"%\((\w+)\)s", lambda found: names[found[1]], CLAIMED)
        statement = f"WITH taken AS ({CLAIM}), {parts} SELECT along.* FROM along".encode()
        parameters = [
            self._session.to_bytes(4, "big"),
            *claimed_parameters(tasks, number, "a-host", 42, settled),
            namespace.encode(),
        ]
        result = opened.pgconn.exec_params(statement, parameters, param_formats=[1] * len(parameters), result_format=1)
        assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
        return [[result.get_value(row, at) for at in range(result.nfields)] for row in range(result.ntuples)]


@pytest.fixture
def claimer(conninfo: str, session: int) -> Claimer:
    return Claimer(conninfo, session)


def traces() -> list[tuple[int, list[uuid.UUID], list[int]]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, jobs, attempts FROM jobs_admission ORDER BY number")
        return list(cursor.fetchall())


def start_of(job: Job, session: int) -> Start:
    return Start(job.id, 1, session, job.ticket)


def test_what_is_claimed_may_begin_and_is_traced_with_the_claim(claimer: Claimer, namespace: str, session: int) -> None:
    job = submit(namespace, "samples.add", {"a": 1})
    found = claimer.claim(namespace)
    run = Run(job.id, 1, session)
    assert found == {start_of(job, session): Started(run, "samples.add", namespace, '{"a": 1}', 0, None, deferred=True)}
    assert traces() == [(1, [job.id], [1])]


def test_what_a_claim_that_is_rolled_back_brought_leaves_no_trace(claimer: Claimer, namespace: str) -> None:
    submit(namespace, "samples.nothing", {})
    assert len(claimer.claim(namespace, commit=False)) == 1
    assert traces() == []


def test_a_task_that_is_not_named_a_limited_job_and_one_that_was_cancelled_are_answered_but_do_not_begin(
    claimer: Claimer, namespace: str, session: int
) -> None:
    other = submit(namespace, "samples.fail", {})
    expiring = submit(namespace, "samples.nothing", {}, Ask(expires=60))
    asked = submit(namespace, "samples.nothing", {})
    Job.objects.filter(id=asked.id).update(cancel_requested_at="2026-01-01T00:00:00Z")
    assert claimer.claim(namespace) == {start_of(job, session): None for job in (other, expiring, asked)}
    assert traces() == []


@pytest.mark.parametrize(
    "change",
    [
        {"held_at": "2026-01-01T00:00:00Z"},
        {"limits": {"key": "k", "limit": 1}},
        {"timeout": 5.0},
        {"on_death": "fail"},
        {"on_death": "retry", "attempt": 1},
        {"deaths": 1},
        {"delivery": 2},
        {"ticket": 7},
        {"state": "running", "attempt": 1},
        {"state": "cancelled"},
    ],
    ids=str,
)
def test_what_a_start_would_decide_is_left_to_it(
    claimer: Claimer, namespace: str, session: int, change: dict[str, object]
) -> None:
    job, plain = (submit(namespace, "samples.nothing", {}) for _ in range(2))
    Job.objects.filter(id=job.id).update(**change)
    found = claimer.claim(namespace)
    assert found.pop(start_of(job, session)) is None
    assert [answer.run for answer in found.values() if answer is not None] == [Run(plain.id, 1, session)]
    assert traces() == [(1, [plain.id], [1])]


def test_of_a_large_claim_nothing_is_said(claimer: Claimer, namespace: str) -> None:
    for _ in range(51):
        submit(namespace, "samples.nothing", {})
    assert claimer.claim(namespace) == {}
    assert traces() == []


def test_a_message_that_comes_again_is_none_of_them(claimer: Claimer, namespace: str) -> None:
    submit(namespace, "samples.nothing", {})
    claimer.claim(namespace, tasks=["samples.other"])
    assert claimer.claim(namespace) == {}


def test_a_row_that_somebody_else_has_locked_is_not_waited_for(
    conninfo: str, claimer: Claimer, namespace: str, session: int
) -> None:
    job = submit(namespace, "samples.nothing", {})
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT FROM jobs_job WHERE id = %s FOR UPDATE", [job.id])
        assert claimer.claim(namespace) == {start_of(job, session): None}


@pytest.mark.parametrize(
    "headers", [b"", b"job-id:nothing\n", b"x-job-id:%(id)s\n", b"a:\xff\\\n", b"job-id:%(id)s0\n"]
)
def test_headers_that_name_no_job_are_no_error(claimer: Claimer, namespace: str, headers: bytes) -> None:
    job = submit(namespace, "samples.nothing", {})
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE msgweb.message m SET headers = %s FROM msgweb.destination d"
            " WHERE d.id = m.destination AND d.namespace = %s",
            [headers.replace(b"%(id)s", str(job.id).encode()), namespace],
        )
    assert claimer.claim(namespace) == {}


def test_two_messages_of_a_job_in_one_claim_are_two_rows(conninfo: str, claimer: Claimer, namespace: str) -> None:
    job, other = (submit(namespace, "samples.nothing", {}) for _ in range(2))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE msgweb.message SET headers = convert_to(replace(convert_from(headers, 'UTF8'), %s, %s), 'UTF8')"
            " WHERE destination IN (SELECT id FROM msgweb.destination WHERE namespace = %s)",
            [str(other.id), str(job.id), namespace],
        )
    with psycopg.connect(conninfo) as opened:
        rows = claimer.rows(opened, namespace)
    assert len({row[0] for row in rows}) == len(rows) == 2
    assert {row[1] for row in rows} == {job.id.bytes}


def test_who_cancels_while_the_claim_is_under_way_waits_and_asks_the_worker(
    conninfo: str, claimer: Claimer, namespace: str
) -> None:
    job = submit(namespace, "samples.nothing", {})

    def cancel() -> None:
        try:
            control.cancel(job.id, "the test")
        finally:
            connection.close()

    waiting = "SELECT FROM pg_locks WHERE NOT granted AND %s = ANY (pg_blocking_pids(pid))"
    with (
        ThreadPoolExecutor(1) as threads,
        psycopg.connect(conninfo) as opened,
        psycopg.connect(conninfo, autocommit=True) as watching,
    ):
        assert len(claimer.rows(opened, namespace)) == 1
        cancelling = threads.submit(cancel)
        while not watching.execute(waiting, [opened.info.backend_pid]).fetchall():
            assert not cancelling.done()
        opened.commit()
        cancelling.result()
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("ready", 0)
    assert job.cancel_requested_at is not None


def test_what_is_settled_goes_along(claimer: Claimer, namespace: str) -> None:
    for number in (1, 2):
        submit(namespace, "samples.nothing", {})
        claimer.claim(namespace, number=number)
    submit(namespace, "samples.nothing", {})
    claimer.claim(namespace, number=3, settled=[1, 2])
    assert [number for number, _, _ in traces()] == [3]
