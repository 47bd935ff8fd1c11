"""Jobs that follow others: chains, batches, and what two transactions at the same moment do not see of each other."""

import threading
import uuid
from collections import Counter
from typing import Any

import pytest
from django.db import connection, transaction

from apps.jobs import control, testing
from apps.jobs.asking import Ask
from apps.jobs.errors import UnknownBatch
from apps.jobs.flows import Link, batch, chain, progress_of
from apps.jobs.models import Batch, BrokenLink, Dependency, Job
from apps.jobs.records import NotStarted
from apps.jobs.submit import submit
from msgweb.errors import BadArguments, BadRequest, NotFound
from tests import sample_tasks
from tests.recording import Worker, messages, pass_time, upkeep

pytestmark = pytest.mark.django_db(transaction=True)
ERROR = {"code": "task_error", "message": "no", "traceback": "long"}


def states(*jobs: Job) -> list[str]:
    for job in jobs:
        job.refresh_from_db()
    return [job.state for job in jobs]


def test_a_chain_goes_on_link_by_link_and_hands_results_on(namespace: str, worker: Worker) -> None:
    first, second, third = chain(
        namespace,
        Link(sample_tasks.add, {"a": 1, "b": 2}),
        Link(sample_tasks.tell, result_as="what"),
        Link(sample_tasks.tell, {"what": "own"}),
    )
    assert states(first, second, third) == ["ready", "scheduled", "scheduled"]
    assert len(messages(namespace, "samples")) == 1
    upkeep()
    assert states(second) == ["scheduled"]
    assert [(job.task, job.result) for job in testing.run_due()] == [
        ("samples.add", {"sum": 3}),
        ("samples.tell", {"sum": 3}),
        ("samples.tell", "own"),
    ]
    assert not Dependency.objects.exists()


def test_what_follows_a_failure_is_cancelled_to_the_end_of_the_chain(namespace: str, worker: Worker) -> None:
    jobs = chain(namespace, *(Link(sample_tasks.only_once) for _ in range(3)))
    last = submit(namespace, "samples.add", {"a": 1}, after=[jobs[2].id], reply_to="answers")
    anyway = submit(namespace, "samples.add", {"a": 1}, after=[jobs[2].id], after_any=True)
    worker.do(jobs[0], "failed", error=ERROR, again=False)
    assert states(*jobs, last, anyway) == ["failed", "cancelled", "cancelled", "cancelled", "ready"]
    assert last.error["code"] == "dependency_failed"
    assert messages(namespace, "answers")[0][0]["job-event"] == "error"
    assert worker.do(anyway) == "succeeded"


def test_a_retry_holds_up_what_follows(namespace: str, worker: Worker) -> None:
    first, second = chain(namespace, Link(sample_tasks.fail), Link(sample_tasks.tell, result_as="what"))
    worker.do(first, "failed", error=ERROR, pause=0.0)
    assert states(second) == ["scheduled"]
    worker.do(first, "succeeded")
    assert states(second) == ["ready"]


def test_one_job_may_follow_several(namespace: str, worker: Worker) -> None:
    some = [sample_tasks.add.enqueue(namespace=namespace, a=n) for n in range(3)]
    after = sample_tasks.add.enqueue(namespace=namespace, a=9, ask=Ask(after=[job.id for job in some]))
    for job in some:
        assert states(after) == ["scheduled"]
        worker.do(job)
    assert states(after) == ["ready"]


def test_what_has_ended_already_is_followed_at_once(namespace: str, worker: Worker) -> None:
    done, failed = (sample_tasks.only_once.enqueue(namespace=namespace) for _ in range(2))
    worker.do(done, "succeeded", result='{"x": 1}')
    worker.do(failed, "failed", error=ERROR, again=False)
    after = sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[done.id], result_as="what"))
    assert (after.state, after.arguments) == ("ready", {"what": {"x": 1}})
    assert sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[failed.id])).state == "cancelled"
    with pytest.raises(NotFound):
        sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[uuid.uuid4()]))
    with pytest.raises(BadArguments):
        sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[done.id], result_as="nothing"))
    with pytest.raises(BadRequest):
        chain(namespace, Link(sample_tasks.tell, result_as="what"))


