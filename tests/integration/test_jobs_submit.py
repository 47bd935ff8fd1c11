"""Asking for a job, cancelling it, following it, on a real Postgres."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import close_old_connections, connection, transaction
from django.urls import resolve

from apps.accounts.models import Namespace
from apps.broker.headers import decode_headers
from apps.jobs import control, events, links
from apps.jobs.channels import CONTROL, EVENTS
from apps.jobs.errors import JobExists, JobIsFinal, UnknownJob, UnknownTask
from apps.jobs.models import Event, Job
from apps.jobs.submit import submit
from apps.jobs.waiting import wait_final
from msgweb.errors import BadArguments, BadDestination, BadMessage, BadRequest, NotFound
from tests import sample_tasks


@pytest.fixture
def namespace(db: None) -> str:
    return Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name


@pytest.fixture
def committed_namespace(transactional_db: None) -> str:
    return Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name


@pytest.fixture
def listener(committed_namespace: str, conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def messages(namespace: str, queue: str) -> list[tuple[dict[str, str], Any, bool]]:
    """Headers, body and persistence of what waits in a queue of the namespace."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.headers, m.body, m.persistent FROM msgweb.message m JOIN msgweb.destination d"
            " ON d.id = m.destination WHERE d.namespace = %s AND d.name = %s ORDER BY m.id",
            [namespace, queue],
        )
        return [(decode_headers(bytes(h)), json.loads(bytes(b)), p) for h, b, p in cursor.fetchall()]


def test_a_job_is_a_row_and_a_message_and_an_event(namespace: str) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert (job.state, job.attempt, job.failures, job.max_attempts) == ("ready", 0, 0, 1)
    ((headers, body, persistent),) = messages(namespace, "samples")
    assert body == {"a": 1}
    assert persistent
    assert headers == {
        "job-id": str(job.id),
        "task": "samples.add",
        "reply-to": f"/job/{job.id}",
        "content-type": "application/json",
    }
    assert [(event.kind, event.data) for event in events.after(job.id)] == [("state", {"state": "ready", "attempt": 0})]


@pytest.mark.django_db(transaction=True)
def test_a_job_asked_for_in_a_transaction_that_is_rolled_back_never_was(committed_namespace: str) -> None:
    with transaction.atomic():
        sample_tasks.add.enqueue(namespace=committed_namespace, a=1)
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert not Event.objects.exists()
    assert messages(committed_namespace, "samples") == []


def test_a_bad_request_leaves_nothing_and_the_callers_transaction_usable(namespace: str) -> None:
    with pytest.raises(UnknownTask):
        submit(namespace, "no.such", {})
    with pytest.raises(BadArguments):
        submit(namespace, "samples.add", {"a": 1, "c": 2})
    with pytest.raises(NotFound, match=r"no\.where"):
        submit("no.where", "samples.add", {"a": 1})
    with pytest.raises(BadMessage):
        submit(namespace, "samples.add", {"a": 1}, priority=10)
    for reply_to in ("/temp-queue/x", "/queue/", "/reply-queue/", "a\0b"):
        with pytest.raises(BadDestination):
            submit(namespace, "samples.add", {"a": 1}, reply_to=reply_to)
    with pytest.raises(BadRequest):
        submit(namespace, "samples.add", {"a": 1}, correlation_id="x" * 300)
    assert not Job.objects.exists()


def test_asking_twice_with_one_id_is_asking_once(namespace: str) -> None:
    job_id = uuid.uuid4()
    first = submit(namespace, "samples.add", {"a": 1}, job_id=job_id)
    again = submit(namespace, "samples.add", {"a": 1}, job_id=job_id)
    assert first.id == again.id == job_id
    assert len(messages(namespace, "samples")) == 1
    with pytest.raises(JobExists):
        submit(namespace, "samples.add", {"a": 2}, job_id=job_id)
    with pytest.raises(JobExists):
        submit(namespace, "samples.talk", {}, job_id=job_id)
    other = Namespace.objects.create(name="other.test").name
    with pytest.raises(JobExists):
        submit(other, "samples.add", {"a": 1}, job_id=job_id)


@pytest.mark.django_db(transaction=True)
def test_two_who_ask_at_the_same_moment_with_one_id_get_one_job(committed_namespace: str) -> None:
    job_id = uuid.uuid4()
    barrier = threading.Barrier(4)
    got: list[uuid.UUID] = []

    def ask() -> None:
        barrier.wait(10)
        got.append(submit(committed_namespace, "samples.add", {"a": 1}, job_id=job_id).id)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == [job_id] * 4
    assert len(messages(committed_namespace, "samples")) == 1


def test_an_asker_who_wants_progress_hears_of_the_acceptance(namespace: str, settings: Any) -> None:
    settings.MSGWEB_PUBLIC_URL = "https://example.org/"
    job = submit(
        namespace, "samples.add", {"a": 1}, reply_to="/queue/answers", correlation_id="mine", wants_progress=True
    )
    ((headers, body, persistent),) = messages(namespace, "answers")
    assert headers["job-event"] == "accepted"
    assert headers["correlation-id"] == "mine"
    assert not persistent
    assert body == {"job": str(job.id), "status_url": f"https://example.org{links.status_path(job.id)}"}


