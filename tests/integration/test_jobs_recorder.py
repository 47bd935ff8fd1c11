"""What workers record: the fence, the states that follow, the replies."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.db import connection

from apps.broker.headers import decode_headers
from apps.jobs import control, events
from apps.jobs.models import Attempt, Event, Job, Progress
from apps.jobs.records import Batch, Finish, Json, LogLine, Mark, NotStarted, Run, Start, Started, Written
from apps.jobs.submit import submit
from tests import sample_tasks
from tests.recording import Worker

ERROR = {"code": "task_error", "message": "no", "traceback": "long"}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def other(conninfo: str) -> Worker:
    return Worker(conninfo, 102)


@pytest.fixture
def job(namespace: str) -> Job:
    """One that may fail twice, and whose asker waits."""
    return submit(namespace, "samples.fail", {}, reply_to="answers", wants_progress=True)


def answers(job: Job) -> list[tuple[str, Any]]:
    """`job-event` and body of what the asker was told after the acceptance."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.headers, m.body FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
            " WHERE d.namespace = %s AND d.name = 'answers' ORDER BY m.id",
            [job.namespace],
        )
        rows = cursor.fetchall()
    return [(decode_headers(bytes(h))["job-event"], json.loads(bytes(b))) for h, b in rows][1:]


def line(run: Run, text: str) -> LogLine:
    return LogLine(run, datetime.now(UTC), "info", text)


def mark(run: Run, done: int) -> Mark:
    return Mark(run, datetime.now(UTC), done, 10, "working")


def test_a_job_runs_and_succeeds(job: Job, worker: Worker) -> None:
    started = worker.start(job)
    assert started == Started(Run(job.id, 1, 101), "samples.fail", job.namespace, "{}")
    job.refresh_from_db()
    assert (job.state, job.attempt, job.worker) == ("running", 1, 101)
    assert job.started_at is not None
    assert worker.finish(Run(job.id, 1, 101), "succeeded", result=Json('{"n":1}')) == "succeeded"
    job.refresh_from_db()
    assert (job.state, job.result, job.error, job.worker) == ("succeeded", {"n": 1}, None, None)
    assert job.finished_at is not None
    (attempt,) = job.attempts.all()
    assert (attempt.host, attempt.pid, attempt.worker, attempt.outcome) == ("a-host", 42, 101, "succeeded")
    assert attempt.ended_at is not None
    states = [event.data["state"] for event in events.states(job.id)]
    assert states == ["ready", "running", "succeeded"]
    assert answers(job) == [("result", {"n": 1})]


def test_a_batch_carries_the_ends_of_some_jobs_and_the_starts_of_others(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.add.enqueue(namespace=namespace, a=n) for n in range(6)]
    runs = [worker.run(job) for job in jobs[:3]]
    written = worker.write(
        Batch(
            starts=[Start(job.id, 1, 101) for job in jobs[3:]],
            notes=[line(run, f"line {n}") for n in range(3) for run in runs],
            finishes=[Finish(run, "succeeded", result=Json(str(n))) for n, run in enumerate(runs)],
        )
    )
    assert all(isinstance(written.starts[job.id], Started) for job in jobs[3:])
    assert written.finishes == dict.fromkeys(runs, "succeeded")
    assert [Job.objects.get(id=job.id).result for job in jobs] == [0, 1, 2, None, None, None]
    for job in jobs[:3]:
        assert [event.data["text"] for event in Event.objects.filter(job=job, kind="log")] == [
            "line 0",
            "line 1",
            "line 2",
        ]
        assert Event.objects.filter(job=job).last().data["state"] == "succeeded"  # type: ignore[union-attr]


