"""What the death of a worker, or of a job's own process, brings: at once the first time, then after pauses, and at last
an end."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from apps.jobs import control, deaths, events
from apps.jobs.models import Attempt, Job, Step
from apps.jobs.records import Batch, NotStarted, Run, Started, Stopping
from apps.jobs.submit import submit
from tests import sample_tasks
from tests.recording import Worker, messages

pytestmark = pytest.mark.django_db(transaction=True)
DIED = {"code": "slot_died", "message": "the process of the job was ended by SIGKILL", "traceback": ""}
ERROR = {"code": "task_error", "message": "no", "traceback": ""}


@pytest.fixture
def other(conninfo: str) -> Worker:
    return Worker(conninfo, 102)


@pytest.fixture
def job(namespace: str) -> Job:
    """One that may outlive two workers."""
    return submit(namespace, "samples.kill_worker", {"folder": ""}, reply_to="answers")


def again(job: Job, worker: Worker) -> Started | NotStarted:
    """The worker that had it is gone: its message comes to another."""
    job.refresh_from_db()
    return worker.start(job, job.delivery + 1, job.ticket)


def what_happened(job: Job) -> list[str]:
    return [" ".join(filter(None, [one.data["state"], one.data.get("text")])) for one in events.states(job.id)]


def delays(job: Job) -> list[float]:
    """Seconds until each of its messages comes."""
    return [delay or 0.0 for _, _, delay in messages(job.namespace, "samples")]


def test_after_a_workers_death_a_job_is_begun_at_once_then_after_a_pause_and_at_last_it_has_failed(
    job: Job, worker: Worker, other: Worker
) -> None:
    worker.run(job)
    started = again(job, other)
    assert isinstance(started, Started)
    assert (started.run.attempt, started.failures) == (2, 0)
    assert again(job, worker) == NotStarted("final")  # the second death: not at once
    job.refresh_from_db()
    assert (job.state, job.deaths, job.failures, job.error["code"]) == ("waiting", 2, 0, "worker_died")
    assert delays(job)[-1] > 0.1
    assert worker.start(job, 9, ticket=0) == NotStarted("final")  # the message of before is void
    assert isinstance(worker.begin(job), Started)
    assert again(job, other) == NotStarted("final")
    job.refresh_from_db()
    assert (job.state, job.deaths, job.failures, job.worker) == ("failed", 3, 0, None)
    assert job.error == {
        "code": "too_many_deaths",
        "message": "3 workers in a row died in the midst of it: it is given up",
        "traceback": "",
    }
    assert [one.outcome for one in Attempt.objects.filter(job=job)] == ["interrupted"] * 3
    assert [one.error["code"] for one in Attempt.objects.filter(job=job)] == [
        "worker_died",
        "worker_died",
        "too_many_deaths",
    ]
    assert what_happened(job) == [
        "ready",
        "running",
        "running taken up again: attempt 1 was interrupted (deaths of its workers: 1)",
        "waiting death 2 in a row, of 3 at most; again in 0.2 s",
        "running",
        "failed",
    ]
    assert [headers["job-event"] for headers, _, _ in messages(job.namespace, "answers")] == ["error"]
    assert other.begin(job) == NotStarted("final")


def test_tried_again_by_hand_it_may_outlive_as_many_workers_as_before(job: Job, worker: Worker) -> None:
    worker.run(job)
    for _ in range(2):
        again(job, worker)
    Job.objects.filter(id=job.id).update(state="failed")
    control.retry(job.id, "")
    job.refresh_from_db()
    assert job.deaths == 0
    assert isinstance(worker.begin(job), Started)
    assert isinstance(again(job, worker), Started)


def test_a_step_done_since_makes_it_the_first_death(job: Job, worker: Worker) -> None:
    for attempt in range(1, 8):
        started = worker.begin(job) if attempt == 1 else again(job, worker)
        assert isinstance(started, Started)
        Step.objects.create(job=job, name=f"step {attempt}", attempt=attempt, result=None)
    assert again(job, worker).run.attempt == 8  # type: ignore[union-attr]
    job.refresh_from_db()
    assert job.deaths == 1
    assert again(job, worker) == NotStarted("final")  # no step since


def test_where_a_job_begins_anew_its_steps_are_no_way_forward_and_are_forgotten(namespace: str, worker: Worker) -> None:
    job = sample_tasks.begins_anew.enqueue(namespace=namespace)
    worker.run(job)
    for deaths_so_far in (1, 2):
        Step.objects.create(job=job, name="one", attempt=deaths_so_far, result=1)
        again(job, worker)
        job.refresh_from_db()
        assert job.deaths == deaths_so_far
    assert job.state == "waiting"
    assert isinstance(worker.begin(job), Started)
    assert not Step.objects.filter(job=job).exists()


def test_a_worker_that_had_been_told_to_stop_costs_nothing_when_it_is_killed(job: Job, worker: Worker) -> None:
    for attempt in range(1, 6):
        started = worker.begin(job) if attempt == 1 else again(job, worker)
        assert isinstance(started, Started)
        assert started.run.attempt == attempt
        worker.write(Batch(notes=[Stopping(started.run, datetime.now(UTC))]))
    job.refresh_from_db()
    assert (job.deaths, job.state) == (0, "running")
    late = Run(job.id, 1, worker.session)
    assert worker.write(Batch(notes=[Stopping(late, datetime.now(UTC))])).refused == {late: None}
    assert Attempt.objects.filter(job=job, error__isnull=False).count() == 0


def test_to_be_handed_back_neither_counts_nor_makes_good(job: Job, worker: Worker) -> None:
    worker.run(job)
    started = again(job, worker)
    assert isinstance(started, Started)
    assert worker.finish(started.run, "interrupted", note="handed back") == "ready"
    job.refresh_from_db()
    assert job.deaths == 1
    assert isinstance(again(job, worker), Started)
    job.refresh_from_db()
    assert job.deaths == 1


def test_a_death_is_counted_though_a_limit_puts_the_job_aside(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.paced.enqueue(namespace=namespace) for _ in range(2)]
    for one in jobs:
        worker.run(one)
    assert again(jobs[0], worker) == NotStarted("final")  # two a minute have begun already
    jobs[0].refresh_from_db()
    assert (jobs[0].state, jobs[0].deaths) == ("scheduled", 1)


def test_the_first_death_of_its_process_is_followed_at_once_the_next_after_the_tasks_pause(
    namespace: str, worker: Worker
) -> None:
    job = sample_tasks.begins_anew.enqueue(namespace=namespace)
    assert worker.do(job, "failed", error=ERROR, pause=50.0) == "waiting"
    assert worker.do(job, "failed", error=DIED, pause=50.0) == "waiting"
    assert worker.do(job, "failed", error=DIED, pause=50.0) == "waiting"
    job.refresh_from_db()
    assert (job.failures, job.deaths) == (3, 0)
    _, first, second, third = delays(job)
    assert first > 40
    assert second == 0
    assert third > 40


def test_what_was_begun_on_paper_only_is_no_end_even_where_a_death_would_be(namespace: str, worker: Worker) -> None:
    job = sample_tasks.only_once.enqueue(namespace=namespace)
    assert worker.do(job, "unbegun", note="handed back") == "ready"
    assert [one.outcome for one in Attempt.objects.filter(job=job)] == ["interrupted"]
    assert worker.finish(again(job, worker).run, "interrupted") == "failed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "deaths_then", "pause"),
    [
        ({"deaths": 0}, 1, 0.0),
        ({"deaths": 1}, 2, 0.2),
        ({"deaths": 2}, 3, None),
        ({"deaths": 7}, 8, None),
        ({"deaths": 7, "further": True}, 1, 0.0),
        ({"deaths": 7, "stopping": True}, 7, 0.0),
        ({"deaths": 8, "task": "of.another.version"}, 9, 128.0),
        ({"deaths": 9, "task": "of.another.version"}, 10, None),
    ],
)
def test_the_verdict(given: dict[str, Any], deaths_then: int, pause: float | None) -> None:
    asked = {"task": "samples.kill_worker", "stopping": False, "further": False, **given}
    verdict = deaths.judge(uuid.uuid4(), **asked)
    assert verdict.deaths == deaths_then
    assert verdict.pause == (pause and pytest.approx(pause, rel=0.21))
