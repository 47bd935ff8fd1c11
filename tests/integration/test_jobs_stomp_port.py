"""The STOMP door to jobs: asking, and the word of a worker outside."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.accounts.models import Namespace
from apps.broker import queue_settings
from apps.jobs import control, events, outside
from apps.jobs.log_limit import LogLimiter
from apps.jobs.models import Event, Job
from apps.jobs.outside import Heard, Said
from apps.jobs.stomp_port import JobsTaskPort, Word
from apps.jobs.submit import submit
from apps.jobs.words import meaning_of
from msgweb.errors import BadArguments, BadMessage, Conflict, MsgwebError, NotFound
from tests import sample_tasks

T = TypeVar("T")

pytestmark = pytest.mark.django_db(transaction=True)


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


def events_of(job: Job) -> list[str]:
    """What is shown of it, without the changes of its state."""
    return [
        str(event.data.get("done", event.data["text"])) for event in Event.objects.filter(job=job).exclude(kind="state")
    ]


def replies(namespace: str) -> list[tuple[str, Any]]:
    """What the asker was sent after the acceptance, in order."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT convert_from(m.headers, 'utf8'), convert_from(m.body, 'utf8') FROM msgweb.message m"
            " JOIN msgweb.destination d ON d.id = m.destination WHERE d.namespace = %s AND d.name = 'answers'"
            " ORDER BY m.id",
            [namespace],
        )
        sent = [(head.split("job-event:")[1].split("\n")[0], json.loads(body)) for head, body in cursor.fetchall()]
    return [(event, body) for event, body in sent if event != "accepted"]


def mark(done: int) -> Word:
    return word("progress", {"done": done, "total": 9})


def test_of_progress_the_latest_is_shown_unless_a_line_stands_between(namespace: str, job: Job) -> None:
    answers = hear(namespace, job, mark(1), mark(2), word("log", "a\nb"), mark(3), mark(4), word("log", ""), mark(5))
    assert answers == [Heard(True, "running")] * 7
    assert events_of(job) == ["2", "a", "b", "5"]
    assert job.progress.done == 5
    assert replies(namespace) == [("progress", {"done": 5, "total": 9, "text": ""})]
    hear(namespace, job, mark(6), mark(7), word("result", "done"))
    assert events_of(job)[-1] == "7"
    assert replies(namespace)[1:] == [("progress", {"done": 7, "total": 9, "text": ""}), ("result", "done")]


def test_many_words_take_as_many_statements_as_two(namespace: str, job: Job, django_assert_num_queries: Any) -> None:
    def said(count: int) -> list[Said]:
        now = timezone.now()
        return [
            said
            for number in range(count)
            for said in (
                Said(now, "log", meaning_of("log", f"{number}")),
                Said(now, "progress", meaning_of("progress", {"done": number, "total": count})),
            )
        ]

    outside.hear(namespace, job.id, said(1), "mw-php", LogLimiter())  # begins the attempt
    with CaptureQueriesContext(connection) as few:
        outside.hear(namespace, job.id, said(1), "mw-php", LogLimiter(), attempt=1)
    with django_assert_num_queries(len(few)):
        outside.hear(namespace, job.id, said(500), "mw-php", LogLimiter(), attempt=1)
    assert len(few) <= 10


def test_a_bad_word_is_its_own_error_and_the_others_count(namespace: str, job: Job) -> None:
    bad = word("progress", "much")
    nonsense = ("log", b"\xff", None, time.time())
    answers = hear(
        namespace, job, bad, mark(1), nonsense, word("dance", ""), word("log", "a"), word("result", "NUL \0")
    )
    assert [type(answer) for answer in answers] == [BadMessage, Heard, BadMessage, BadMessage, Heard, BadMessage]
    assert (events_of(job), job.state, job.attempt) == (["1", "a"], "running", 1)
    refused, counted = hear(namespace, job, bad, word("result", 1))
    assert isinstance(refused, BadMessage) and counted == Heard(True, "succeeded")
    assert hear(namespace, job, bad, nonsense) == [Heard(False, "succeeded")] * 2  # what is late is no ERROR


def test_what_follows_the_end_in_the_same_breath_is_dropped(namespace: str, job: Job) -> None:
    answers = hear(namespace, job, mark(1), word("result", 1), mark(2), word("log", "late"), word("error", "late"))
    assert [answer.counted for answer in answers if isinstance(answer, Heard)] == [True, True, False, False, False]
    assert (events_of(job), job.state, job.result) == (["1"], "succeeded", 1)


def test_who_may_not_begin_is_told_so_with_each_word(namespace: str) -> None:
    job = submit(namespace, "samples.by_others_again", {})
    control.hold(job.id, "the test")
    answers = hear(namespace, job, mark(1), word("log", "a"), word("result", 1))
    assert [type(answer) for answer in answers] == [Conflict] * 3
    assert (job.state, job.attempt) == ("ready", 0)


def test_the_end_of_a_lost_attempt_counts_and_what_it_said_before_does_not(namespace: str, job: Job) -> None:
    hear(namespace, job, mark(1))
    job.attempts.update(outcome="interrupted", ended_at=timezone.now())
    Job.objects.filter(id=job.id).update(state="ready")
    answers = hear(namespace, job, mark(2), word("log", "late"), word("result", 5), attempt=1)
    assert [answer.counted for answer in answers if isinstance(answer, Heard)] == [False, False, True]
    assert (events_of(job), job.state, job.result, job.attempt) == (["1"], "succeeded", 5, 2)


def test_lines_are_kept_when_they_came(namespace: str, job: Job) -> None:
    then = 1_700_000_000.5
    hear(namespace, job, ("log", b"a", "text/plain", then), ("progress", b'{"done": 1, "total": 2}', None, then + 1))
    events = Event.objects.filter(job=job).exclude(kind="state")
    assert [event.at.timestamp() for event in events] == [then, then + 1]
    assert job.progress.updated_at.timestamp() == then + 1


def test_where_the_asker_can_be_told_nothing_the_job_goes_on_and_ends(namespace: str, job: Job) -> None:
    queue_settings.change(namespace, "answers", {"max_length": 1, "overflow": "refuse"})
    hear(namespace, job, mark(1))
    hear(namespace, job, mark(2), word("log", "a"), word("result", 5))
    assert (job.state, job.result) == ("succeeded", 5)
    *shown, told = events_of(job)
    assert shown == ["1", "2", "a"] and told.startswith("the reply to answers could not be sent: ")
    assert replies(namespace) == []
