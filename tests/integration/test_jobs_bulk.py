"""Many jobs at once, by COPY: the same jobs as one by one."""

import json
import uuid
from collections.abc import Iterable
from functools import partialmethod
from typing import Any

import pytest
from django.db import transaction

from apps.broker import bulk as broker_bulk
from apps.broker import queue_settings
from apps.broker.bulk import send_many
from apps.broker.errors import QueueFull
from apps.jobs import bulk, events, testing
from apps.jobs.asking import Ask
from apps.jobs.bulk import enqueue_many
from apps.jobs.models import Job
from msgweb.errors import BadArguments, BadDestination, BadMessage, BadRequest, NotFound
from tests import sample_tasks
from tests.recording import Worker, messages

pytestmark = pytest.mark.django_db(transaction=True)


def row(job: Job) -> dict[str, Any]:
    """All of a job but what is its own."""
    own = {"_state", "_prefetched_objects_cache", "id", "created_at", "expires_at", "born_ready"}
    return {name: value for name, value in vars(job).items() if name not in own}


@pytest.mark.parametrize("name", ["add", "two_at_a_time", "paced", "expires", "only_once"])
def test_a_job_of_many_is_like_a_single_one(namespace: str, name: str) -> None:
    task = getattr(sample_tasks, name)
    arguments = {"add": {"a": 1}, "two_at_a_time": {"customer": 3}}.get(name, {})
    ask = Ask(priority=7, requested_by="the test")
    single = task.enqueue(namespace=namespace, ask=ask, **arguments)
    (other,) = enqueue_many(task, namespace, [arguments], ask)
    single.refresh_from_db()
    job = Job.objects.get(id=other)
    assert row(job) == row(single)
    assert (job.expires_at is None) == (single.expires_at is None)
    one, many = messages(namespace, "samples")
    assert {**one[0], "job-id": str(other), "reply-to": f"/job/{other}"} == many[0]
    assert json.loads(one[1]) == json.loads(many[1])
    (first,), same = events.after(job.id), events.after(single.id)
    assert (first.at, first.data) == (job.created_at, same[0].data)
    assert len(testing.run_due()) == 2


def test_many_keep_their_order_and_run(namespace: str, conninfo: str) -> None:
    texts = ["plain", "tab\t", "line\nfeed", "back\\slash \\N", 'quote"', "ä€🙂", "\\\\", ""]
    arguments = [{"what": text} for text in texts] * 1000
    ids = enqueue_many(sample_tasks.tell, namespace, iter(arguments))
    assert len(set(ids)) == 8000
    assert list(Job.objects.order_by("created_at").values_list("id", flat=True)) == ids
    waiting = messages(namespace, "samples")
    assert [headers["job-id"] for headers, _, _ in waiting] == [str(one) for one in ids]
    assert [json.loads(body) for _, body, _ in waiting] == arguments
    assert list(Job.objects.order_by("created_at").values_list("arguments", flat=True)) == arguments
    worker = Worker(conninfo, 101)
    assert worker.do(Job.objects.get(id=ids[3]), result='"done"') == "succeeded"
    assert enqueue_many(sample_tasks.tell, namespace, []) == []


