"""Attempts that are recorded at once, without a lock before it: what is told of them, and what follows."""

import asyncio
import threading
import uuid
from collections.abc import Sequence

import psycopg
import pytest
from django.db import connection

from apps.jobs import control, events
from apps.jobs.admission import Admission
from apps.jobs.asking import Ask
from apps.jobs.channels import EVENTS
from apps.jobs.flows import Link, batch
from apps.jobs.models import Attempt, Event, Job
from apps.jobs.records import Batch, Finish, Json, Run, Start, Written
from apps.jobs.submit import submit
from tests import sample_tasks
from tests.installation import until
from tests.recording import Worker, messages

pytestmark = pytest.mark.django_db(transaction=True)

Admitted = dict[Run, Start]
ERROR = {"code": "task_error", "message": "no", "traceback": "long"}


@pytest.fixture
def worker(conninfo: str, session: int) -> Worker:
    return Worker(conninfo, session)


def admitted(conninfo: str, worker: Worker, *jobs: Job) -> Admitted:
    """All of them."""

    async def main() -> Admitted:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as opened:
            admission = Admission(opened, "a-host", 42)
            starts = [Start(job.id, 1, worker.session, job.ticket) for job in jobs]
            answers = await admission.admit(starts, uuid.uuid4().int % 2**60)
            admission.close()
            return {answers[place].run: start for place, start in enumerate(starts)}

    return asyncio.run(main())


def succeed(worker: Worker, runs: Admitted) -> Written:
    return worker.write(
        Batch(finishes=[Finish(run, "succeeded", Json("1"), seconds=0.5) for run in runs], deferred=runs)
    )