def test_of_many_marks_in_a_batch_the_latest_is_kept(job: Job, worker: Worker) -> None:
    run = worker.run(job)
    worker.write(Batch(notes=[mark(run, 1), line(run, "between"), mark(run, 2), mark(run, 3)]))
    progress = Progress.objects.get(job=job)
    assert (progress.done, progress.total, progress.text, progress.percent) == (3, 10, "working", 30)
    kinds = [event.kind for event in events.after(job.id)]
    assert kinds == ["state", "state", "log", "progress"]
    assert answers(job) == [("progress", {"done": 3, "total": 10, "text": "working"})]


def test_a_failure_is_retried_until_the_attempts_are_used_up(job: Job, worker: Worker, other: Worker) -> None:
    assert worker.finish(worker.run(job, 1), "failed", error=ERROR) == "waiting"
    job.refresh_from_db()
    assert (job.state, job.failures, job.error, job.finished_at) == ("waiting", 1, ERROR, None)
    assert answers(job) == []
    assert other.start(job, 2) == NotStarted("final")  # the message of before is void
    assert other.finish(other.run(job, 1, ticket=1), "failed", error=ERROR) == "failed"
    job.refresh_from_db()
    assert (job.state, job.failures, job.attempt) == ("failed", 2, 2)
    assert answers(job) == [("error", {"code": "task_error", "message": "no"})]
    assert all("traceback" not in event.data.get("error", {}) for event in Event.objects.filter(job=job))


def test_a_failure_that_trying_again_cannot_mend_is_final(job: Job, worker: Worker) -> None:
    assert worker.finish(worker.run(job), "failed", error=ERROR, again=False) == "failed"


def test_an_interruption_costs_no_attempt(job: Job, worker: Worker) -> None:
    for number in range(1, 6):
        assert worker.finish(worker.run(job, number), "interrupted", note="the worker was stopped") == "ready"
    job.refresh_from_db()
    assert (job.attempt, job.failures, job.state) == (5, 0, "ready")
    assert [attempt.outcome for attempt in job.attempts.all()] == ["interrupted"] * 5
    assert worker.finish(worker.run(job, 6), "succeeded", result=Json("1")) == "succeeded"


def test_the_next_worker_takes_a_dead_ones_job_and_the_late_one_is_refused(
    job: Job, worker: Worker, other: Worker
) -> None:
    late = worker.run(job, 1)
    taken = other.run(job, 2)
    assert taken == Run(job.id, 2, 102)
    assert [a.outcome for a in Attempt.objects.filter(job=job)] == ["interrupted", ""]
    written = worker.write(
        Batch(notes=[line(late, "late"), mark(late, 9)], finishes=[Finish(late, "succeeded", result=Json("1"))])
    )
    assert written.refused == {late: None}
    assert written.finishes == {}
    job.refresh_from_db()
    assert (job.state, job.attempt, job.worker) == ("running", 2, 102)
    assert not Event.objects.filter(job=job, kind__in=["log", "progress"]).exists()
    assert not Progress.objects.filter(job=job).exists()
    assert answers(job) == []
    assert other.finish(taken, "succeeded", result=Json("2")) == "succeeded"
    assert answers(job) == [("result", 2)]


def test_the_same_attempt_under_another_session_is_refused(job: Job, worker: Worker) -> None:
    run = worker.run(job)
    stranger = Run(run.job, run.attempt, 999)
    assert worker.write(Batch(notes=[line(stranger, "x")])).refused == {stranger: None}


def test_a_late_start_of_an_older_delivery_is_refused(job: Job, worker: Worker, other: Worker) -> None:
    taken = other.run(job, 2)
    assert worker.start(job, 1) == NotStarted("stale")
    job.refresh_from_db()
    assert (job.attempt, job.worker) == (taken.attempt, 102)


def test_a_finish_written_twice_because_the_first_answer_was_lost_takes_effect_once(job: Job, worker: Worker) -> None:
    run = worker.run(job)
    finish = Batch(finishes=[Finish(run, "failed", error=ERROR)])
    worker.write(finish)
    assert worker.write(finish).refused == {run: "waiting"}
    job.refresh_from_db()
    assert job.failures == 1


