"""Attempts whose start is recorded later: who is admitted so, what is recorded of them, and who is refused."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
import pytest
from django.db import connection

from apps.jobs import control, events
from apps.jobs.admission import Admission
from apps.jobs.asking import Ask
from apps.jobs.errors import WrongState
from apps.jobs.models import Attempt, Job
from apps.jobs.records import Batch, Finish, Json, LogLine, Run, Start, Started, Written
from apps.jobs.submit import submit
from tests import sample_tasks
from tests.recording import Worker

ERROR = {"code": "task_error", "message": "no", "traceback": "long"}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def worker(conninfo: str, session: int) -> Worker:
    return Worker(conninfo, session)


def start_of(job: Job, worker: Worker, delivery: int = 1) -> Start:
    return Start(job.id, delivery, worker.session, job.ticket)


def admit(
    conninfo: str, *starts: Start, number: int = 1, settled: Sequence[tuple[int, int]] = ()
) -> dict[int, Started]:
    async def main() -> dict[int, Started]:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as opened:
            admission = Admission(opened, "a-host", 42)
            admitted = await admission.admit(starts, number, settled)
            admission.close()
            return admitted

    return asyncio.run(main())


def admitted(conninfo: str, job: Job, worker: Worker) -> tuple[Run, Start]:
    start = start_of(job, worker)
    return admit(conninfo, start)[0].run, start


def finish(worker: Worker, run: Run, start: Start, outcome: str = "succeeded", **details: object) -> Written:
    result = Json('{"a": 1}') if outcome == "succeeded" else None
    item = Finish(run, outcome, result=result, seconds=0.5, **details)  # type: ignore[arg-type]
    return worker.write(Batch(finishes=[item], deferred={run: start}))


def states(job: Job) -> list[tuple[str, int]]:
    return [(event.data["state"], event.data["attempt"]) for event in events.states(job.id)]


def bury(worker: Worker) -> None:
    """The worker is taken for dead."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM msgweb.bury_sessions(%s)", [[worker.session]])


def traces() -> int:
    """How many batches workers have begun, for all that is known."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM jobs_admission")
        (count,) = cursor.fetchone()
    return count


def prune() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT msgweb.prune_admissions(100)")
        (count,) = cursor.fetchone()
    return count


def hold_message(job: Job, worker: Worker) -> None:
    """A worker holds the job's message."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE msgweb.message m SET session = %s FROM msgweb.destination d"
            " WHERE d.id = m.destination AND d.namespace = %s",
            [worker.session, job.namespace],
        )
        assert cursor.rowcount == 1