def test_cancelled_by_hand_it_is_followed_by_none(namespace: str, worker: Worker) -> None:
    first, second = chain(namespace, Link(sample_tasks.add, {"a": 1}), Link(sample_tasks.tell))
    control.cancel(first.id, "the test")
    assert states(second) == ["cancelled"]


def test_held_it_stays_held_when_its_turn_comes(namespace: str, worker: Worker) -> None:
    first, second = chain(namespace, Link(sample_tasks.add, {"a": 1}), Link(sample_tasks.tell))
    control.hold(second.id, "")
    control.release(second.id, "")
    assert len(messages(namespace, "samples")) == 1
    control.hold(second.id, "")
    worker.do(first)
    assert worker.begin(second) == NotStarted("final")
    control.release(second.id, "")
    assert worker.do(second) == "succeeded"


def test_asked_for_while_the_one_before_ends_it_is_never_forgotten(namespace: str, worker: Worker) -> None:
    first = sample_tasks.add.enqueue(namespace=namespace, a=1)
    run = worker.run(first)
    asked, go_on = threading.Event(), threading.Event()
    after: list[Job] = []

    def ask() -> None:
        with transaction.atomic():
            after.append(sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[first.id])))
            asked.set()
            go_on.wait(30)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(30)
    from apps.jobs.records import Batch as Writes
    from apps.jobs.records import Finish

    ending = Writes(finishes=[Finish(run, "succeeded")])
    assert worker.write(ending).put_off == {first.id}  # and tried again a moment later
    go_on.set()
    thread.join(30)
    assert worker.write(ending).finishes[run] == "succeeded"
    assert states(after[0]) == ["ready"]


# Batches


def test_a_batch_calls_back_when_all_have_ended(namespace: str, worker: Worker) -> None:
    with batch(namespace, "three", then=Link(sample_tasks.tell, result_as="what")) as three:
        jobs = [three.add(sample_tasks.only_once) for _ in range(3)]
        assert progress_of(three.id).done == 0
    callback = Job.objects.get(task="samples.tell")
    assert callback.state == "scheduled"
    worker.do(jobs[0])
    worker.do(jobs[1], "failed", error=ERROR, again=False)
    progress = progress_of(three.id)
    assert (progress.name, progress.total, progress.done, progress.percent) == ("three", 3, 2, 66)
    assert progress.states == {"succeeded": 1, "failed": 1, "ready": 1}
    upkeep()
    assert states(callback) == ["scheduled"]
    control.cancel(jobs[2].id, "")
    assert states(callback) == ["ready"]
    assert progress_of(three.id).percent == 100
    (done,) = testing.run_due()
    expected = {"batch": str(three.id), "total": 3, "succeeded": 1, "failed": 1, "cancelled": 1, "expired": 0}
    assert done.result == expected
    with pytest.raises(UnknownBatch):
        progress_of(uuid.uuid4())


def test_an_empty_batch_is_complete_at_once_and_a_broken_one_never_was(namespace: str) -> None:
    with batch(namespace, then=Link(sample_tasks.tell, result_as="what")) as empty:
        pass
    assert progress_of(empty.id).percent == 100
    assert [job.result["total"] for job in testing.run_due()] == [0]

    def broken() -> None:
        with batch(namespace) as one:
            one.add(sample_tasks.tell)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert Batch.objects.count() == 1
    assert Job.objects.count() == 1


