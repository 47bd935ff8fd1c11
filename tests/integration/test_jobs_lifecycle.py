"""A job's life beside its attempts: later, unique, limited, expired; what a worker's death brings."""

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from apps.broker import queue_settings
from apps.jobs import control, events
from apps.jobs.asking import Ask
from apps.jobs.models import Attempt, Job, Permit, Step
from apps.jobs.records import NotStarted, Started
from apps.jobs.submit import submit
from msgweb.errors import BadRequest, LimitExceeded
from tests import sample_tasks
from tests.recording import Worker, messages, pass_time, upkeep

pytestmark = pytest.mark.django_db(transaction=True)
ERROR = {"code": "task_error", "message": "no", "traceback": "long"}


@pytest.fixture
def other(conninfo: str) -> Worker:
    return Worker(conninfo, 102)


def state(job: Job) -> str:
    job.refresh_from_db()
    return job.state


def causes(job: Job) -> list[tuple[str, str | None]]:
    """The states that it went through, and why."""
    return [(event.data["state"], event.data.get("text")) for event in events.states(job.id)]


# Later


def test_a_delayed_job_is_scheduled_then_ready(namespace: str, worker: Worker) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(delay=60))
    assert job.state == "scheduled"
    assert job.run_at is not None
    ((_, _, delay),) = messages(namespace, "samples")
    assert delay is not None
    assert 50 < delay <= 60
    upkeep()
    assert state(job) == "scheduled"
    pass_time(60)
    upkeep()
    assert state(job) == "ready"
    assert causes(job) == [("scheduled", None), ("ready", "its time has come")]
    assert worker.do(job) == "succeeded"


def test_a_moment_that_has_passed_is_now(namespace: str) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    job = sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(run_at=past))
    assert job.state == state(job) == "ready"
    assert messages(namespace, "samples")[0][2] is None


def test_a_request_that_contradicts_itself_is_refused() -> None:
    for given in (
        {"delay": -1},
        {"delay": 1, "run_at": datetime.now(UTC)},
        {"run_at": datetime(2030, 1, 1)},  # noqa: DTZ001  that is what is wrong with it
        {"expires": float("nan")},
        {"result_as": "a"},
    ):
        with pytest.raises(BadRequest):
            Ask(**given)  # type: ignore[arg-type]


# Again


def test_a_retry_waits_in_the_database_with_a_message_of_its_own(namespace: str, worker: Worker) -> None:
    job = sample_tasks.fail.enqueue(namespace=namespace)
    started = worker.begin(job)
    assert isinstance(started, Started)
    assert started.failures == 0
    assert worker.finish(started.run, "failed", error=ERROR, pause=100.0) == "waiting"
    old, new = messages(namespace, "samples")
    assert "job-ticket" not in old[0]
    assert new[0]["job-ticket"] == "1"
    assert new[2] is not None
    assert 90 < new[2] <= 100
    job.refresh_from_db()
    assert job.run_at is not None
    assert worker.start(job, 2) == NotStarted("final")  # the old message again, after its worker died
    again = worker.begin(job)
    assert isinstance(again, Started)
    assert again.failures == 1
    assert worker.finish(again.run, "failed", error=ERROR) == "failed"
    assert [attempt.error for attempt in Attempt.objects.filter(job=job)] == [ERROR, ERROR]


def test_a_retry_whose_queue_is_full_is_sent_when_there_is_room(namespace: str, worker: Worker) -> None:
    job = sample_tasks.fail.enqueue(namespace=namespace)
    started = worker.begin(job)
    assert isinstance(started, Started)
    queue_settings.change(namespace, "samples", {"max_length": 1})
    with pytest.raises(LimitExceeded):
        sample_tasks.fail.enqueue(namespace=namespace)
    assert worker.finish(started.run, "failed", error=ERROR, pause=0.0) == "waiting"
    assert len(messages(namespace, "samples")) == 1
    queue_settings.change(namespace, "samples", {"max_length": None})
    upkeep()
    assert len(messages(namespace, "samples")) == 2
    assert isinstance(worker.begin(job), Started)


# Unique