def test_none_is_left_out_where_the_database_never_lets_anybody_wait(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(statement: str, rows: Iterable[bytes], meanwhile: object, using: str = "default") -> None:
        broker_bulk.copy(statement, rows, lambda: False, using)

    monkeypatch.setattr(bulk, "copy", copy)
    monkeypatch.setattr(broker_bulk.Sending, "send_rows", partialmethod(_send_alone, broker_bulk.Sending.send_rows))
    ids = enqueue_many(sample_tasks.add, namespace, [{"a": n} for n in range(1000)])
    assert len(ids) == Job.objects.count() == len(messages(namespace, "samples")) == 1000


def _send_alone(sending: Any, send: Any, messages: Any, meanwhile: object) -> None:
    send(sending, messages)


@pytest.mark.parametrize(("jobs", "size"), [(70, 1 << 20), (10_000, 2000), (1, 1)])
def test_many_copies_keep_the_order_too(namespace: str, monkeypatch: pytest.MonkeyPatch, jobs: int, size: int) -> None:
    monkeypatch.setattr(bulk, "PORTION", jobs)
    monkeypatch.setattr(bulk, "BYTES", size)
    ids = enqueue_many(sample_tasks.add, namespace, ({"a": n} for n in range(200)))
    assert list(Job.objects.order_by("created_at").values_list("id", flat=True)) == ids
    assert [json.loads(body) for _, body, _ in messages(namespace, "samples")] == [{"a": n} for n in range(200)]
    assert [job.arguments for job in Job.objects.order_by("created_at")] == [{"a": n} for n in range(200)]


def test_what_makes_the_arguments_may_ask_the_same_database(namespace: str) -> None:
    sample_tasks.add.enqueue(namespace=namespace, a=0)
    ids = enqueue_many(sample_tasks.add, namespace, ({"a": Job.objects.count() + n} for n in range(500)))
    assert [job.arguments["a"] for job in Job.objects.filter(id__in=ids).order_by("created_at")] == list(range(1, 501))


def test_what_rows_leave_out_is_what_the_table_says() -> None:
    assert {name: Job._meta.get_field(name).db_default for name in bulk._USUAL} == bulk._USUAL


def test_after_one_that_does_not_fit_the_callers_transaction_goes_on(namespace: str) -> None:
    with transaction.atomic():
        with pytest.raises(BadArguments):
            enqueue_many(sample_tasks.add, namespace, ({"a": n} if n < 3000 else {"z": 1} for n in range(5000)))
        ids = enqueue_many(sample_tasks.add, namespace, [{"a": 1}])
    assert list(Job.objects.values_list("id", flat=True)) == ids
    assert len(messages(namespace, "samples")) == 1


def test_one_that_does_not_fit_leaves_none(namespace: str) -> None:
    arguments: list[dict[str, Any]] = [{"a": n} for n in range(6000)]
    with pytest.raises(BadArguments):
        enqueue_many(sample_tasks.add, namespace, [*arguments, {"z": 1}])
    with pytest.raises(BadArguments):
        enqueue_many(sample_tasks.add, namespace, [{"a": float("nan")}])
    with pytest.raises(NotFound), transaction.atomic():
        enqueue_many(sample_tasks.add, "no.where", arguments[:1])
    assert not Job.objects.exists()
    assert messages(namespace, "samples") == []


def test_what_needs_more_is_asked_for_one_by_one(namespace: str) -> None:
    same = enqueue_many(sample_tasks.unique, namespace, [{"a": 1}, {"a": 2}, {"a": 1}])
    assert same[0] == same[2] != same[1]
    enqueue_many(sample_tasks.add, namespace, [{"a": 1}], Ask(delay=100))
    assert Job.objects.filter(state="scheduled").count() == 1
    with pytest.raises(BadRequest):
        enqueue_many(sample_tasks.add, namespace, [{"a": 1}], Ask(job_id=uuid.uuid4()))


def test_a_queue_with_a_limit_refuses_what_is_too_much(namespace: str) -> None:
    sample_tasks.add.enqueue(namespace=namespace, a=0)
    queue_settings.change(namespace, "samples", {"max_length": 3})
    enqueue_many(sample_tasks.add, namespace, [{"a": 1}, {"a": 2}])
    with pytest.raises(QueueFull):
        enqueue_many(sample_tasks.add, namespace, [{"a": 3}, {"a": 4}])
    assert Job.objects.count() == 3


def test_messages_of_any_kind_are_sent_in_bulk(namespace: str) -> None:
    assert send_many(namespace, "bulk", [(b"x:%d\n" % n, b"\x00\xff%d" % n) for n in range(5)], priority=6) == 5
    assert [(headers, body) for headers, body, _ in messages(namespace, "bulk")] == [
        ({"x": str(n)}, b"\x00\xff%d" % n) for n in range(5)
    ]
    with pytest.raises(BadDestination):
        send_many(namespace, "/topic/x", [])
    with pytest.raises(BadMessage):
        send_many(namespace, "bulk", [], priority=10)
