"""Lists of jobs: put together of those that are ready and the others."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from django.db import connection

from apps.jobs.listing import newest
from apps.jobs.models import Job

pytestmark = pytest.mark.django_db(transaction=True)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACES, TASKS = ("a.one", "a.two"), ("t.one", "t.two")


@pytest.fixture
def jobs() -> list[Job]:
    """In all states, of several tasks, many of the same moment; with ids in no order."""
    choose = random.Random(7)
    made = [
        Job(
            id=uuid.UUID(int=choose.getrandbits(128), version=4),
            namespace=choose.choice(NAMESPACES),
            task=choose.choice(TASKS),
            queue="q",
            state=choose.choice([*Job.State.values, *["ready"] * 5]),
            created_at=BEGIN + timedelta(seconds=choose.randrange(60)),
        )
        for _ in range(300)
    ]
    Job.objects.bulk_create(made)
    return sorted(made, key=lambda job: (job.created_at, job.id), reverse=True)


@pytest.mark.parametrize("state", [None, "ready", "failed"])
@pytest.mark.parametrize(("namespace", "task"), [*product([None, *NAMESPACES], [None, *TASKS])])
def test_pages_show_each_job_of_the_list_once_and_the_newest_first(
    jobs: list[Job], state: str | None, namespace: str | None, task: str | None
) -> None:
    wanted = [
        job.id
        for job in jobs
        if state in (None, job.state) and namespace in (None, job.namespace) and task in (None, job.task)
    ]
    moments = {job.id: job.created_at for job in jobs}
    shown: list[uuid.UUID] = []
    while True:
        last = (moments[shown[-1]], shown[-1]) if shown else None
        found = newest(7, state=state, namespace=namespace, task=task, last=last)
        shown += found
        if len(found) < 7:
            break
    assert shown == wanted


def test_a_state_is_left_out(jobs: list[Job]) -> None:
    assert newest(999, but="running") == [job.id for job in jobs if job.state != "running"]


def test_there_may_be_none() -> None:
    assert newest(9) == newest(9, state="ready") == newest(9, namespace="a.one") == []


def test_a_job_is_in_the_list_in_each_of_its_states(jobs: list[Job]) -> None:
    job = jobs[0]
    for state in Job.State.values:
        Job.objects.filter(id=job.id).update(state=state)
        assert newest(1) == newest(1, namespace=job.namespace, task=job.task) == [job.id]
        assert job.id in newest(999, state=state)


def test_what_is_ready_has_one_entry_for_lists() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_expr(indpred, indrelid) FROM pg_index"
            " WHERE indrelid = 'jobs_job'::regclass AND NOT indisprimary"
        )
        conditions = [text for (text,) in cursor.fetchall()]
    assert None not in conditions
    assert sum(text.startswith("((state)::text = 'ready'") for text in conditions) == 1