def locked(job: Job) -> bool:
    """Whether anybody has locked the row since it was written, or holds it now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmax <> '0' FROM jobs_job WHERE id = %s", [job.id])
        (found,) = cursor.fetchone()
        return bool(found)


def touch(conninfo: str, job: Job) -> None:
    """Lock the row for a moment, and change nothing."""
    with psycopg.connect(conninfo) as toucher:
        toucher.execute("SELECT FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", [job.id])


WAITING = """
SELECT 1 FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND ltrim(query) LIKE 'SELECT msgweb.living_sessions(%' AND datname = current_database()
"""


def told(found: Sequence[Event]) -> list[tuple[str, str, int]]:
    return [(event.kind, event.data.get("state", ""), event.data.get("attempt", 0)) for event in found]


def test_nobody_locks_what_nobody_else_has_touched(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    runs = admitted(conninfo, worker, job)
    assert not locked(job)
    assert succeed(worker, runs).completed == [*runs]


def test_what_somebody_has_touched_is_locked_and_recorded_all_the_same(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    jobs = [submit(namespace, "samples.nothing", {}) for _ in range(3)]
    touch(conninfo, jobs[0])
    runs = admitted(conninfo, worker, *jobs)
    touch(conninfo, jobs[1])
    first, second, third = runs
    written = succeed(worker, runs)
    assert (written.completed, written.finishes) == ([third], {first: "succeeded", second: "succeeded"})
    assert [told(events.states(job.id))[1:] for job in jobs] == [
        [("state", "running", 1), ("state", "succeeded", 1)] for _ in jobs
    ]


def test_the_two_events_are_told_from_the_attempt_and_a_reader_resumes_between_them(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.nothing", {})
    succeed(worker, admitted(conninfo, worker, job))
    attempt = Attempt.objects.get(job=job)
    assert attempt.told_from is not None
    assert attempt.ended_at is not None
    assert not Event.objects.filter(job=job).exclude(data__state="ready").exists()
    ready, running, succeeded = events.after(job.id)
    assert told([running, succeeded]) == [("state", "running", 1), ("state", "succeeded", 1)]
    assert (running.at, succeeded.at) == (attempt.started_at, attempt.ended_at)
    assert [event.id for event in events.after(job.id, running.id)] == [succeeded.id]
    assert [event.id for event in events.latest(job.id, 2)] == [running.id, succeeded.id]
    assert events.newest([job.id]) == {job.id: succeeded.id}
    assert events.newest([job.id], succeeded.id) == {}
    assert ready.id < running.id


def test_they_keep_their_place_among_those_before_and_after(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.fail", {})
    runs = admitted(conninfo, worker, job)
    (run,) = runs
    worker.write(Batch(finishes=[Finish(run, "failed", error=ERROR, pause=0.0)], deferred=runs))
    job.refresh_from_db()
    other = submit(namespace, "samples.nothing", {})
    succeed(worker, admitted(conninfo, worker, job, other))
    control.cancel(submit(namespace, "samples.nothing", {}).id, "the test")
    seen = events.after(job.id)
    assert [state for _, state, _ in told(seen)] == ["ready", "running", "waiting", "running", "succeeded"]
    assert sorted({event.id for event in seen}) == [event.id for event in seen]
    numbers = [event.id for one in Job.objects.all() for event in events.after(one.id) if event.id > 1]
    assert len(numbers) == len(set(numbers)) >= 4 + 2 + 1


def test_who_waits_for_them_is_told_and_what_follows_them_begins(conninfo: str, namespace: str, worker: Worker) -> None:
    asked = submit(namespace, "samples.nothing", {}, reply_to="answers")
    before = submit(namespace, "samples.nothing", {})
    after = sample_tasks.nothing.enqueue(namespace=namespace, ask=Ask(after=[before.id]))
    with batch(namespace, then=Link(sample_tasks.tell, result_as="what")) as whole:
        of_batch = [whole.add(sample_tasks.nothing) for _ in range(2)]
    runs = admitted(conninfo, worker, asked, before, *of_batch)
    written = succeed(worker, runs)
    # Whoever follows a single job locks it while it asks for that.
    assert [run.job for run in written.completed] == [asked.id, *(job.id for job in of_batch)]
    assert [run.job for run in written.finishes] == [before.id]
    assert Job.objects.get(task="samples.tell").state == "ready"
    assert [headers["job-event"] for headers, _, _ in messages(namespace, "answers")][-1] == "result"
    after.refresh_from_db()
    assert after.state == "ready"


def test_hundreds_are_named_by_few_notifications(conninfo: str, namespace: str, worker: Worker) -> None:
    jobs = [submit(namespace, "samples.nothing", {}) for _ in range(201)]
    runs = admitted(conninfo, worker, *jobs)
    with psycopg.connect(conninfo, autocommit=True) as listener:
        listener.execute(f"LISTEN {EVENTS}")
        assert len(succeed(worker, runs).completed) == 201
        named = [notification.payload.split() for notification in listener.notifies(timeout=5, stop_after=2)]
    assert sorted(map(len, named)) == [1, 200]
    assert {uuid.UUID(one) for ids in named for one in ids} == {job.id for job in jobs}


def test_a_lock_in_that_very_moment_is_not_waited_for(conninfo: str, namespace: str, worker: Worker) -> None:
    """The session's row stands for the job's: it is locked by the same statement, and can be held beforehand."""
    job = submit(namespace, "samples.nothing", {})
    runs = admitted(conninfo, worker, job)
    answers: list[Written] = []
    writing = threading.Thread(target=lambda: answers.append(succeed(worker, runs)))
    with psycopg.connect(conninfo) as holder, psycopg.connect(conninfo, autocommit=True) as watcher:
        holder.execute("SELECT FROM msgweb.session WHERE id = %s FOR UPDATE", [worker.session])
        writing.start()

        def goes_the_long_way() -> bool:
            return watcher.execute(WAITING).fetchone() is not None

        until(goes_the_long_way, 30, "all are locked first")
        holder.rollback()
    writing.join()
    (run,) = runs
    assert (answers[0].completed, answers[0].finishes) == ([], {run: "succeeded"})
    assert told(events.states(job.id))[1:] == [("state", "running", 1), ("state", "succeeded", 1)]
