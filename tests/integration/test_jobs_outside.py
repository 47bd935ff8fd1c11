"""Consumers of a gateway as workers of jobs, over real sockets: what they hold, when it is theirs no more, limits."""

import asyncio
import json
import queue as queues
import uuid
from typing import Any

import pytest
from django.db import connection

from apps.jobs import control
from apps.jobs.models import Event, Job
from apps.jobs.stomp_port import JobHearing
from tests.installation import until
from tests.outside_workers import FOREVER, QUEUE, Place, Worker, ask, become, gateway, log, port, strict
from tests.stomp_gateway import OTHER_NAMESPACE, SECONDS, Frame

__all__ = ["gateway", "port", "strict"]  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)


def outcomes(job: Job) -> list[str]:
    return list(job.attempts.order_by("number").values_list("outcome", flat=True))


def left(gateway: Place, count: int = 0) -> None:
    """The queue has so many messages, held ones too."""

    def so_many() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
                " WHERE d.name = 'samples.outside' AND d.namespace = %s",
                [gateway.namespace],
            )
            return bool(cursor.fetchone()[0] == count)

    until(so_many, SECONDS, f"{count} messages are left")


def leave(gateway: Place, worker: Worker) -> None:
    """Without a word; the gateway has seen to it."""
    worker.client.close()
    until(lambda: not gateway.gateway.connections, SECONDS, "the connection is gone")


def consumers(gateway: Place) -> int:
    """How many subscriptions the engine has."""

    async def count() -> int:
        return sum(len(queue.subscriptions) for queue in gateway.engine.places.consumed.values())

    return gateway.run(count)


async def _set(event: asyncio.Event) -> None:
    event.set()


# -- a job's way


def test_the_figures_of_ended_jobs_are_rolled_up_without_a_worker_of_ours(gateway: Place) -> None:
    def resolutions() -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT resolution FROM msgweb.jobs_ended WHERE namespace = %s", [gateway.namespace])
            return [resolution for (resolution,) in cursor.fetchall()]

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO msgweb.jobs_ended (at, namespace, succeeded) VALUES (now() - interval '1 minute', %s, 1)",
            [gateway.namespace],
        )
    assert resolutions() == [0]
    worker = Worker(gateway)
    ask(gateway)
    worker.next()
    until(lambda: resolutions() == [10], SECONDS, "it is rolled up")


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_an_attempt_begins_when_its_message_is_handed_out(gateway: Place, version: str) -> None:
    worker = Worker(gateway, version)
    job = ask(gateway)
    message = worker.next()
    assert (message["job-id"], message["reply-to"], message["job-attempt"]) == (str(job.id), f"/job/{job.id}", "1")
    assert json.loads(message.body) == {"order": 7}
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("running", 1)
    attempt = job.attempts.get()
    assert attempt.host.startswith("guest at 127.0.0.1:") and attempt.pid is None
    worker.say(message, "progress", {"done": 1, "total": 2})
    worker.say(message, "log", "packed")
    worker.say(message, "result", {"parcel": 3})
    worker.ack(message)
    become(job, state="succeeded", result={"parcel": 3})
    assert (log(job), job.progress.percent, outcomes(job)) == (["packed"], 50, ["succeeded"])
    left(gateway)


@pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
@pytest.mark.parametrize("order", ["reply-first", "ack-first", "no-ack"])
def test_a_job_is_held_until_it_has_ended_whatever_is_acknowledged(gateway: Place, ack: str, order: str) -> None:
    worker = Worker(gateway, ack=ack, prefetch_count=1)
    first, second = ask(gateway), ask(gateway)
    message = worker.next()
    if order == "ack-first":
        worker.ack(message)
    left(gateway, 2)
    assert worker.client.silent(0.1)
    worker.say(message, "result", 1)
    if order == "reply-first":
        worker.ack(message)
    if order != "no-ack" or ack == "auto":
        message = worker.next()
        worker.say(message, "result", 2)
        worker.ack(message)
        become(second, state="succeeded", result=2)
    else:
        worker.client.confirmed("DISCONNECT")
        worker.client.close()
        become(second, state="ready")
    become(first, state="succeeded", attempt=1)
    left(gateway, 0 if second.is_final else 1)