def test_the_last_two_that_end_at_the_same_moment_complete_their_batch(namespace: str, conninfo: str) -> None:
    worker, other = Worker(conninfo, 101), Worker(conninfo, 102)
    with batch(namespace, then=Link(sample_tasks.tell)) as two:
        jobs = [two.add(sample_tasks.add, a=n) for n in range(2)]
    runs = [worker.run(jobs[0]), other.run(jobs[1])]
    barrier = threading.Barrier(2)

    def end(who: Worker, run: Any) -> None:
        barrier.wait(10)
        who.finish(run, "succeeded")

    threads = [threading.Thread(target=end, args=pair) for pair in zip((worker, other), runs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    upkeep()
    assert progress_of(two.id).percent == 100
    assert Job.objects.get(task="samples.tell").state == "ready"


def test_upkeep_makes_good_what_was_missed(namespace: str, worker: Worker) -> None:
    first, second = chain(namespace, Link(sample_tasks.add, {"a": 1}), Link(sample_tasks.tell, result_as="what"))
    gone, orphan = chain(namespace, Link(sample_tasks.add, {"a": 1}), Link(sample_tasks.tell))
    with batch(namespace, then=Link(sample_tasks.tell, {"what": "batch"})) as one:
        in_batch = one.add(sample_tasks.add, a=1)
    # As if they had ended unseen.
    Job.objects.filter(id__in=[first.id, in_batch.id]).update(state="succeeded", result={"r": 1})
    Job.objects.filter(id=gone.id).delete()
    Dependency.objects.update_or_create(job=orphan, after=gone.id)
    upkeep()
    assert states(second, orphan) == ["ready", "cancelled"]
    assert second.arguments == {"what": {"r": 1}}
    assert Job.objects.get(arguments={"what": "batch"}).state == "ready"


# Tried again


def fail(worker: Worker, job: Job) -> None:
    assert worker.do(job, "failed", error=ERROR, again=False) == "failed"


def test_a_failed_job_that_is_tried_again_takes_the_chain_behind_it_along(namespace: str, worker: Worker) -> None:
    first, second, third = chain(
        namespace,
        Link(sample_tasks.add, {"a": 1}),
        Link(sample_tasks.tell, result_as="what", ask=Ask(reply_to="answers", expires=3600)),
        Link(sample_tasks.tell, result_as="what"),
    )
    fail(worker, first)
    assert states(first, second, third) == ["failed", "cancelled", "cancelled"]
    assert len(messages(namespace, "answers")) == 1
    control.retry(first.id, "the test")
    assert states(first, second, third) == ["ready", "scheduled", "scheduled"]
    assert (second.error, second.finished_at, second.expires_at, second.reply_to) == (None, None, None, "")
    event = second.events.order_by("id").last()
    assert event is not None
    assert event.data == {"state": "scheduled", "attempt": 0, "text": f"job {first.id} is tried again"}
    upkeep()
    assert states(second, third) == ["scheduled", "scheduled"]
    assert [(job.task, job.result) for job in testing.run_due()] == [
        ("samples.add", {"sum": 2}),
        ("samples.tell", {"sum": 2}),
        ("samples.tell", {"sum": 2}),
    ]
    assert len(messages(namespace, "answers")) == 1
    assert not Dependency.objects.exists()
    assert not BrokenLink.objects.exists()


def test_it_does_so_as_often_as_it_fails(namespace: str, worker: Worker) -> None:
    first, second = chain(namespace, Link(sample_tasks.add, {"a": 1}), Link(sample_tasks.tell, {"what": 1}))
    for _ in range(3):
        fail(worker, first)
        assert states(second) == ["cancelled"]
        control.retry(first.id, "")
        assert states(second) == ["scheduled"]
    worker.do(first)
    assert worker.do(second) == "succeeded"


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_however_the_first_one_ended(namespace: str, worker: Worker, end: str) -> None:
    first, second = chain(namespace, Link(sample_tasks.expires), Link(sample_tasks.tell, {"what": 1}))
    if end == "cancelled":
        control.cancel(first.id, "")
    else:
        pass_time(61)
        upkeep()
    assert states(first, second) == [end, "cancelled"]
    control.retry(first.id, "")
    assert states(first, second) == ["ready", "scheduled"]


def test_what_follows_several_lives_again_when_none_of_them_is_lost(namespace: str, worker: Worker) -> None:
    """A diamond, with one more way to it."""
    top = sample_tasks.add.enqueue(namespace=namespace, a=1)
    left, right = (sample_tasks.add.enqueue(namespace=namespace, a=n, ask=Ask(after=[top.id])) for n in (2, 3))
    beside = sample_tasks.add.enqueue(namespace=namespace, a=4)
    bottom = sample_tasks.add.enqueue(namespace=namespace, a=5, ask=Ask(after=[left.id, right.id, beside.id]))
    fail(worker, top)
    fail(worker, beside)
    assert states(left, right, bottom) == ["cancelled"] * 3
    control.retry(top.id, "")
    assert states(left, right, bottom) == ["scheduled", "scheduled", "cancelled"]  # `beside` is still lost
    worker.do(top)
    worker.do(left)
    control.retry(beside.id, "")
    assert states(bottom) == ["scheduled"]
    assert set(Dependency.objects.filter(job=bottom).values_list("after", flat=True)) == {right.id, beside.id}
    worker.do(right)
    worker.do(beside)
    assert worker.do(bottom) == "succeeded"


def test_what_was_asked_for_behind_a_failed_job_waits_for_it_too(namespace: str, worker: Worker) -> None:
    first, done = (sample_tasks.add.enqueue(namespace=namespace, a=n) for n in (1, 2))
    worker.do(done)
    fail(worker, first)
    after = sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[done.id, first.id], result_as="what"))
    assert after.state == "cancelled"
    control.retry(first.id, "")
    assert states(after) == ["scheduled"]
    worker.do(first, result="7")
    assert states(after) == ["ready"]
    assert after.arguments == {"what": 7}


