"""The testing kit, steps and checkpoints among it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from apps.accounts.models import Namespace
from apps.jobs import JobCancelled, JobContext, control, current_job, task, testing
from apps.jobs.asking import Ask
from apps.jobs.context import at_work
from apps.jobs.errors import Superseded
from apps.jobs.models import Event, Job, Step
from apps.jobs.steps import KeptSteps
from msgweb.database import conninfo_of
from tests import sample_django_tasks, sample_tasks

pytestmark = pytest.mark.django_db
calls: list[Any] = []


@task(name="testing.steps", max_attempts=3)
def stepwise(context: JobContext, *, fail_at: str = "") -> list[int]:
    """Three steps; fails behind one, the first time."""

    def work(name: str, value: int) -> int:
        calls.append(name)
        return value

    found = []
    for value, name in enumerate(("one", "two", "three")):
        found.append(context.step(name, work, name, value))
        if name == fail_at and context.attempt == 1:
            raise ValueError(name)
    return found


@task(name="testing.async_steps", max_attempts=3)
async def async_steps(context: JobContext) -> int:
    """A step of a coroutine; fails behind it, the first time."""

    async def work() -> int:
        context.progress(1, 2, "at work")
        calls.append("async")
        return 7

    found = await context.astep("one", work)
    if context.attempt == 1:
        raise ValueError
    return found


@task(name="testing.asks_for_itself")
def asks_for_itself(context: JobContext) -> None:
    """Without end."""
    asks_for_itself.enqueue(namespace=context.namespace)


@pytest.fixture
def namespace() -> str:
    calls.clear()
    return Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name


def test_what_is_done_stays_done(namespace: str) -> None:
    job = stepwise.enqueue(namespace=namespace, fail_at="two")
    testing.run_due()
    job.refresh_from_db()
    assert job.state == "waiting"
    testing.advance(100)
    testing.run_due()
    job.refresh_from_db()
    assert (job.state, job.result) == ("succeeded", [0, 1, 2])
    assert calls == ["one", "two", "three"]
    assert list(Step.objects.order_by("id").values_list("name", "attempt", "result")) == [
        ("one", 1, 0),
        ("two", 1, 1),
        ("three", 2, 2),
    ]


def test_so_it_does_in_a_coroutine(namespace: str, transactional_db: None) -> None:
    job = async_steps.enqueue(namespace=namespace)
    testing.run_due()
    testing.advance(100)
    testing.run_due()
    job.refresh_from_db()
    assert (job.state, job.result, calls) == ("succeeded", 7, ["async"])
    assert job.progress.text == "at work"


def test_an_attempt_that_is_not_the_jobs_any_more_keeps_nothing(namespace: str) -> None:
    job = stepwise.enqueue(namespace=namespace)
    Job.objects.filter(id=job.id).update(state="running", attempt=2)
    late = KeptSteps(job.id, 1)
    with pytest.raises(Superseded):
        late.keep("one", 1)
    now = KeptSteps(job.id, 2)
    assert now.find("one") is None
    assert now.keep("one", (1, 2)) == [1, 2]
    assert KeptSteps(job.id, 3).find("one") == ([1, 2],)
    late.forget()
    assert KeptSteps(job.id, 3).find("one") is not None
    now.forget()
    assert now.find("one") is KeptSteps(job.id, 3).find("one") is None


def test_an_atomic_step_and_its_record_happen_together(namespace: str) -> None:
    job = stepwise.enqueue(namespace=namespace)
    Job.objects.filter(id=job.id).update(state="running", attempt=1)
    run = testing.InlineRun()
    context = JobContext(job.id, 1, namespace, run, KeptSteps(job.id, 1))
    made = uuid.uuid4()

    def work() -> None:
        Namespace.objects.create(name=f"made.t{made.hex}")
        Job.objects.filter(id=job.id).update(attempt=2)  # another attempt begins meanwhile

    with pytest.raises(Superseded):
        context.step("one", work, atomic=True)
    assert not Namespace.objects.filter(name=f"made.t{made.hex}").exists()


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b"])
def test_a_step_needs_a_name(name: str) -> None:
    with pytest.raises(ValueError):
        JobContext(uuid.uuid4(), 1, "a.b", testing.InlineRun()).step(name, int)


def test_progress_log_and_steps_are_checkpoints_once_and_a_shield_stops_them() -> None:
    run = testing.InlineRun(cancel_when=lambda _run: True)

    def context() -> JobContext:
        return JobContext(uuid.uuid4(), 1, "a.b", run)

    for say in (
        lambda one: one.progress(1, 2),
        lambda one: one.log("x"),
        lambda one: one.step("x", int),
        lambda one: one.checkpoint(),
    ):
        one = context()
        assert one.cancelled
        with one.shield():
            say(one)
        with pytest.raises(JobCancelled):
            say(one)
        one.progress(2, 2)  # whoever clears up may say so
        with pytest.raises(JobCancelled):
            one.checkpoint()


def test_the_current_job_is_known_to_who_is_not_handed_it() -> None:
    with pytest.raises(LookupError):
        current_job()
    context = JobContext(uuid.uuid4(), 1, "a.b", testing.InlineRun())
    with at_work(context):
        assert current_job() is context


def test_inline_what_is_enqueued_runs_at_once(namespace: str) -> None:
    with testing.inline():
        job = sample_tasks.add.enqueue(namespace=namespace, a=1)
        assert (job.state, job.result) == ("succeeded", {"sum": 2})
        assert sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(delay=5)).state == "scheduled"
        assert sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(hold=True)).state == "ready"
        failed = sample_tasks.returns_nonsense.enqueue(namespace=namespace)
        assert (failed.state, failed.error["code"]) == ("failed", "bad_result")
        assert sample_django_tasks.double.enqueue(4).return_value == 8
    assert sample_tasks.add.enqueue(namespace=namespace, a=1).state == "ready"


def test_inline_awaited_too_in_the_transaction_of_the_test() -> None:
    async def main() -> None:
        with testing.inline():
            double = await sample_django_tasks.double.aenqueue(4)
            assert (double.status, double.return_value) == ("SUCCESSFUL", 8)
            assert (await sample_django_tasks.asleep.aenqueue(5)).return_value == 5
            fails = await sample_django_tasks.fails.aenqueue("broken")
            assert (fails.status, fails.errors[0].exception_class_path) == ("FAILED", "builtins.ValueError")
            later = datetime.now(UTC) + timedelta(hours=1)
            waits = await sample_django_tasks.double.using(run_after=later).aenqueue(1)
            assert waits.status == "READY"
        # Elsewhere, nobody sees anything of it.
        elsewhere = await psycopg.AsyncConnection.connect(conninfo_of(connection.settings_dict))
        async with elsewhere:
            cursor = await elsewhere.execute("SELECT count(*) FROM jobs_job")
            assert await cursor.fetchone() == (0,)
        assert await Job.objects.acount() == 4

    async_to_sync(main)()


def test_what_is_due_runs_in_order_and_says_what_it_did(namespace: str) -> None:
    last = sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(priority=0))
    talks = sample_tasks.talk.enqueue(namespace=namespace)
    held = sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(hold=True))
    cancelled = sample_tasks.add.enqueue(namespace=namespace, a=1)
    control.cancel(cancelled.id, "")
    assert [job.id for job in testing.run_due()] == [talks.id, last.id]
    assert Event.objects.filter(job=talks, kind="log").get().data["text"] == "by the context"
    assert last.progress.done == 3
    assert testing.run_job(held).state == "ready"


def test_limits_hold_here_too(namespace: str) -> None:
    jobs = [sample_tasks.paced.enqueue(namespace=namespace) for _ in range(4)]
    assert len(testing.run_due()) == 2
    testing.advance(61)
    assert len(testing.run_due()) == 2
    assert {Job.objects.get(id=job.id).state for job in jobs} == {"succeeded"}


def test_what_does_not_end_is_found_out(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "RUNS_LIMIT", 20)
    asks_for_itself.enqueue(namespace=namespace)
    with pytest.raises(AssertionError, match="does a task ask for itself"):
        testing.run_due()


def test_it_is_asserted_what_was_enqueued(namespace: str) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1, b=2)
    sample_tasks.add.enqueue(namespace=namespace, a=2)
    assert testing.assert_enqueued(sample_tasks.add, a=1).id == job.id
    testing.assert_enqueued(sample_tasks.add, count=2)
    testing.assert_not_enqueued(sample_tasks.add, a=3)
    testing.assert_not_enqueued(sample_tasks.fail)
    with pytest.raises(AssertionError, match=r"enqueued 2 times, not 3 times.*samples\.add \{'a': 1, 'b': 2\}"):
        testing.assert_enqueued(sample_tasks.add, count=3)
    with pytest.raises(AssertionError, match="at least once"):
        testing.assert_enqueued(sample_tasks.add, a=9)
    with pytest.raises(AssertionError):
        testing.assert_not_enqueued(sample_tasks.add)
    with transaction.atomic():
        sample_django_tasks.echo.enqueue(1, name="x")
        transaction.set_rollback(False)
    testing.assert_enqueued(sample_django_tasks.echo, args=[1])
    testing.assert_enqueued(sample_django_tasks.echo, name="x", count=1)