def test_a_unique_job_is_asked_for_once_while_it_is_open(namespace: str, worker: Worker) -> None:
    first = sample_tasks.unique.enqueue(namespace=namespace, a=1)
    assert sample_tasks.unique.enqueue(namespace=namespace, a=1).id == first.id
    assert sample_tasks.unique.enqueue(namespace=namespace, a=2).id != first.id
    assert len(messages(namespace, "samples")) == 2
    worker.do(first)
    assert sample_tasks.unique.enqueue(namespace=namespace, a=1).id != first.id


def test_a_window_and_states_say_what_stands_in_the_way(namespace: str, worker: Worker) -> None:
    ask = sample_tasks.unique_hour.enqueue
    first, second = ask(namespace=namespace, a=1), ask(namespace=namespace, a=1)
    assert first.id != second.id  # neither has succeeded
    worker.do(first)
    assert ask(namespace=namespace, a=1, b=5).id == first.id
    pass_time(3601)
    assert ask(namespace=namespace, a=1).id not in (first.id, second.id)


def test_unique_jobs_that_are_asked_for_at_the_same_moment_are_one(namespace: str) -> None:
    barrier = threading.Barrier(4)
    got: list[uuid.UUID] = []

    def ask() -> None:
        barrier.wait(10)
        got.append(sample_tasks.unique.enqueue(namespace=namespace, a=1).id)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4
    assert len(set(got)) == 1
    assert Job.objects.count() == 1


# Limits


def test_no_more_than_the_limit_run_and_the_others_follow_in_order(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1) for _ in range(4)]
    elsewhere = sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=2)
    first, second = worker.begin(jobs[0]), worker.begin(jobs[1])
    assert isinstance(first, Started)
    assert isinstance(second, Started)
    assert isinstance(worker.begin(elsewhere), Started)
    for job in jobs[2:]:
        old = job.ticket
        assert worker.begin(job) == NotStarted("final")
        assert worker.start(job, 2, old) == NotStarted("final")
        assert state(job) == "ready"
    assert causes(jobs[2])[-1] == ("ready", "waits its turn: at most 2 at a time")
    waiting = len(messages(namespace, "samples"))
    worker.finish(second.run, "succeeded")
    assert len(messages(namespace, "samples")) == waiting + 1
    jobs[3].refresh_from_db()
    assert jobs[3].blocked_on is not None
    late = sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1)
    assert worker.begin(late) == NotStarted("final")  # the place was given to who waited
    assert isinstance(worker.begin(jobs[2]), Started)
    worker.finish(first.run, "failed", error=ERROR)  # a retry gives its place back as well
    assert isinstance(worker.begin(jobs[3]), Started)


def test_a_place_comes_back_when_its_job_is_cancelled_or_gone(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1) for _ in range(4)]
    for job in jobs[:2]:
        assert isinstance(worker.begin(job), Started)
    for job in jobs[2:]:
        worker.begin(job)
    Job.objects.filter(id=jobs[0].id).delete()
    upkeep()
    assert set(Permit.objects.values_list("job", flat=True)) == {jobs[1].id, jobs[2].id}
    control.cancel(jobs[2].id, "the test")  # who was given a place and did not begin yet
    assert set(Permit.objects.values_list("job", flat=True)) == {jobs[1].id, jobs[3].id}
    assert isinstance(worker.begin(jobs[3]), Started)


def test_a_job_whose_worker_died_keeps_its_place(namespace: str, worker: Worker, other: Worker) -> None:
    jobs = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1) for _ in range(3)]
    for job in jobs:
        worker.begin(job)
    again = other.start(jobs[0], 2)
    assert isinstance(again, Started)
    assert again.run.attempt == 2
    assert Permit.objects.filter(job__isnull=False).count() == 2


def test_jobs_of_a_rate_get_moments_of_their_own(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.paced.enqueue(namespace=namespace) for _ in range(5)]
    began = [isinstance(worker.begin(job), Started) for job in jobs]
    assert began == [True, True, False, False, False]
    delays = [delay for _, _, delay in messages(namespace, "samples") if delay is not None]
    assert [round(delay / 60) for delay in delays] == [1, 1, 2]
    assert [state(job) for job in jobs[2:]] == ["scheduled"] * 3
    assert isinstance(worker.begin(jobs[2]), Started)  # its message comes when its moment has come