def test_only_what_was_cancelled_because_of_it_lives_again(namespace: str, worker: Worker) -> None:
    first = sample_tasks.add.enqueue(namespace=namespace, a=1)
    by_hand, tried, anyway, lost = (
        sample_tasks.tell.enqueue(namespace=namespace, ask=Ask(after=[first.id], after_any=number == 2))
        for number in range(4)
    )
    control.cancel(by_hand.id, "")
    fail(worker, first)
    control.retry(tried.id, "")
    assert states(by_hand, tried, anyway, lost) == ["cancelled", "ready", "ready", "cancelled"]
    worker.do(tried)
    control.retry(first.id, "")
    assert states(by_hand, tried, anyway, lost) == ["cancelled", "succeeded", "ready", "scheduled"]
    control.rerun(first.id, "")
    assert Dependency.objects.count() == 1


def test_a_batch_that_is_still_open_keeps_the_job_that_is_tried_again(namespace: str, worker: Worker) -> None:
    with batch(namespace, then=Link(sample_tasks.tell, result_as="what")) as two:
        first, second = (two.add(sample_tasks.add, a=n) for n in range(2))
        behind = two.add(sample_tasks.tell, Ask(after=[first.id]))
    fail(worker, first)
    control.retry(first.id, "")
    worker.do(second)
    assert progress_of(two.id).states == {"ready": 1, "succeeded": 1, "scheduled": 1}
    fail(worker, first)
    assert states(first, behind) == ["failed", "cancelled"]
    assert progress_of(two.id).done == 3
    control.retry(first.id, "")  # now it is complete without it
    assert states(first, behind) == ["ready", "scheduled"]
    assert (first.batch_id, behind.batch_id) == (None, None)


def test_a_chain_may_be_long(namespace: str, worker: Worker) -> None:
    jobs = chain(namespace, *(Link(sample_tasks.tell, {"what": n}) for n in range(1500)))
    fail(worker, jobs[0])
    assert dict(Counter(Job.objects.values_list("state", flat=True))) == {"failed": 1, "cancelled": 1499}
    control.retry(jobs[0].id, "")
    assert dict(Counter(Job.objects.values_list("state", flat=True))) == {"ready": 1, "scheduled": 1499}
