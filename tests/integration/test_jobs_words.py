"""What workers outside say, and how much of it: joined, bounded and in order, over sockets and into the database."""

import json
import uuid
from typing import Any

import pytest

from apps.jobs import control
from apps.jobs.log_limit import BURST
from apps.jobs.models import Event, Job
from tests.installation import until
from tests.outside_workers import Place, Worker, ask, become, gateway, log, port, strict
from tests.stomp_gateway import OTHER_NAMESPACE, SECONDS, Frame

__all__ = ["gateway", "port", "strict"]  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)

NOTICES = "… "  # with which a notice begins


def word(message: Frame, event: str, body: Any, **headers: Any) -> bytes:
    """A SEND, as bytes."""
    lines = {"destination": message["reply-to"], "job-event": event, "content-type": "application/json", **headers}
    return "SEND\n{}\n\n{}\0".format(
        "\n".join(f"{name}:{value}" for name, value in lines.items()), json.dumps(body)
    ).encode()


def kinds(job: Job) -> list[str]:
    return list(Event.objects.filter(job=job).values_list("kind", flat=True))


def left_out(lines: list[str]) -> int:
    """How many lines the notices tell of."""
    return sum(int(line.split()[1].replace(",", "")) for line in lines if line.startswith(NOTICES))


def test_a_flood_of_progress_is_one_quick_end_with_the_last_of_it_shown(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    flood = [word(message, "progress", {"done": number + 1, "total": 5_000}) for number in range(5_000)]
    worker.client.write(b"".join([*flood, word(message, "result", "done", receipt="end")]))
    assert worker.client.expect("RECEIPT")["receipt-id"] == "end"
    become(job, state="succeeded", result="done")
    assert (job.progress.done, job.progress.total) == (5_000, 5_000)
    shown = [event.data["done"] for event in Event.objects.filter(job=job, kind="progress")]
    assert shown == sorted(set(shown)) and shown[-1] == 5_000
    assert len(shown) < 500
    assert kinds(job)[-2:] == ["progress", "state"]


def test_lines_come_in_order_and_progress_keeps_its_place_among_them(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    flood = []
    for number in range(500):
        flood += [word(message, "progress", {"done": 3 * number + step, "total": 1500}) for step in range(3)]
        flood.append(word(message, "log", f"{number}"))
    worker.client.write(b"".join([*flood, word(message, "result", 1, receipt="end")]))
    worker.client.expect("RECEIPT")
    become(job, state="succeeded")
    assert log(job) == [f"{number}" for number in range(500)]
    events = [event.data for event in Event.objects.filter(job=job).exclude(kind="state")]
    assert [data["done"] for data in events if "done" in data][-1] == 1499
    for number, data in enumerate(events):
        if "text" in data and "done" not in data:
            assert events[number - 1]["done"] == 3 * int(data["text"]) + 2, "the latest progress stands before the line"


def test_each_word_has_its_receipt_in_order_and_a_bad_one_its_error_and_the_good_ones_before_it_count(
    gateway: Place,
) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    flood = [word(message, "log", f"{number}", receipt=number) for number in range(300)]
    flood.append(word(message, "progress", {"done": "much", "total": 2}, receipt="bad"))
    worker.client.write(b"".join(flood))
    assert [worker.client.expect("RECEIPT")["receipt-id"] for _ in range(300)] == [f"{n}" for n in range(300)]
    assert worker.client.expect_error("bad_message")["receipt-id"] == "bad"
    assert log(job) == [f"{number}" for number in range(300)]


def test_a_log_is_limited_and_says_how_much_was_left_out(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    count = BURST * 4
    worker.client.write(b"".join(word(message, "log", f"{number}") for number in range(count)))
    worker.say(message, "result", 1)
    become(job, state="succeeded")
    lines = log(job)
    kept = [line for line in lines if not line.startswith(NOTICES)]
    assert kept[:BURST] == [f"{number}" for number in range(BURST)]
    assert len(kept) + left_out(lines) == count
    assert lines[-1].startswith(NOTICES) or lines[-1] == f"{count - 1}"
    assert "over 200 a second" in next(line for line in lines if line.startswith(NOTICES))


@pytest.mark.parametrize("end", ["nack", "unsubscribe", "taken away"])
def test_the_log_says_what_was_left_out_though_the_worker_does_not_say_the_end(strict: Place, end: str) -> None:
    worker = Worker(strict)
    job = ask(strict)
    message = worker.next()
    worker.say(message, "log", "\n".join("x" * (BURST * 2)))
    if end == "nack":
        worker.ack(message, "NACK")
        become(job, state="failed")
    elif end == "unsubscribe":
        worker.client.confirmed("UNSUBSCRIBE", id="w")
        become(job, state="ready")
    else:
        control.cancel(job.id, "the test")
        become(job, state="cancelled")
    lines = [line for line in log(job) if line == "x" or line.startswith(NOTICES)]
    assert len(lines) == BURST + 1 and lines[-1].startswith("… 2,000 lines left out")


def test_a_body_of_a_million_lines_costs_no_more_than_those_that_are_kept(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    body = b"\n" * 1024 * 1024
    for _ in range(4):
        worker.client.confirmed("SEND", body, destination=message["reply-to"], job_event="log")
    worker.say(message, "log", "y" * 1024 * 1024)
    worker.say(message, "result", 1)
    become(job, state="succeeded")
    lines = log(job)
    kept = [line for line in lines if not line.startswith(NOTICES)]
    assert len(kept) >= BURST and len(kept) + left_out(lines) == 4 * 1024 * 1024 + 1


def test_words_about_two_attempts_in_one_flood_count_for_the_one_that_is_at_work(gateway: Place) -> None:
    lost = Worker(gateway, prefetch_count=1)
    job = ask(gateway)
    lost.next()
    worker = Worker(gateway, prefetch_count=1)
    lost.client.close()
    message = worker.next()
    assert message["job-attempt"] == "2"
    flood = [
        word(message, "log", f"{attempt}: {number}", **{"job-attempt": attempt})
        for number in range(200)
        for attempt in (1, 2)
    ]
    worker.client.write(b"".join(flood))
    worker.client.write(word(message, "result", "late", **{"job-attempt": 1}))
    worker.client.write(word(message, "result", "done", receipt="end", **{"job-attempt": 2}))
    while (frame := worker.client.read()).command == "MESSAGE":
        assert (frame["job-event"], frame["job-attempt"]) == ("over", "1")
    assert frame["receipt-id"] == "end"
    become(job, state="succeeded", attempt=2, result="done")
    assert log(job) == [f"2: {number}" for number in range(200)]


def test_a_flood_about_a_job_of_another_namespace_changes_nothing(gateway: Place) -> None:
    job = ask(gateway)
    other = gateway.connected(host=OTHER_NAMESPACE)
    seen = Event.objects.filter(job=job).count()
    target = Frame("MESSAGE", [b"reply-to:/job/%b" % str(job.id).encode()], b"")
    flood = [word(target, "progress", {"done": 1, "total": 2}) for _ in range(100)]
    other.write(b"".join([*flood, word(target, "result", 1, receipt="end")]))
    other.expect_error("unknown_job")
    job.refresh_from_db()
    assert (job.state, job.attempt, Event.objects.filter(job=job).count()) == ("ready", 0, seen)


def test_what_follows_the_end_in_a_flood_is_dropped_and_told_of_and_confirmed(gateway: Place) -> None:
    worker = Worker(gateway)
    job = ask(gateway)
    message = worker.next()
    late = [word(message, "log", "late") for _ in range(1_000)]
    late.append(word(message, "progress", "no progress at all", receipt="late"))  # nor is it an ERROR
    worker.client.write(b"".join([word(message, "result", 1), *late]))
    told = worker.next()
    assert (told["job-event"], json.loads(told.body)) == ("over", {"reason": "ended"})
    while (frame := worker.client.read()).command == "MESSAGE":
        assert frame["job-event"] == "over"
    assert frame["receipt-id"] == "late"
    become(job, state="succeeded")
    assert log(job) == [] and kinds(job)[-1] == "state"
    worker.ack(message)


def test_an_asker_hears_of_the_progress_that_counts_and_then_the_result(gateway: Place) -> None:
    asker = gateway.connected()
    worker = Worker(gateway)
    asker.send(
        "SEND",
        b'{"order": 7}',
        destination="/task/samples.by_others",
        reply_to="/temp-queue/r",
        correlation_id=str(uuid.uuid4()),
        progress="true",
    )
    assert asker.expect("MESSAGE")["job-event"] == "accepted"
    message = worker.next()
    flood = []
    for number in range(1_000):
        flood += [word(message, "progress", {"done": number, "total": 999}), word(message, "log", "between")]
    worker.client.write(b"".join([*flood, word(message, "result", "done")]))
    dones: list[int] = []
    while (news := asker.expect("MESSAGE"))["job-event"] == "progress":
        dones.append(json.loads(news.body)["done"])
    assert json.loads(news.body) == "done"
    assert dones == sorted(set(dones)) and dones[-1] == 999
    assert len(dones) < 500


def test_over_another_connection_each_jobs_log_is_limited_by_itself(gateway: Place) -> None:
    worker = Worker(gateway)
    one, two = ask(gateway), ask(gateway)
    messages = [worker.next(), worker.next()]
    beside = gateway.connected()
    for message in messages:
        body = "\n".join("x" * (BURST + 500)).encode()
        beside.confirmed("SEND", body, destination=message["reply-to"], job_event="log", job_attempt="1")
    for message in messages:
        beside.confirmed("SEND", b"1", destination=message["reply-to"], job_attempt="1")
    for job in (one, two):
        become(job, state="succeeded")
        assert log(job) == ["x"] * BURST + ["… 500 lines left out: over 200 a second"]


def test_words_of_several_jobs_at_a_time_are_each_in_order(gateway: Place) -> None:
    worker = Worker(gateway)
    jobs = [ask(gateway) for _ in range(5)]
    messages = [worker.next() for _ in jobs]
    flood = [word(message, "log", f"{number}") for number in range(100) for message in messages]
    flood += [word(message, "result", number) for number, message in enumerate(messages)]
    worker.client.write(b"".join(flood))
    for message in messages:
        worker.ack(message)
    ended = {str(job.id): job for job in jobs}
    for number, message in enumerate(messages):
        job = ended[message["job-id"]]
        become(job, state="succeeded", result=number)
        assert log(job) == [f"{number}" for number in range(100)]


def test_a_worker_that_floods_does_not_keep_others_from_their_words(gateway: Place) -> None:
    workers = [Worker(gateway, prefetch_count=1) for _ in range(6)]  # more than there are threads for it
    jobs = [ask(gateway) for _ in workers]
    messages = [worker.next() for worker in workers]
    for worker, message in zip(workers, messages, strict=True):
        worker.client.write(
            b"".join(word(message, "progress", {"done": number, "total": 3_000}) for number in range(3_000))
        )
    for worker, message in zip(workers, messages, strict=True):
        worker.say(message, "result", 1)
        worker.ack(message)
    for job in jobs:
        become(job, state="succeeded")
        assert job.progress.done == 2_999
    until(lambda: all(connection.quiet for connection in gateway.gateway.connections), SECONDS, "all is done")