# Expiry


def test_a_job_that_was_not_begun_in_time_expires_with_its_reply(namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.expires", {}, reply_to="answers")
    in_time = sample_tasks.expires.enqueue(namespace=namespace)
    upkeep()
    assert state(job) == "ready"
    assert isinstance(worker.begin(in_time), Started)
    pass_time(61)
    upkeep()
    assert state(job) == "expired"
    assert state(in_time) == "running"  # begun in time
    assert job.finished_at is not None
    ((headers, body, _),) = messages(namespace, "answers")
    assert headers["job-event"] == "error"
    assert b'"expired"' in body
    assert worker.begin(job) == NotStarted("final")


def test_a_job_that_is_begun_too_late_expires_there(namespace: str, worker: Worker) -> None:
    job = sample_tasks.expires.enqueue(namespace=namespace)
    pass_time(61)
    assert worker.begin(job) == NotStarted("final")
    assert state(job) == "expired"


# A worker's death


def test_a_job_that_must_not_run_twice_fails_when_its_worker_dies(
    namespace: str, worker: Worker, other: Worker
) -> None:
    job = submit(namespace, "samples.only_once", {}, reply_to="answers")
    run = worker.run(job)
    assert other.start(job, 2) == NotStarted("final")
    assert state(job) == "failed"
    assert job.error["code"] == "worker_died"
    assert [attempt.outcome for attempt in Attempt.objects.filter(job=job)] == ["interrupted"]
    assert messages(namespace, "answers")[0][0]["job-event"] == "error"
    assert worker.finish(run, "succeeded") is None


def test_so_it_does_when_its_process_dies_or_it_is_handed_back(namespace: str, worker: Worker) -> None:
    died, handed_back, tried = (sample_tasks.only_once.enqueue(namespace=namespace) for _ in range(3))
    assert worker.do(died, "failed", error={"code": "slot_died", "message": "", "traceback": ""}) == "failed"
    assert worker.do(handed_back, "interrupted") == "failed"
    assert worker.do(tried, "failed", error=ERROR) == "waiting"


@pytest.mark.parametrize(("task", "kept"), [("samples.begins_anew", 0), ("samples.only_once", 1), ("samples.hold", 1)])
def test_steps_are_forgotten_only_where_a_job_begins_anew(
    namespace: str, worker: Worker, other: Worker, task: str, kept: int
) -> None:
    arguments = {"folder": "x"} if task == "samples.hold" else {}
    job = submit(namespace, task, arguments)
    worker.run(job)
    Step.objects.create(job=job, name="one", attempt=1, result=1)
    other.start(job, 2)
    assert Step.objects.filter(job=job).count() == kept


def test_a_place_that_came_free_unseen_is_handed_on(namespace: str, worker: Worker) -> None:
    """As if it had been given back just while another job was put aside for want of it."""
    jobs = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1) for _ in range(4)]
    others = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=2) for _ in range(3)]
    for job in (*jobs, *others):
        worker.begin(job)
    Permit.objects.update(job=None)
    Job.objects.filter(id__in=[jobs[0].id, jobs[1].id, others[0].id]).update(state="succeeded")
    upkeep()
    assert set(Permit.objects.values_list("job", flat=True)) == {jobs[2].id, jobs[3].id, others[2].id, None}
    assert isinstance(worker.begin(others[2]), Started)


def test_places_that_nobody_needs_go_when_there_are_many(namespace: str, worker: Worker) -> None:
    taken, blocked = (sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=n) for n in (1, 2))
    worker.begin(taken)
    worker.begin(blocked)
    Permit.objects.bulk_create(Permit(key=f"idle {n}", number=1) for n in range(20))
    with connection.cursor() as cursor:
        for beyond, left in ((100, 24), (10, 4)):
            cursor.execute("SELECT msgweb.prune_permits(%s, 1000)", [beyond])
            assert Permit.objects.count() == left
