"""Progress that a handler tells: joined where it comes too quickly, and never behind what is said after it."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from apps.messaging import Message
from apps.messaging.errors import BadMessage, ConnectionFailed


class Server:
    """Keeps what a message answers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.came = threading.Semaphore(0)
        self.away = False

    def answer(self, _destination: str, body: Any, headers: Mapping[str, str], _durable: bool) -> None:
        if self.away:
            raise ConnectionFailed("nobody answers")
        event = headers["job-event"]
        self.heard.append(body["done"] if event == "progress" else event)
        self.came.release()

    def message(self, **headers: str) -> Message:
        """A job's."""
        return Message("/queue/x", {"job-id": "7", "reply-to": "/job/7", **headers}, b"", self.answer)


def test_of_progress_that_comes_too_quickly_the_first_and_the_latest_arrive() -> None:
    server = Server()
    message = server.message()
    for done in range(1, 50_001):
        message.progress(done, 50_000)
    message.reply("done")
    assert server.heard[0] == 1
    assert server.heard[-2:] == [50_000, "result"]
    shown = server.heard[:-1]
    assert shown == sorted(set(shown)) and len(shown) < 1000


def test_the_latest_progress_arrives_though_the_handler_says_nothing_more() -> None:
    server = Server()
    message = server.message()
    for done in (1, 2, 3):
        message.progress(done, 3)
    while 3 not in server.heard:
        assert server.came.acquire(timeout=10)
    assert server.heard[0] == 1


@pytest.mark.parametrize("event", ["log", "result", "error", "finish"])
def test_progress_keeps_its_place_before_what_is_said_next(event: str) -> None:
    server = Server()
    message = server.message()
    message.progress(1, 2)
    message.progress(2, 2)
    if event == "log":
        message.log("a line")
    elif event == "result":
        message.reply(1)
    elif event == "error":
        message.fail("no")
    else:
        message.finish(None)
    assert server.heard == [1, 2, "result" if event == "finish" else event]
    assert message.finish(None)
    assert server.heard.count(2) == 1


def test_a_plain_requests_handler_that_does_not_reply_has_told_all_its_progress() -> None:
    server = Server()
    message = server.message(**{"reply-to": "/queue/answers"})
    message.progress(1, 2)
    message.progress(2, 2)
    message.finish(None)
    assert server.heard == [1, 2]


def test_progress_that_cannot_be_told_any_more_keeps_nothing_from_being_said() -> None:
    server = Server()
    message = server.message()
    message.progress(1, 3)
    message.progress(2, 3)
    server.away = True
    with pytest.raises(ConnectionFailed):
        message.reply("lost as well")
    server.away = False
    message.reply("done")
    assert server.heard[-1] == "result"


def test_where_nobody_waits_for_an_answer_each_progress_is_refused() -> None:
    message = Message("/queue/x", {}, b"", Server().answer)
    for _ in range(2):
        with pytest.raises(BadMessage):
            message.progress(1, 2)