def test_a_waiting_job_is_cancelled_at_once_with_its_reply(namespace: str) -> None:
    job = submit(namespace, "samples.add", {"a": 1}, reply_to="answers")
    cancelled = control.cancel(job.id, "the test")
    assert cancelled.state == Job.State.CANCELLED
    assert cancelled.finished_at is not None
    ((headers, body, persistent),) = messages(namespace, "answers")
    assert (headers["job-event"], headers["correlation-id"]) == ("error", str(job.id))
    assert body == {"code": "cancelled", "message": "the job was cancelled"}
    assert persistent
    assert events.latest(job.id)[-1].data["text"] == "cancelled by the test"
    control.cancel(job.id, "the test")
    assert len(messages(namespace, "answers")) == 1


def test_a_job_that_has_ended_cannot_be_cancelled(namespace: str) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1)
    Job.objects.filter(id=job.id).update(state="succeeded")
    with pytest.raises(JobIsFinal):
        control.cancel(job.id, "the test")
    with pytest.raises(UnknownJob):
        control.cancel(uuid.uuid4(), "the test")


@pytest.mark.django_db(transaction=True)
def test_a_running_job_is_asked_to_stop(committed_namespace: str, listener: psycopg.Connection[Any]) -> None:
    job = sample_tasks.add.enqueue(namespace=committed_namespace, a=1)
    Job.objects.filter(id=job.id).update(state="running", worker=7, attempt=1)
    listener.execute(f"LISTEN {CONTROL}")
    asked = control.cancel(job.id, "the test")
    assert asked.state == Job.State.RUNNING
    assert asked.cancel_requested_at is not None
    assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == [str(job.id)]
    assert control.cancel(job.id, "the test").cancel_requested_at == asked.cancel_requested_at


@pytest.mark.django_db(transaction=True)
def test_events_wake_who_follows_them_at_commit(committed_namespace: str, listener: psycopg.Connection[Any]) -> None:
    listener.execute(f"LISTEN {EVENTS}")
    with transaction.atomic():
        job = sample_tasks.add.enqueue(namespace=committed_namespace, a=1)
        assert list(listener.notifies(timeout=0.05)) == []
    assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == [str(job.id)]


def test_a_reader_resumes_after_the_last_event_that_it_saw(namespace: str) -> None:
    job = sample_tasks.add.enqueue(namespace=namespace, a=1)
    control.cancel(job.id, "the test")
    first, second = events.after(job.id)
    assert events.after(job.id, first.id) == [second]
    assert events.after(job.id, second.id) == []
    assert events.after(job.id, limit=1) == [first]
    assert events.latest(job.id, limit=1) == [second]


@pytest.mark.django_db(transaction=True)
def test_one_who_waits_gets_the_job_as_soon_as_it_has_ended(committed_namespace: str, conninfo: str) -> None:
    job = sample_tasks.add.enqueue(namespace=committed_namespace, a=1)
    waited: list[Job] = []

    def wait() -> None:
        waited.append(wait_final(job.id, 60))
        connection.close()

    waiter = threading.Thread(target=wait)
    waiter.start()
    with psycopg.connect(conninfo, autocommit=True) as watcher:
        while not watcher.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
            " AND state = 'idle'"
        ).fetchall():
            assert waiter.is_alive()
    control.cancel(job.id, "the test")
    waiter.join(10)
    assert [job.state for job in waited] == ["cancelled"]


@pytest.mark.django_db(transaction=True)
def test_one_who_waits_long_enough_gets_the_job_as_it_is(committed_namespace: str) -> None:
    job = sample_tasks.add.enqueue(namespace=committed_namespace, a=1)
    assert wait_final(job.id, 0.05).state == "ready"
    assert wait_final(job.id, 0).state == "ready"
    with pytest.raises(UnknownJob):
        wait_final(uuid.uuid4(), 1)
    close_old_connections()


def test_one_who_asks_again_with_another_reply_queue_gets_the_reply_there(namespace: str) -> None:
    job = submit(namespace, "samples.add", {"a": 1}, reply_to="first", correlation_id="c1")
    submit(namespace, "samples.add", {"a": 1}, job_id=job.id, reply_to="second", correlation_id="c2")
    control.cancel(job.id, "the test")
    assert messages(namespace, "first") == []
    assert [headers["correlation-id"] for headers, _, _ in messages(namespace, "second")] == ["c2"]
    submit(namespace, "samples.add", {"a": 1}, job_id=job.id, reply_to="second")
    assert len(messages(namespace, "second")) == 1  # this asker has had it
    submit(namespace, "samples.add", {"a": 1}, job_id=job.id, reply_to="third", correlation_id="c3")
    assert [(headers["correlation-id"], headers["job-event"]) for headers, _, _ in messages(namespace, "third")] == [
        ("c3", "error")
    ]


def test_a_status_link_opens_its_job_and_nothing_else() -> None:
    job_id = uuid.uuid4()
    path = links.status_path(job_id)
    token = path.removeprefix("/status/").removesuffix("/")
    assert links.job_of_token(token) == job_id
    assert links.status_path(job_id) == path
    for forged in (token[:-1], token[1:], "", "x", links.token_of_job(uuid.uuid4())[:22] + token[22:]):
        with pytest.raises(UnknownJob):
            links.job_of_token(forged)
    assert resolve(path).view_name == "console:status"
