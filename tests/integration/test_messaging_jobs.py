"""The Messaging API for Python as a worker of jobs, against a real gateway."""

import threading
from collections.abc import Callable, Iterator

import pytest

from apps.jobs import control
from apps.messaging import JobCancelled, Message, Messaging
from tests.outside_workers import QUEUE, Place, ask, become, gateway, log, port, strict
from tests.stomp_gateway import SECONDS

__all__ = ["gateway", "port", "strict"]  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)

Work = Callable[[Message], object]


class Hand:
    """A program that does jobs, in a thread; `begun` is set while one is at work."""

    def __init__(self, at: Place, work: Work) -> None:
        self.begun = threading.Event()
        self.messaging = Messaging("127.0.0.1", at.port, "guest", "a:secret")
        self.messaging.on(QUEUE, lambda message: (self.begun.set(), work(message)), prefetch=1)
        self._thread = threading.Thread(target=self.messaging.run)
        self._thread.start()

    def close(self) -> None:
        self.messaging.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def hand() -> Iterator[Callable[[Place, Work], Hand]]:
    hands: list[Hand] = []

    def start(at: Place, work: Work) -> Hand:
        hands.append(Hand(at, work))
        return hands[-1]

    yield start
    for one in hands:
        one.close()


def until_told(message: Message) -> None:
    """Work that looks now and then whether it is to stop."""
    while True:
        message.checkpoint()
        threading.Event().wait(0.01)


def test_a_handlers_end_is_its_jobs(gateway: Place, hand: Callable[[Place, Work], Hand]) -> None:
    def work(message: Message) -> None:
        message.progress(1, 2, "half way")
        order = message.body["order"]
        if order == 1:
            message.reply({"attempt": message.attempt})
        elif order == 2:
            raise ValueError("no such order")
        elif order == 3:
            message.fail("sold out", "sold_out")

    hand(gateway, work)
    replied, raised, failed, silent = (ask(gateway, order=number) for number in (1, 2, 3, 4))
    become(replied, state="succeeded", result={"attempt": 1})
    become(raised, state="failed")
    assert raised.error["message"] == "ValueError: no such order"
    assert "in work" in raised.error["traceback"]
    become(failed, state="failed")
    assert failed.error["code"] == "sold_out"
    become(silent, state="succeeded", result=None)


def test_it_stops_when_its_job_is_cancelled_and_says_so(gateway: Place, hand: Callable[[Place, Work], Hand]) -> None:
    def work(message: Message) -> None:
        try:
            until_told(message)
        except JobCancelled as told:
            message.log(f"clearing up: {told.code}")
            raise

    one = hand(gateway, work)
    job = ask(gateway)
    assert one.begun.wait(SECONDS)
    control.cancel(job.id, "the test")
    become(job, state="cancelled")
    assert log(job)[-1] == "clearing up: cancelled"
    assert job.attempts.get().outcome == "cancelled"


def test_progress_stops_it_once(gateway: Place, hand: Callable[[Place, Work], Hand]) -> None:
    def work(message: Message) -> None:
        try:
            while True:
                message.progress(1, 2)
        except JobCancelled:
            message.progress(2, 2, "cleared up")
            message.reply("done all the same")

    one = hand(gateway, work)
    job = ask(gateway)
    assert one.begun.wait(SECONDS)
    control.cancel(job.id, "the test")
    become(job, state="succeeded", result="done all the same")


def test_a_result_that_comes_too_late_is_told(strict: Place, hand: Callable[[Place, Work], Hand]) -> None:
    late: list[str] = []
    cancelled, done = threading.Event(), threading.Event()

    def work(message: Message) -> None:
        if message.body["order"] == 7:
            cancelled.wait(SECONDS)
            try:
                message.reply("late")
            except JobCancelled as told:
                late.append(told.code)
                raise
        done.set()

    one = hand(strict, work)
    job = ask(strict)
    assert one.begun.wait(SECONDS)
    control.cancel(job.id, "the test")
    become(job, state="cancelled")
    cancelled.set()
    following = ask(strict, order=8)
    become(following, state="succeeded")
    assert late == ["cancelled"]


def test_a_job_that_was_cancelled_while_it_waited_here_is_not_begun(
    gateway: Place, hand: Callable[[Place, Work], Hand]
) -> None:
    go = threading.Event()
    begun: list[int] = []
    messaging = Messaging("127.0.0.1", gateway.port, "guest", "a:secret")

    def work(message: Message) -> None:
        begun.append(message.body["order"])
        if message.body["order"] == 1:
            go.wait(SECONDS)

    messaging.on(QUEUE, work, prefetch=2)
    thread = threading.Thread(target=messaging.run, kwargs={"limit": 2})
    thread.start()
    first, second = ask(gateway, order=1), ask(gateway, order=2)
    become(second, state="running")
    become(first, state="running")
    control.cancel(second.id, "the test")
    go.set()
    become(second, state="cancelled")
    become(first, state="succeeded")
    thread.join(SECONDS)
    messaging.close()
    assert begun == [1]