def test_a_job_whose_worker_goes_is_taken_up_by_another(gateway: Place) -> None:
    worker = Worker(gateway, prefetch_count=1)
    job = ask(gateway)
    message = worker.next()
    worker.say(message, "progress", {"done": 1, "total": 2})
    worker.ack(message)  # so early that a broker would have forgotten it
    other = Worker(gateway, prefetch_count=1)
    worker.client.close()
    again = other.next()
    assert (again["job-id"], again["job-attempt"], again["redelivered"]) == (str(job.id), "2", "true")
    other.say(again, "result", "done")
    other.ack(again)
    become(job, state="succeeded", failures=0)
    assert outcomes(job) == ["interrupted", "succeeded"]
    left(gateway)


def test_what_it_said_before_it_left_counts(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    for number in range(20):
        worker.client.send("SEND", b"%d" % number, destination=message["reply-to"], job_event="log")
    worker.client.send("SEND", b"5", destination=message["reply-to"], job_event="result")
    worker.client.close()
    become(job, state="succeeded", attempt=1, result=5)
    assert len(log(job)) == 20
    left(gateway)


def test_what_it_said_counts_though_it_is_heard_when_the_worker_has_gone(
    gateway: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = asyncio.Event()
    hear = JobHearing.hear

    async def hear_later(*said: Any, **of: Any) -> Any:
        await gone.wait()
        return await hear(*said, **of)

    monkeypatch.setattr(JobHearing, "hear", hear_later)
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    worker.ack(message)
    for number in range(3):
        worker.client.send("SEND", b"%d" % number, destination=message["reply-to"], job_event="log")
    worker.client.send("SEND", b"5", destination=message["reply-to"], job_event="result")
    worker.client.confirmed("BEGIN", transaction="t")  # all of it was read
    leave(gateway, worker)
    gateway.run(lambda: _set(gone))
    become(job, state="succeeded", attempt=1, result=5)
    assert log(job) == ["0", "1", "2"]
    left(gateway)


class Offered:
    """A job whose attempt is about to begin, for a worker that leaves meanwhile."""

    def __init__(self, gateway: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        offers: queues.SimpleQueue[tuple[Any, ...]] = queues.SimpleQueue()
        begin = gateway.desk.begin
        monkeypatch.setattr(gateway.desk, "begin", lambda *offer: offers.put(offer))
        worker = Worker(gateway)
        self.job = ask(gateway)
        offer = offers.get(timeout=SECONDS)
        leave(gateway, worker)
        monkeypatch.setattr(gateway.desk, "begin", begin)

        async def go_on() -> None:
            begin(*offer)

        self.begin = lambda: gateway.run(go_on)


@pytest.fixture
def offered(gateway: Place, monkeypatch: pytest.MonkeyPatch) -> Offered:
    return Offered(gateway, monkeypatch)


def test_an_attempt_that_begins_when_its_worker_has_gone_is_taken_up_by_another(
    gateway: Place, offered: Offered
) -> None:
    job = offered.job
    offered.begin()
    other = Worker(gateway)
    again = other.next()
    assert again["job-id"] == str(job.id)
    other.say(again, "result", 5)
    other.ack(again)
    become(job, state="succeeded", failures=0)
    left(gateway)


def test_when_the_session_is_lost_nothing_is_left_of_a_worker_that_has_gone(gateway: Place, offered: Offered) -> None:
    job = offered.job
    assert consumers(gateway) == 1  # the job's message is held until it is known whether the attempt has begun
    with connection.cursor() as cursor:
        cursor.execute("SELECT msgweb.bury_sessions(ARRAY[%s]::integer[])", [gateway.engine.session])
    until(lambda: consumers(gateway) == 0, SECONDS, "the subscription has ended")
    offered.begin()
    other = Worker(gateway)
    again = other.next()
    assert again["job-id"] == str(job.id)
    other.say(again, "result", 5)
    other.ack(again)
    become(job, state="succeeded", failures=0)
    left(gateway)


def test_a_job_that_must_not_begin_twice_fails_with_its_worker(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway, "samples.outside_once")
    worker.next()
    worker.client.close()
    become(job, state="failed")
    assert job.error["code"] == "worker_died"
    left(gateway)


def test_who_acknowledges_and_leaves_without_a_result_has_failed(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway, "samples.by_others_again")
    worker.ack(worker.next())
    worker.client.confirmed("DISCONNECT")
    become(job, state="waiting", failures=1)
    assert job.error["code"] == "unanswered"


def test_a_nack_is_a_failed_attempt(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway, "samples.by_others_again")
    message = worker.next()
    worker.client.send("SEND", b"so far", destination=message["reply-to"], job_event="log")
    worker.ack(message, "NACK", **{"x-delay": "3600000"})
    become(job, state="waiting", failures=1)
    assert (job.error["code"], log(job)) == ("nacked", ["so far"])
    assert job.run_at is not None and (job.run_at - job.created_at).total_seconds() > 3500
    left(gateway, 1)  # that of the next attempt
    other = ask(gateway, "samples.by_others_again")
    worker.ack(worker.next(), "NACK", requeue="false")
    become(other, state="failed")


def test_in_a_transaction_too(gateway: Place) -> None:
    worker = Worker(gateway)
    done, refused = ask(gateway), ask(gateway, "samples.by_others_again")
    one, two = worker.next(), worker.next()
    worker.say(one, "result", 1)
    worker.client.send("BEGIN", transaction="t")
    worker.client.send("SEND", b"x", destination="/queue/samples.beside", transaction="t")
    worker.client.send("ACK", id=one["message-id"], transaction="t")
    worker.client.send("NACK", id=two["message-id"], transaction="t")
    worker.client.confirmed("COMMIT", transaction="t")
    become(refused, state="waiting", failures=1)
    become(done, state="succeeded")
    left(gateway, 1)


def test_who_unsubscribes_keeps_the_jobs_that_it_has_acknowledged(gateway: Place) -> None:
    worker = Worker(gateway)
    kept, returned = ask(gateway), ask(gateway)
    message, _ = worker.next(), worker.next()
    worker.ack(message)
    worker.client.confirmed("UNSUBSCRIBE", id="w")
    become(returned, state="ready", attempt=1)
    worker.say(message, "progress", {"done": 1, "total": 1})
    kept.refresh_from_db()
    assert (kept.state, kept.attempt) == ("running", 1)
    worker.say(message, "result", "kept")
    become(kept, state="succeeded", attempt=1)
    left(gateway, 1)


def test_who_does_not_acknowledge_has_no_more_jobs_than_its_prefetch(gateway: Place) -> None:
    jobs = [ask(gateway) for _ in range(5)]
    worker = Worker(gateway, ack="auto", prefetch_count=2)
    messages = [worker.next(), worker.next()]
    assert worker.client.silent(0.1)
    other = Worker(gateway, ack="auto", prefetch_count=10)
    messages += [other.next() for _ in range(3)]
    assert {message["job-id"] for message in messages} == {str(job.id) for job in jobs}


def test_a_message_that_only_looks_like_a_job_is_a_message(gateway: Place) -> None:
    other = gateway.connected(host=OTHER_NAMESPACE)
    other.confirmed("SUBSCRIBE", destination=QUEUE, id="w", ack="client")
    job = ask(gateway)
    for named in (str(job.id), str(uuid.uuid4()), "nobody"):
        other.confirmed("SEND", b"x", destination=QUEUE, job_id=named, reply_to=f"/job/{named}", persistent="true")
        message = other.expect("MESSAGE")
        assert (message["job-id"], message.get("job-attempt")) == (named, None)
        other.confirmed("ACK", id=message["ack"])
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("ready", 0)


def test_jobs_that_ended_or_were_given_another_message_are_not_handed_out(gateway: Place) -> None:
    cancelled, held, edited = ask(gateway), ask(gateway), ask(gateway)
    control.cancel(cancelled.id, "the test")
    control.hold(held.id, "the test")
    control.edit(edited.id, "the test", arguments={"order": 8})
    worker = Worker(gateway)
    message = worker.next()
    assert message["job-id"] == str(edited.id), (cancelled.id, held.id, message)
    assert json.loads(message.body) == {"order": 8}
    assert worker.client.silent(0.1)
    left(gateway, 1)


def test_a_worker_may_miss_its_beats_while_it_has_a_job_though_it_acknowledged_first(
    gateway: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.stomp.protocol.heartbeat.TOLERANCE_MS", 500)
    job = ask(gateway)
    client = gateway.client()
    client.connect(heart_beat="100,0")
    client.send("SUBSCRIBE", destination=QUEUE, id="w", ack="client-individual")
    message = client.expect("MESSAGE")
    client.confirmed("ACK", id=message["ack"])
    assert client.silent(1.5)  # more than twice as long as it may be silent while it does nothing
    client.confirmed("SEND", b"1", destination=message["reply-to"])
    become(job, state="succeeded")
    client.expect_error("heart_beat_missed")


# -- cancel and timeout


def test_a_worker_is_told_to_stop_and_stops(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    assert control.cancel(job.id, "the test").state == "running"
    told = worker.next()
    assert (told["subscription"], told["destination"]) == ("c", "/job/control")
    assert (told["job-id"], told["job-event"], told["job-attempt"]) == (str(job.id), "cancel", "1")
    assert json.loads(told.body) == {"reason": "cancelled", "grace": FOREVER}
    worker.say(message, "log", "clearing up")
    worker.say(message, "cancelled", "")
    worker.ack(message)
    become(job, state="cancelled")
    assert (log(job)[-1], outcomes(job)) == ("clearing up", ["cancelled"])
    left(gateway)
    assert worker.client.silent(0.05)


def test_a_result_within_the_grace_counts_and_an_error_is_a_cancel(gateway: Place) -> None:
    worker = Worker(gateway)
    for event, state in (("result", "succeeded"), ("error", "cancelled")):
        job = ask(gateway)
        message = worker.next()
        control.cancel(job.id, "the test")
        worker.next()
        worker.say(message, event, "x")
        become(job, state=state)
        worker.ack(message)
    left(gateway)


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_after_the_grace_the_job_is_taken_away_and_what_is_said_later_is_dropped_without_an_error(
    strict: Place, version: str
) -> None:
    worker = Worker(strict, version)
    job = ask(strict)
    message = worker.next()
    control.cancel(job.id, "the test")
    assert [worker.next()["job-event"] for _ in range(2)] == ["cancel", "over"]
    become(job, state="cancelled")
    seen = Event.objects.filter(job=job).count()
    for event, body in (("progress", {"done": 1, "total": 1}), ("log", "late"), ("result", "late")):
        worker.say(message, event, body)
        told = worker.next()
        assert (told["job-event"], json.loads(told.body)) == ("over", {"reason": "cancelled"})
    worker.ack(message)
    left(strict)
    job.refresh_from_db()
    assert (job.result, Event.objects.filter(job=job).count()) == (None, seen)
    ask(strict)
    assert worker.next()["job-attempt"] == "1"  # the connection lives, and is free for the next job


def test_from_a_worker_that_does_not_listen_the_job_is_taken_at_once(gateway: Place) -> None:
    worker = Worker(gateway, listens=False)
    job = ask(gateway)
    message = worker.next()
    control.cancel(job.id, "the test")
    become(job, state="cancelled")
    worker.say(message, "progress", {"done": 1, "total": 1})
    worker.say(message, "result", "late")
    worker.ack(message)
    left(gateway)
    job.refresh_from_db()
    assert (job.state, job.result) == ("cancelled", None)
    worker.client.confirmed("SUBSCRIBE", destination="/job/control", id="c")
    assert worker.client.silent(0.05)  # the job is acknowledged: there is nothing left to say


def test_who_listens_later_hears_of_what_it_missed(gateway: Place) -> None:
    worker = Worker(gateway, listens=False)
    job = ask(gateway)
    worker.next()
    control.cancel(job.id, "the test")
    become(job, state="cancelled")
    worker.client.confirmed("SUBSCRIBE", destination="/job/control", id="c")
    told = worker.next()["job-event"]
    if told == "cancel":  # it was read before the job was over
        told = worker.next()["job-event"]
    assert told == "over"
    worker.client.confirmed("UNSUBSCRIBE", id="c")
    worker.client.confirmed("SUBSCRIBE", destination="/job/control", id="c", ack="client")
    told = worker.next()
    worker.client.confirmed("ACK", id=told["ack"])  # as some do with whatever comes


def test_a_lost_notification_costs_a_poll(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    worker.next()
    Job.objects.filter(id=job.id).update(cancel_requested_at=job.created_at)
    assert worker.next()["job-event"] == "cancel"


def test_a_job_that_takes_too_long_is_told_so_and_tried_again(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway, "samples.outside_quick")
    message = worker.next()
    told = worker.next()
    assert (told["job-event"], json.loads(told.body)["reason"]) == ("cancel", "timeout")
    worker.say(message, "cancelled", "")
    become(job, state="waiting", failures=1)
    assert job.error["code"] == "timeout"


def test_and_taken_away_where_it_goes_on(strict: Place) -> None:
    worker = Worker(strict)
    job = ask(strict, "samples.outside_quick")
    message = worker.next()
    assert [worker.next()["job-event"] for _ in range(2)] == ["cancel", "over"]
    become(job, state="waiting", failures=1)
    assert (job.error["code"], outcomes(job)) == ("timeout", ["failed"])
    worker.say(message, "result", "late")
    assert json.loads(worker.next().body) == {"reason": "timeout"}
    job.refresh_from_db()
    assert (job.state, job.result) == ("waiting", None)


def test_the_time_of_a_job_that_waits_at_its_worker_does_not_run(gateway: Place) -> None:
    worker = Worker(gateway)
    first, second = ask(gateway), ask(gateway, "samples.outside_quick")
    one, two = worker.next(), worker.next()
    assert worker.client.silent(0.2)
    worker.say(one, "result", 1)
    told = worker.next()
    assert (told["job-id"], told["job-event"]) == (str(second.id), "cancel")
    worker.say(two, "result", 2)
    become(second, state="succeeded")
    become(first, state="succeeded")


# -- the fence


def test_of_two_attempts_only_the_last_is_heard(gateway: Place) -> None:
    worker = Worker(gateway, prefetch_count=1)
    job = ask(gateway)
    worker.next()
    other = Worker(gateway, prefetch_count=1)
    worker.client.close()
    again = other.next()
    back = gateway.connected()
    back.confirmed("SUBSCRIBE", destination="/job/control", id="c")
    back.confirmed("SEND", b"1", destination=f"/job/{job.id}", job_event="result", job_attempt="1")
    told = back.expect("MESSAGE")
    assert (told["job-event"], json.loads(told.body)) == ("over", {"reason": "lost"})
    other.say(again, "result", 2)
    become(job, state="succeeded", attempt=2, result=2)


def test_the_result_of_a_lost_worker_counts_while_nobody_has_taken_the_job_up(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    worker.client.close()
    become(job, state="ready")
    back = gateway.connected()
    back.confirmed("SEND", b"1", destination=message["reply-to"], job_event="progress", job_attempt="1")
    job.refresh_from_db()
    assert job.state == "ready"
    back.confirmed("SEND", b"1", destination=message["reply-to"], job_event="result", job_attempt="1")
    become(job, state="succeeded", result=1)
    Worker(gateway)
    left(gateway)  # its message is void


def test_another_connection_of_the_worker_may_speak_for_it(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    beside = gateway.connected()
    beside.confirmed("SEND", b"half way", destination=message["reply-to"], job_event="log")
    beside.confirmed("SEND", b"1", destination=message["reply-to"], job_event="result")
    become(job, state="succeeded", attempt=1, result=1)
    assert log(job) == ["half way"]
    worker.ack(message)
    left(gateway)


def test_an_attempt_is_a_number(gateway: Place) -> None:
    client = gateway.connected()
    client.send("SEND", b"1", destination=f"/job/{ask(gateway).id}", job_event="result", job_attempt="first")
    client.expect_error("bad_message")


# -- limits


def test_no_more_than_its_limit_are_handed_out_and_nobody_else_waits_for_it(gateway: Place) -> None:
    jobs = [ask(gateway, "samples.outside_twos", customer=1) for _ in range(5)]
    beside = ask(gateway, "samples.outside_twos", customer=2)
    free = ask(gateway)
    workers = [Worker(gateway), Worker(gateway, ack="auto")]
    messages: dict[str, tuple[Worker, Frame]] = {}

    def collect(count: int) -> None:
        """The next messages, at whichever worker they come."""
        while count:
            for worker in workers:
                if not worker.client.silent(0.02):
                    message = worker.next()
                    messages[message["job-id"]] = worker, message
                    count -= 1

    collect(4)
    assert {str(beside.id), str(free.id)} < messages.keys()
    at_work = [str(job.id) for job in jobs if str(job.id) in messages]
    assert len(at_work) == 2
    assert all(worker.client.silent(0.1) for worker in workers)
    states = sorted(Job.objects.filter(task="samples.outside_twos").values_list("state", flat=True))
    assert states == ["ready"] * 3 + ["running"] * 3
    while at_work:
        worker, message = messages[at_work.pop(0)]
        worker.say(message, "result", 1)
        worker.ack(message)
        if len(messages) < 7:
            before = set(messages)
            collect(1)
            at_work += messages.keys() - before
    for job in jobs:
        become(job, state="succeeded", attempt=1)


def test_a_place_is_given_back_by_a_worker_that_goes(gateway: Place) -> None:
    jobs = [ask(gateway, "samples.outside_twos", customer=1) for _ in range(3)]
    worker = Worker(gateway)
    worker.next(), worker.next()
    control.cancel(jobs[0].id, "the test")
    told = worker.next()
    worker.client.confirmed("SEND", b"", destination=f"/job/{told['job-id']}", job_event="cancelled")
    assert worker.next()["job-id"] == str(jobs[2].id)


def test_a_pace_holds_for_consumers(gateway: Place) -> None:
    jobs = [ask(gateway, "samples.outside_paced") for _ in range(4)]
    worker = Worker(gateway)
    assert {worker.next()["job-id"] for _ in range(2)} == {str(job.id) for job in jobs[:2]}
    for job in jobs[2:]:
        become(job, state="scheduled")
    assert worker.client.silent(0.05)


def test_by_a_word_alone_nobody_gets_beyond_a_limit(gateway: Place) -> None:
    jobs = [ask(gateway, "samples.outside_twos", customer=1) for _ in range(3)]
    client = gateway.connected("1.0")
    for job in jobs[:2]:
        client.confirmed("SEND", b"begun", destination=f"/job/{job.id}", job_event="log")
    client.send("SEND", b"begun", destination=f"/job/{jobs[2].id}", job_event="log")
    client.expect_error("conflict")
    become(jobs[2], state="ready", attempt=0)
    client.confirmed("SEND", b"1", destination=f"/job/{jobs[0].id}", job_event="result")
    worker = Worker(gateway)
    assert worker.next()["job-id"] in {str(job.id) for job in jobs[1:]}
