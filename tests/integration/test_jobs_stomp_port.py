"""The STOMP door to jobs: asking, and the word of a worker outside."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from apps.accounts.models import Namespace
from apps.jobs import control, events
from apps.jobs.models import Event, Job
from apps.jobs.outside import Heard
from apps.jobs.stomp_port import JobsTaskPort, Word
from apps.jobs.submit import submit
from msgweb.errors import BadArguments, BadMessage, Conflict, MsgwebError, NotFound
from tests import sample_tasks

T = TypeVar("T")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def namespace(transactional_db: None) -> str:
    return Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name


def through(call: Callable[[JobsTaskPort], Awaitable[T]]) -> T:
    """Call a port as the gateway does; its threads end with it."""

    async def main() -> T:
        port = JobsTaskPort()
        try:
            return await call(port)
        finally:
            port.close()

    return asyncio.run(main())


def ask(namespace: str, task: str, body: bytes, reply_to: str | None = None, **headers: str) -> str:
    return through(
        lambda port: port.submit(
            namespace=namespace,
            task=task,
            body=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            reply_to=reply_to,
            requested_by="mw-test",
        )
    )


def hear(namespace: str, job: Job, *words: Word, attempt: int | None = None) -> list[Heard | MsgwebError]:
    """Say words about a job; what became of them."""
    answers = through(
        lambda port: port.hearing(namespace=namespace, job_id=str(job.id), requested_by="mw-php").hear(
            words, attempt=attempt
        )
    )
    job.refresh_from_db()
    return answers


def word(event: str, body: Any) -> Word:
    if isinstance(body, str):
        return event, body.encode(), "text/plain", time.time()
    return event, json.dumps(body).encode(), "application/json", time.time()


def say(namespace: str, job: Job, event: str, body: Any) -> None:
    """One word, which must not be refused."""
    [answer] = hear(namespace, job, word(event, body))
    if isinstance(answer, MsgwebError):
        raise answer


@pytest.fixture
def job(namespace: str) -> Job:
    return submit(namespace, "samples.by_others", {"order": 7}, reply_to="answers", wants_progress=True)


def test_a_request_over_stomp_becomes_a_job(namespace: str) -> None:
    job_id = str(uuid.uuid4())
    assert ask(namespace, "samples.add", b'{"a": 1}', "/queue/r", correlation_id=job_id, progress="true") == job_id
    job = Job.objects.get(id=job_id)
    assert (job.arguments, job.reply_to, job.correlation_id) == ({"a": 1}, "/queue/r", job_id)
    assert (job.wants_progress, job.requested_by) == (True, "mw-test")
    assert ask(namespace, "samples.add", b'{"a": 1}', "/queue/r", correlation_id=job_id) == job_id
    assert Job.objects.count() == 1


def test_a_correlation_id_that_is_no_uuid_only_comes_back(namespace: str) -> None:
    for correlation_id in ("order 17", "{12345678-1234-5678-1234-567812345678}", "12345678123456781234567812345678"):
        job_id = ask(namespace, "samples.talk", b"", correlation_id=correlation_id)
        job = Job.objects.get(id=job_id)
        assert job.correlation_id == correlation_id
        assert job.arguments == {}


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b'"a"', b'{"b": 1}', b"\xff"])
def test_a_body_that_names_no_arguments_is_refused(namespace: str, body: bytes) -> None:
    with pytest.raises(BadArguments):
        ask(namespace, "samples.add", body)
    assert not Job.objects.exists()


def test_a_worker_outside_takes_the_job_reports_and_ends_it(namespace: str, job: Job) -> None:
    say(namespace, job, "progress", {"done": 1, "total": 4, "text": "packing"})
    assert (job.state, job.attempt, job.worker) == ("running", 1, None)
    say(namespace, job, "log", "one\ntwo")
    say(namespace, job, "log", {"text": "three", "level": "warning"})
    say(namespace, job, "result", {"parcel": "ä"})
    assert (job.state, job.result) == ("succeeded", {"parcel": "ä"})
    assert job.progress.percent == 25
    assert [(e.data["level"], e.data["text"]) for e in Event.objects.filter(job=job, kind="log")] == [
        ("info", "one"),
        ("info", "two"),
        ("warning", "three"),
    ]
    attempt = job.attempts.get()
    assert (attempt.host, attempt.outcome) == ("mw-php", "succeeded")


def test_its_error_ends_the_job_as_failed(namespace: str, job: Job) -> None:
    say(namespace, job, "error", {"code": "sold_out", "message": "nothing left"})
    assert job.state == "failed"
    assert job.error == {"code": "sold_out", "message": "nothing left", "traceback": ""}


def test_what_it_says_after_the_end_is_dropped(namespace: str, job: Job) -> None:
    say(namespace, job, "result", "done")
    before = events.after(job.id)
    say(namespace, job, "result", "done twice")
    say(namespace, job, "log", "late")
    assert job.result == "done"
    assert events.after(job.id) == before


def test_a_job_that_it_works_on_can_be_cancelled(namespace: str, job: Job) -> None:
    say(namespace, job, "log", "begun")
    assert control.cancel(job.id, "the test").state == "cancelled"
    say(namespace, job, "result", 1)
    assert job.state == "cancelled"


def test_only_from_the_same_namespace_and_not_about_our_own_workers_jobs(namespace: str, job: Job) -> None:
    other = Namespace.objects.create(name=f"other.t{uuid.uuid4().hex}").name
    with pytest.raises(NotFound):
        say(other, job, "result", 1)
    ours = sample_tasks.add.enqueue(namespace=namespace, a=1)
    Job.objects.filter(id=ours.id).update(state="running", worker=7, attempt=1)
    with pytest.raises(Conflict):
        say(namespace, ours, "result", 1)
    with pytest.raises(NotFound):
        say(namespace, Job(id=uuid.uuid4()), "result", 1)


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("dance", {}),
        ("progress", "much"),
        ("progress", {"done": -1, "total": 2}),
        ("progress", {"done": True, "total": 2}),
        ("progress", {"done": 1}),
        ("log", {"text": "x", "level": "loud"}),
        ("result", "NUL \0"),
    ],
    ids=str,
)
def test_a_word_that_means_nothing_is_refused_and_leaves_the_job_alone(
    namespace: str, job: Job, event: str, body: Any
) -> None:
    with pytest.raises(BadMessage):
        say(namespace, job, event, body)
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("ready", 0)


def test_its_error_is_followed_by_another_attempt_with_a_message_of_its_own(namespace: str) -> None:
    job = submit(namespace, "samples.by_others_again", {}, reply_to="answers")
    say(namespace, job, "error", {"message": "no stock"})
    assert (job.state, job.failures, job.ticket) == ("waiting", 1, 1)
    say(namespace, job, "result", 5)
    assert (job.state, job.attempt, job.result) == ("succeeded", 2, 5)
    other = submit(namespace, "samples.by_others_again", {})
    say(namespace, other, "error", {"message": "never", "again": False})
    assert other.state == "failed"


def test_it_is_told_to_leave_a_job_that_is_held_and_comes_too_late_for_one_that_expired(namespace: str) -> None:
    held, late = (submit(namespace, "samples.by_others_again", {}) for _ in range(2))
    control.hold(held.id, "the test")
    with pytest.raises(Conflict, match="held back"):
        say(namespace, held, "progress", {"done": 1, "total": 2})
    assert held.state == "ready"
    Job.objects.filter(id=late.id).update(expires_at=late.created_at)
    say(namespace, late, "result", 5)
    assert (late.state, late.result) == ("expired", None)


def test_without_a_priority_the_tasks_own_counts(namespace: str) -> None:
    assert Job.objects.get(id=ask(namespace, "samples.talk", b"")).priority == 4
    assert Job.objects.get(id=ask(namespace, "samples.talk", b"", priority="9")).priority == 9


def test_later_and_with_an_expiry(namespace: str) -> None:
    call = {"namespace": namespace, "task": "samples.talk", "body": b"", "headers": {}, "reply_to": None}
    job = Job.objects.get(id=through(lambda port: port.submit(**call, requested_by="x", delay=60, expires=5)))
    assert job.state == "scheduled"
    assert job.run_at is not None
    assert job.expires_at is not None
    assert (job.expires_at - job.run_at).total_seconds() == 5
