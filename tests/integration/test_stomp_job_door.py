"""The gateway's door to jobs: what is asked for and said comes in order, together where it may, and within bounds."""

import asyncio
import json
import threading
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from apps.jobs.outside import Heard
from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.gateway.ports import Word
from msgweb.errors import BadArguments
from tests.installation import until
from tests.stomp_gateway import NAMESPACE, SECONDS, RunningGateway, WireClient, stomp_database

__all__ = ["stomp_database"]  # fixtures


class Desk:
    """A `TaskPort` that writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    async def submit(self, **asked: Any) -> str:
        await asyncio.get_running_loop().run_in_executor(None, self.gate.wait, SECONDS)
        self.asked.append(asked)
        if asked["body"] == b"wrong":
            raise BadArguments("the arguments do not fit")
        if asked["body"] == b"bug":
            raise ValueError("some secret detail")
        return str(uuid.uuid4())

    def hearing(self, **of: Any) -> "DeskHearing":
        return DeskHearing(self, of)


class DeskHearing:
    """A `Hearing` that writes down the words, and of what."""

    def __init__(self, desk: Desk, of: dict[str, Any]) -> None:
        self.desk = desk
        self.of = of

    async def hear(self, words: Sequence[Word], **told: Any) -> list[Heard]:
        await asyncio.get_running_loop().run_in_executor(None, self.desk.gate.wait, SECONDS)
        self.desk.asked += [{**self.of, **told, **word._asdict(), "together": len(words)} for word in words]
        return [Heard(True, "running")] * len(words)


def test_a_send_to_a_task_asks_for_a_job_and_is_confirmed_when_that_is_durable(stomp_database: str) -> None:
    desk = Desk()
    with RunningGateway(stomp_database, tasks=desk) as gateway:
        client = gateway.connected()
        desk.gate.clear()
        client.send(
            "SEND", b'{"a": 1}', destination="/task/firebrand.clone", reply_to="/temp-queue/r", receipt=1, x="a\\cb"
        )
        client.send("SEND", b"after", destination="/topic/x", receipt=2)
        assert client.silent(0.2)  # receipts are in order, so the second waits too
        desk.gate.set()
        assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["1", "2"]
        [asked] = desk.asked
        assert asked["namespace"] == NAMESPACE and asked["task"] == "firebrand.clone"
        assert json.loads(asked["body"]) == {"a": 1}
        assert asked["reply_to"].startswith("/reply-queue/") and asked["headers"]["reply-to"] == asked["reply_to"]
        assert asked["headers"]["x"] == "a:b"
        assert asked["requested_by"] == "guest"


def test_a_job_may_be_asked_for_later_and_expire_and_nothing_else_is_ignored(stomp_database: str) -> None:
    desk = Desk()
    with RunningGateway(stomp_database, tasks=desk) as gateway:
        client = gateway.connected()
        late = {"AMQ_SCHEDULED_DELAY": "5000", "ttl": "9000"}
        client.confirmed("SEND", b"{}", destination="/task/firebrand.clone", **late)
        assert (desk.asked[0]["delay"], desk.asked[0]["expires"]) == (5.0, 9.0)
        client.confirmed("SEND", b"{}", destination="/task/firebrand.clone")
        assert "delay" not in desk.asked[1]
    for wish in ({"AMQ_SCHEDULED_CRON": "* * * * *"}, {"JMSXGroupID": "g"}, {"x-deduplication-id": "d"}):
        with RunningGateway(stomp_database, tasks=desk) as gateway:
            client = gateway.connected()
            client.send("SEND", b"{}", destination="/task/firebrand.clone", **wish)
            assert "its task says how" in client.expect("ERROR")["message"]


def test_what_a_foreign_worker_says_about_a_job_arrives_in_order(stomp_database: str) -> None:
    desk = Desk()
    with RunningGateway(stomp_database, tasks=desk) as gateway:
        client = gateway.connected()
        for number in range(300):
            client.send("SEND", b"%d" % number, destination="/job/abc", job_event="progress")
        client.confirmed("SEND", b"300", destination="/job/abc")
        assert [asked["body"] for asked in desk.asked] == [b"%d" % number for number in range(301)]
        assert {asked["job_id"] for asked in desk.asked} == {"abc"}
        assert [asked["event"] for asked in desk.asked] == ["progress"] * 300 + ["result"]


def _say(client: WireClient, text: str, body: bytes = b"", **headers: Any) -> None:
    """`a1 log`: a line about the first attempt at job a."""
    who, event = text.split()
    client.send("SEND", body, destination=f"/job/{who[0]}", job_event=event, job_attempt=who[1], **headers)


def _read(client: WireClient) -> None:
    """All that the client has sent until now was read, and what needs jobs was perhaps not done."""
    client.confirmed("BEGIN", transaction=uuid.uuid4().hex)


def test_words_that_wait_are_recorded_together_by_job_and_attempt_and_none_passes_an_end(stomp_database: str) -> None:
    desk = Desk()
    said = ["a1 progress", "a1 log", "b1 log", "a1 log", "a2 log", "a1 log", "b1 result", "b1 log", "a1 result"]
    with RunningGateway(stomp_database, tasks=desk) as gateway:
        client = gateway.connected()
        desk.gate.clear()
        client.send("SEND", b"{}", destination="/task/x")  # at which it is while the others come
        for text in said:
            _say(client, text)
        client.send("SEND", b"{}", destination="/task/y")
        _say(client, "b1 log")
        _read(client)
        desk.gate.set()
        client.confirmed("SEND", destination="/job/c")
    assert [
        asked["task"]
        if "task" in asked
        else f"{asked['job_id']}{asked['attempt']} {asked['event']} {asked['together']}"
        for asked in desk.asked
    ] == [
        "x",
        *("a1 progress 3", "a1 log 3", "a1 log 3", "b1 log 1", "a2 log 1", "a1 log 1"),
        *("b1 result 1", "b1 log 1", "a1 result 1"),
        *("y", "b1 log 1", "cNone result 1"),
    ]


@pytest.mark.parametrize("urgently", ["a receipt", "an end", "a request", "goodbye", "without a word", "too much"])
def test_words_that_nobody_waits_for_come_at_a_pace_unless_there_is_reason_to_hurry(
    stomp_database: str, monkeypatch: pytest.MonkeyPatch, urgently: str
) -> None:
    monkeypatch.setattr("apps.stomp.gateway.errands.PACE_SECONDS", 3600.0)
    desk = Desk()

    def heard() -> list[tuple[str, int]]:
        return [(asked["job_id"], asked["together"]) for asked in desk.asked if "together" in asked]

    with RunningGateway(stomp_database, GatewayOptions(errand_bytes=100_000), desk) as gateway:
        client = gateway.connected()
        _say(client, "a1 progress")
        until(lambda: len(desk.asked) == 1, SECONDS, "the first is recorded at once")
        _say(client, "a1 progress")
        _say(client, "b1 log")
        _say(client, "a1 log")
        _read(client)
        assert len(desk.asked) == 1
        if urgently == "a receipt":
            _say(client, "a1 log", receipt=1)
            client.expect("RECEIPT")
        elif urgently == "an end":
            _say(client, "a1 result")
        elif urgently == "a request":
            client.send("SEND", b"{}", destination="/task/x")
        elif urgently == "goodbye":
            client.send("DISCONNECT")
        elif urgently == "without a word":
            client.close()
        else:
            _say(client, "a1 log", b"x" * 100_000)
        joined = 3 if urgently in ("a receipt", "too much") else 2
        until(lambda: len(heard()) >= joined + 2, SECONDS, "the others too")
    assert heard()[: joined + 2] == [("a", 1), *[("a", joined)] * joined, ("b", 1)]


def test_at_its_pace_a_word_comes_without_any_further_reason(
    stomp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.stomp.gateway.errands.PACE_SECONDS", 0.2)
    desk = Desk()
    with RunningGateway(stomp_database, tasks=desk) as gateway:
        client = gateway.connected()
        for _ in range(3):
            count = len(desk.asked)
            _say(client, "a1 progress")
            until(lambda count=count: len(desk.asked) > count, SECONDS, "it is recorded")  # type: ignore[misc]


def test_what_is_said_of_jobs_and_waits_takes_no_more_memory_than_it_may(stomp_database: str) -> None:
    desk = Desk()
    with RunningGateway(stomp_database, GatewayOptions(errand_bytes=64 * 1024), desk) as gateway:
        client = gateway.connected()
        desk.gate.clear()
        flood = threading.Thread(target=lambda: [_say(client, "a1 log", b"x" * 10_000) for _ in range(2_000)])
        flood.start()
        until(lambda: any("errands" in one.holds for one in gateway.gateway.connections), SECONDS, "it reads no more")
        desk.gate.set()
        flood.join()
        client.confirmed("SEND", destination="/job/a", job_attempt="1")
    assert len(desk.asked) == 2_001
    read = 256 * 1024  # at once, whatever the limit
    assert max(asked["together"] for asked in desk.asked) <= (64 * 1024 + read) // 10_000 + 2


@pytest.mark.parametrize(("body", "code"), [(b"wrong", "bad_arguments"), (b"bug", "internal_error")])
def test_a_refused_request_is_an_error_without_details(stomp_database: str, body: bytes, code: str) -> None:
    with RunningGateway(stomp_database, tasks=Desk()) as gateway:
        client = gateway.connected()
        client.send("SEND", body, destination="/task/x", receipt="r")
        frame = client.expect_error(code)
        assert frame["receipt-id"] == "r" and b"secret" not in frame.body


def test_jobs_are_not_asked_for_in_transactions(stomp_database: str) -> None:
    with RunningGateway(stomp_database, tasks=Desk()) as gateway:
        client = gateway.connected()
        client.send("BEGIN", transaction="t")
        client.send("SEND", b"{}", destination="/task/x", transaction="t")
        client.expect_error("not_supported")
