"""What may be done with jobs from outside, one by one and all that match."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.jobs import control
from apps.jobs.asking import Ask
from apps.jobs.control import Changes
from apps.jobs.errors import UnknownJob, WrongState
from apps.jobs.models import Event, Job, Permit, Step
from apps.jobs.records import NotStarted, Started
from apps.jobs.selection import Selection, apply
from apps.jobs.submit import submit
from msgweb.errors import BadArguments, BadDestination, BadMessage, BadRequest
from tests import sample_tasks
from tests.recording import Worker, messages, upkeep

pytestmark = pytest.mark.django_db(transaction=True)
ERROR = {"code": "task_error", "message": "no", "traceback": "long"}


def cause(job: Job) -> str | None:
    """Of its latest change."""
    event = Event.objects.filter(job=job, kind=Event.Kind.STATE).latest("id")
    return event.data.get("text")  # type: ignore[no-any-return]


def test_a_job_that_failed_is_tried_again_with_all_its_attempts(namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.fail", {}, reply_to="answers")
    worker.do(job, "failed", error=ERROR, pause=0.0)
    worker.do(job, "failed", error=ERROR)
    Step.objects.create(job=job, name="done", attempt=1)
    assert len(messages(namespace, "answers")) == 1
    again = control.retry(job.id, "the test")
    assert (again.state, again.failures, again.attempt, again.finished_at) == ("ready", 0, 2, None)
    assert cause(job) == "tried again by the test"
    assert worker.do(job, "failed", error=ERROR, pause=0.0) == "waiting"
    assert worker.do(job, "succeeded") == "succeeded"
    assert Step.objects.filter(job=job).exists()
    assert len(messages(namespace, "answers")) == 1  # who asked had the reply
    with pytest.raises(WrongState):
        control.retry(job.id, "the test")


def test_a_job_that_waits_for_its_next_attempt_is_tried_at_once(namespace: str, worker: Worker) -> None:
    job = sample_tasks.fail.enqueue(namespace=namespace)
    worker.do(job, "failed", error=ERROR, pause=1000.0)
    assert control.retry(job.id, "").failures == 1
    assert messages(namespace, "samples")[-1][2] is None
    assert isinstance(worker.begin(job), Started)


def test_a_held_job_does_not_begin_until_it_is_released(namespace: str, worker: Worker) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert control.hold(job.id, "the test").held_at is not None
    assert control.hold(job.id, "the test").ticket == 1
    assert worker.start(job, 1, 0) == NotStarted("final")
    assert worker.begin(job) == NotStarted("final")
    upkeep()
    released = control.release(job.id, "the test")
    assert released.held_at is None
    assert cause(job) == "released by the test"
    assert control.release(job.id, "the test").ticket == released.ticket
    assert worker.do(job) == "succeeded"
    with pytest.raises(WrongState):
        control.hold(job.id, "the test")
    with pytest.raises(WrongState):
        control.release(job.id, "the test")


def test_a_job_may_be_asked_for_held(namespace: str, worker: Worker) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1, ask=Ask(hold=True))
    assert job.held_at is not None
    assert messages(namespace, "samples") == []
    control.release(job.id, "the test")
    assert worker.do(job) == "succeeded"


def test_a_held_job_lets_others_have_its_place(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.two_at_a_time.enqueue(namespace=namespace, customer=1) for _ in range(4)]
    first = worker.begin(jobs[0])
    for job in jobs[1:]:
        worker.begin(job)
    control.hold(jobs[2].id, "")
    assert isinstance(first, Started)
    worker.finish(first.run, "succeeded")
    assert set(Permit.objects.values_list("job", flat=True)) == {jobs[1].id, jobs[3].id}
    control.hold(jobs[3].id, "")
    assert Permit.objects.filter(job=None).count() == 1
    control.release(jobs[2].id, "")
    assert isinstance(worker.begin(jobs[2]), Started)


def test_a_waiting_job_is_edited(namespace: str, worker: Worker) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert control.edit(job.id, "x", Changes(run_at=later)).state == "scheduled"
    edited = control.edit(job.id, "the test", Changes(priority=9, run_at=datetime.now(UTC)), arguments={"a": 5})
    assert (edited.state, edited.priority, edited.arguments) == ("ready", 9, {"a": 5})
    assert cause(job) == "edited: arguments, priority, time by the test"
    assert json.loads(messages(namespace, "samples")[-1][1]) == {"a": 5}
    assert control.edit(job.id, "", Changes(queue="elsewhere")).queue == "elsewhere"
    assert len(messages(namespace, "elsewhere")) == 1
    with pytest.raises(BadArguments):
        control.edit(job.id, "", arguments={"z": 5})
    worker.begin(job)
    with pytest.raises(WrongState):
        control.edit(job.id, "", Changes(priority=1))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"priority": 10}, BadMessage),
        ({"queue": ""}, BadDestination),
        ({"queue": "/topic/x"}, BadDestination),
        ({"queue": "a\0b"}, BadDestination),
        ({"run_at": datetime(2030, 1, 1)}, BadRequest),  # noqa: DTZ001  that is what is wrong with it
    ],
)
def test_changes_that_cannot_be_are_refused_before_any_job_is_touched(wrong: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        Changes(**wrong)


def test_a_job_is_run_again_as_another(namespace: str, worker: Worker) -> None:
    job = submit(namespace, "samples.add", {"a": 1}, reply_to="answers", priority=7)
    worker.do(job)
    again, other = control.rerun(job.id, "the test"), control.rerun(job.id, "the test", arguments={"a": 2})
    assert len({job.id, again.id, other.id}) == 3
    assert (again.arguments, other.arguments) == ({"a": 1}, {"a": 2})
    assert (again.priority, again.reply_to, again.requested_by) == (7, "", "the test")
    with pytest.raises(BadArguments):
        control.rerun(job.id, "", arguments={})
    with pytest.raises(UnknownJob):
        control.rerun(uuid.uuid4(), "")


def test_all_that_match(namespace: str, worker: Worker) -> None:
    failed = [sample_tasks.only_once.enqueue(namespace=namespace) for _ in range(5)]
    for job in failed:
        worker.do(job, "failed", error=ERROR, again=False)
    other = sample_tasks.add.enqueue(namespace=namespace, a=1)
    some = Selection(namespace=namespace, state="failed", task="samples.only_once", error="task_error")
    first = apply("retry", some, "the test", most=2)
    assert (first.done, first.refused) == (2, 0)
    rest = apply("retry", some, "the test", beyond=first.last)
    assert rest.done == 3
    assert rest.last is None
    assert {job.state for job in Job.objects.all()} == {"ready"}
    everything = Selection(namespace=namespace)
    assert apply("hold", everything, "").done == 6
    assert apply("release", Selection(held=True, namespaces=["no.such"]), "").done == 0
    worker.begin(other)
    assert apply("release", Selection(held=True), "").done == 6
    worker.do(other)
    answer = apply("cancel", everything, "")
    assert (answer.done, answer.refused) == (5, 1)
    assert "succeeded" in answer.reasons[0]
    assert apply("rerun", Selection(state="cancelled"), "").done == 5
    assert Job.objects.filter(state="ready").count() == 5
    with pytest.raises(BadRequest):
        apply("delete", everything, "")
    with pytest.raises(BadRequest):
        Selection(state="asleep")


def test_all_that_match_are_edited(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.add.enqueue(namespace=namespace, a=n) for n in range(5)]
    worker.begin(jobs[0])
    other = sample_tasks.tell.enqueue(namespace=namespace)
    ours = Selection(namespace=namespace, task="samples.add")
    first = apply("edit", ours, "the test", changes=Changes(priority=8), most=2)
    rest = apply("edit", ours, "the test", changes=Changes(priority=8), beyond=first.last)
    assert (first.done + rest.done, first.refused + rest.refused) == (4, 1)
    assert sorted(Job.objects.values_list("priority", flat=True)) == [4, 4, 8, 8, 8, 8]
    later = datetime.now(UTC) + timedelta(hours=1)
    answer = apply("edit", Selection(state="ready", task="samples.add"), "", changes=Changes(queue="b", run_at=later))
    assert answer.done == 4
    assert {(job.state, job.queue, job.run_at) for job in Job.objects.filter(priority=8)} == {("scheduled", "b", later)}
    assert len(messages(namespace, "b")) == 4
    assert all(delay is not None and delay > 3500 for _, _, delay in messages(namespace, "b"))
    for job in jobs[1:]:
        assert worker.start(job, 9, ticket=1) == NotStarted("final")  # the message in the old queue is void
        assert worker.do(job) == "succeeded"
    other.refresh_from_db()
    assert (other.queue, other.ticket) == ("samples", 0)
    for changes in (None, Changes()):
        with pytest.raises(BadRequest):
            apply("edit", ours, "", changes=changes)
    with pytest.raises(BadRequest):
        apply("hold", ours, "", changes=Changes(priority=1))


def command(*arguments: Any) -> str:
    output = StringIO()
    call_command("jobs", *map(str, arguments), stdout=output, stderr=StringIO())
    return output.getvalue()


def test_the_command_does_as_much(namespace: str, worker: Worker) -> None:
    jobs = [sample_tasks.add.enqueue(namespace=namespace, a=n) for n in range(3)]
    assert command("cancel", jobs[0].id) == "cancel: 1 done, 0 refused\n"
    assert command("hold", "--task", "samples.add", "--state", "ready") == "hold: 2 done, 0 refused\n"
    assert command("list", "--held").count("samples.add") == 2
    assert command("edit", jobs[1].id, "--arguments", '{"a": 9}', "--priority", 1).endswith(" ready\n")
    edit = ("edit", "--queue", "samples", "--priority", "2", "--to-queue", "moved", "--run-at", "2001-01-01T00:00:00Z")
    assert command(*edit) == "edit: 2 done, 1 refused\n"
    assert command("edit", jobs[2].id, "--priority", 3) == "edit: 1 done, 0 refused\n"
    assert set(Job.objects.filter(queue="moved").values_list("priority", "state")) == {(2, "ready"), (3, "ready")}
    assert command("release", "--held") == "release: 2 done, 0 refused\n"
    assert worker.do(jobs[1]) == "succeeded"
    new = uuid.UUID(command("rerun", jobs[1].id, "--arguments", '{"a": 7}').split()[0])
    assert Job.objects.get(id=new).arguments == {"a": 7}
    for wrong in (
        ("cancel",),
        ("cancel", jobs[1].id),
        ("hold", jobs[1].id, "--arguments", "{}"),
        ("edit", jobs[2].id),
        ("edit", "--priority", "3"),
        ("edit", "--queue", "moved", "--priority", "10"),
        ("hold", "--queue", "moved", "--priority", "1"),
        ("edit", "--queue", "moved", "--run-at", "soon"),
        ("edit", jobs[2].id, "--arguments", "no"),
        ("edit", jobs[2].id, "--arguments", "[]"),
        ("edit", jobs[2].id, "--arguments", '{"no": 1}'),
        ("list", "--before", "yesterday"),
    ):
        with pytest.raises(CommandError):
            command(*wrong)