def test_the_result_of_one_whose_death_has_ended_its_job_meanwhile_is_refused(
    job: Job, worker: Worker, other: Worker
) -> None:
    Job.objects.filter(id=job.id).update(on_death="fail")
    late = worker.run(job, 1)
    assert other.start(job, 2) == NotStarted("final")
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("failed", 1)
    assert worker.write(Batch(finishes=[Finish(late, "succeeded", result=Json("1"))])).refused == {late: None}


def test_a_job_that_has_ended_is_not_begun_again(job: Job, worker: Worker) -> None:
    control.cancel(job.id, "the test")
    assert worker.start(job) == NotStarted("final")
    assert isinstance(worker.write(Batch(starts=[Start(uuid.uuid4(), 1, 101)])), Written)
    missing = Start(uuid.uuid4(), 1, 101)
    assert worker.write(Batch(starts=[missing])).starts == {missing.job: NotStarted("missing")}


def test_a_running_job_that_is_to_be_cancelled_says_so_at_the_next_batch(job: Job, worker: Worker) -> None:
    run = worker.run(job)
    assert worker.write(Batch(notes=[line(run, "a")])).cancelled == set()
    control.cancel(job.id, "the test")
    assert worker.write(Batch(notes=[line(run, "b")])).cancelled == {run}
    assert worker.finish(run, "failed", error=ERROR) == "cancelled"
    job.refresh_from_db()
    assert job.error == {"code": "cancelled", "message": "the job was cancelled"}
    assert answers(job) == [("error", {"code": "cancelled", "message": "the job was cancelled"})]
    assert job.attempts.get().error == ERROR


def test_a_job_whose_worker_died_before_it_could_cancel_is_cancelled_by_the_next(
    job: Job, worker: Worker, other: Worker
) -> None:
    worker.run(job)
    control.cancel(job.id, "the test")
    assert other.start(job, 2) == NotStarted("final")
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert [attempt.outcome for attempt in job.attempts.all()] == ["cancelled"]
    assert answers(job) == [("error", {"code": "cancelled", "message": "the job was cancelled"})]


def test_a_job_whose_row_somebody_holds_is_put_off_and_holds_up_no_other(
    namespace: str, worker: Worker, conninfo: str
) -> None:
    free, held, ready = (sample_tasks.add.enqueue(namespace=namespace, a=1) for _ in range(3))
    free_run, held_run = worker.run(free), worker.run(held)
    batch = Batch(
        starts=[Start(ready.id, 1, 101)],
        notes=[line(free_run, "free"), line(held_run, "held")],
        finishes=[Finish(held_run, "succeeded", result=Json("1")), Finish(free_run, "succeeded", result=Json("1"))],
    )
    with psycopg.connect(conninfo) as caller:
        caller.execute("SELECT FROM jobs_job WHERE id = ANY (%s) FOR UPDATE", [[held.id, ready.id]])
        written = worker.write(batch)
    assert written.put_off == {held.id, ready.id}
    assert written.starts == {}
    assert set(written.finishes) == {free_run}
    assert written.refused == {}
    written = worker.write(Batch(starts=batch.starts, notes=batch.notes[1:], finishes=batch.finishes[:1]))
    assert set(written.finishes) == {held_run}
    assert isinstance(written.starts[ready.id], Started)


def test_a_reply_that_cannot_be_sent_does_not_cost_the_result(namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.add", {"a": 1}, reply_to="answers")
    Job.objects.filter(id=job.id).update(reply_to="/nowhere/x")
    assert worker.finish(worker.run(job), "succeeded", result=Json("5")) == "succeeded"
    job.refresh_from_db()
    assert job.result == 5
    last = Event.objects.filter(job=job, kind="log").last()
    assert last is not None
    assert last.data["level"] == "error"
    assert "/nowhere/x" in last.data["text"]