def test_nothing_is_written_before_the_end_and_then_start_and_end_at_once(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.add", {"a": 1})
    run, start = admitted(conninfo, job, worker)
    assert run == Run(job.id, 1, worker.session)
    job.refresh_from_db()
    assert (job.state, job.attempt, Attempt.objects.filter(job=job).count()) == ("ready", 0, 0)
    written = finish(worker, run, start)
    assert (written.completed, written.finishes) == ([run], {})
    job.refresh_from_db()
    assert (job.state, job.attempt, job.delivery, job.worker, job.result) == ("succeeded", 1, 1, None, {"a": 1})
    assert states(job) == [("ready", 0), ("running", 1), ("succeeded", 1)]
    attempt = Attempt.objects.get(job=job)
    assert (attempt.number, attempt.worker, attempt.host, attempt.pid, attempt.outcome) == (
        1,
        worker.session,
        "a-host",
        42,
        "succeeded",
    )
    assert attempt.ended_at is not None
    assert job.finished_at is not None
    assert (attempt.ended_at - attempt.started_at).total_seconds() == pytest.approx(0.5)
    assert (job.started_at, job.finished_at) == (attempt.started_at, attempt.ended_at)


def test_those_admitted_are_told_by_their_place_and_the_others_left_to_the_recorder(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    plain = submit(namespace, "samples.add", {"a": 1})
    ended, running, held, cancelled = (submit(namespace, "samples.nothing", {}) for _ in range(4))
    worker.do(ended, result=Json("1"))
    worker.start(running)
    held = control.hold(held.id, "the test")
    Job.objects.filter(id=cancelled.id).update(cancel_requested_at=datetime.now(UTC))
    late = submit(namespace, "samples.nothing", {})
    Job.objects.filter(id=late.id).update(delivery=5)
    void = submit(namespace, "samples.nothing", {})
    expires = sample_tasks.nothing.enqueue(namespace=namespace, ask=Ask(expires=60))
    limited, timed, once = (submit(namespace, "samples.nothing", {}) for _ in range(3))
    Job.objects.filter(id=limited.id).update(limits={"key": "k", "limit": 1})
    Job.objects.filter(id=timed.id).update(timeout=5.0)
    Job.objects.filter(id=once.id).update(on_death="fail")
    jobs = [ended, running, held, cancelled, late, expires, limited, timed, once, plain]
    starts = [start_of(job, worker) for job in jobs]
    starts.append(Start(void.id, 1, worker.session, 7))
    found = admit(conninfo, *starts)
    assert found == {
        jobs.index(plain): Started(
            Run(plain.id, 1, worker.session), "samples.add", namespace, '{"a": 1}', deferred=True
        )
    }


def test_a_job_whose_row_somebody_holds_is_not_admitted(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", [job.id])
        assert admit(conninfo, start_of(job, worker)) == {}


def test_a_failure_and_what_follows_from_it_are_as_of_any_attempt(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.fail", {})
    run, start = admitted(conninfo, job, worker)
    written = finish(worker, run, start, "failed", error=ERROR, pause=60.0)
    assert written.finishes == {run: "waiting"}
    assert states(job) == [("ready", 0), ("running", 1), ("waiting", 1)]
    assert [attempt.outcome for attempt in Attempt.objects.filter(job=job)] == ["failed"]


def test_a_line_of_the_log_brings_the_start_before_it(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    line = LogLine(run, datetime.now(UTC), "info", "a line")
    assert worker.write(Batch(notes=[line], deferred={run: start})).recorded == {run}
    job.refresh_from_db()
    assert (job.state, job.attempt, job.worker) == ("running", 1, worker.session)
    assert worker.finish(run, "succeeded", result=Json("1")) == "succeeded"
    kinds = [event.kind for event in events.after(job.id)]
    assert kinds == ["state", "state", "log", "state"]


def test_a_line_and_the_end_in_one_batch_keep_their_order(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    line = LogLine(run, datetime.now(UTC), "info", "a line")
    end = Finish(run, "succeeded", result=Json("1"))
    worker.write(Batch(notes=[line], finishes=[end], deferred={run: start}))
    assert [event.data.get("state") or event.data["text"] for event in events.after(job.id)] == [
        "ready",
        "running",
        "a line",
        "succeeded",
    ]


def test_a_start_that_is_wanted_on_record_is_recorded(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    for _ in range(2):  # the answer to the first may have been lost
        worker.write(Batch(deferred={run: start}, records=[run]))
    job.refresh_from_db()
    assert (job.state, job.attempt, job.worker) == ("running", 1, worker.session)
    assert states(job) == [("ready", 0), ("running", 1)]


def test_an_end_written_twice_because_the_first_answer_was_lost_takes_effect_once(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    finish(worker, run, start)
    assert finish(worker, run, start).refused == {run: "succeeded"}
    assert states(job) == [("ready", 0), ("running", 1), ("succeeded", 1)]


def test_a_worker_that_was_taken_for_dead_is_refused(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    bury(worker)
    assert finish(worker, run, start).refused == {run: None}
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("ready", 0)


def test_who_comes_after_another_attempt_has_begun_is_refused(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    assert isinstance(Worker(conninfo, session + 1000).start(job, delivery=2), Started)
    assert finish(worker, run, start).refused == {run: None}
    job.refresh_from_db()
    assert (job.state, job.attempt, job.worker) == ("running", 1, session + 1000)


def test_an_end_is_put_off_while_somebody_holds_the_row(conninfo: str, namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    run, start = admitted(conninfo, job, worker)
    with psycopg.connect(conninfo) as holder:
        holder.execute("SELECT FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", [job.id])
        assert finish(worker, run, start).put_off == {job.id}
    assert finish(worker, run, start).finishes == {run: "succeeded"}


def test_what_a_worker_has_in_its_hands_is_cancelled_by_asking_it(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.nothing", {})
    hold_message(job, worker)
    run, start = admitted(conninfo, job, worker)
    cancelled = control.cancel(job.id, "the test")
    assert cancelled.state == "ready"
    assert cancelled.cancel_requested_at is not None
    assert finish(worker, run, start).finishes == {run: "succeeded"}  # it was done already


def test_what_a_worker_has_but_did_not_begin_is_cancelled_when_it_would(
    conninfo: str, namespace: str, worker: Worker
) -> None:
    job = submit(namespace, "samples.nothing", {})
    hold_message(job, worker)
    control.cancel(job.id, "the test")
    assert admit(conninfo, start_of(job, worker)) == {}
    worker.start(job)
    job.refresh_from_db()
    assert job.state == "cancelled"


@pytest.mark.parametrize("action", [control.hold, control.edit])
def test_what_a_worker_has_in_its_hands_is_not_changed_under_them(
    namespace: str, worker: Worker, action: object
) -> None:
    job = submit(namespace, "samples.nothing", {})
    hold_message(job, worker)
    with pytest.raises(WrongState, match="about to begin"):
        action(job.id, "the test")  # type: ignore[operator]


def test_a_consumer_that_is_no_worker_has_nothing_in_its_hands(namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.nothing", {})
    hold_message(job, worker)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE msgweb.session SET kind = 'gateway' WHERE id = %s", [worker.session])
    assert control.cancel(job.id, "the test").state == "cancelled"


def test_what_a_dead_worker_had_begun_is_an_attempt_and_its_death_counts(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    job = submit(namespace, "samples.nothing", {})
    admitted(conninfo, job, worker)
    bury(worker)
    next_one = Worker(conninfo, session + 1000)
    started = next_one.start(job, delivery=2)
    assert isinstance(started, Started)
    assert started.run == Run(job.id, 2, next_one.session)
    job.refresh_from_db()
    assert (job.state, job.attempt, job.deaths, job.failures) == ("running", 2, 1, 0)
    first, second = Attempt.objects.filter(job=job).order_by("number")
    assert (first.number, first.worker, first.host, first.pid, first.outcome) == (
        1,
        session,
        "a-host",
        42,
        "interrupted",
    )
    assert first.error is not None
    assert first.error["code"] == "worker_died"
    assert (second.number, second.outcome) == (2, "")
    assert states(job) == [("ready", 0), ("running", 1), ("running", 2)]
    assert job.started_at == first.started_at


def test_what_a_dead_worker_had_recorded_is_not_counted_again(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    failed, recorded = (submit(namespace, "samples.fail", {}) for _ in range(2))
    runs = admit(conninfo, start_of(failed, worker), start_of(recorded, worker))
    finish(worker, runs[0].run, start_of(failed, worker), "failed", error=ERROR, pause=0.0)
    worker.write(Batch(deferred={runs[1].run: start_of(recorded, worker)}, records=[runs[1].run]))
    bury(worker)
    for job in (failed, recorded):
        job.refresh_from_db()
        assert Worker(conninfo, session + 1000).run(job, 2, job.ticket).attempt == 2


def test_a_worker_that_lives_and_gave_a_job_back_had_not_begun_it(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    job = submit(namespace, "samples.nothing", {})
    admitted(conninfo, job, worker)
    started = Worker(conninfo, session + 1000).start(job, delivery=2)
    assert isinstance(started, Started)
    assert started.run.attempt == 1


def test_what_is_settled_is_forgotten_unless_the_worker_was_taken_for_dead(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    one, two = (submit(namespace, "samples.nothing", {}) for _ in range(2))
    admit(conninfo, start_of(one, worker), number=1)
    admit(conninfo, start_of(two, worker), number=2, settled=[(session, 1)])
    assert traces() == 1
    bury(worker)
    assert admit(conninfo, number=3, settled=[(session, 2)]) == {}
    assert traces() == 1
    assert prune() == 0  # the job has not been begun again
    Worker(conninfo, session + 1000).start(two, delivery=2)
    assert prune() == 1


def test_a_batch_of_two_sessions_names_each_by_its_own(
    conninfo: str, namespace: str, worker: Worker, session: int
) -> None:
    jobs = [submit(namespace, "samples.nothing", {}) for _ in range(3)]
    other = Worker(conninfo, session + 1000)
    starts = [start_of(jobs[0], other), start_of(jobs[1], worker), start_of(jobs[2], other)]
    found = admit(conninfo, *starts)
    assert [(found[place].run.job, found[place].run.worker) for place in range(3)] == [
        (jobs[0].id, other.session),
        (jobs[1].id, session),
        (jobs[2].id, other.session),
    ]
    assert traces() == 2
