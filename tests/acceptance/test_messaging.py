"""The Messaging API for Python, over stomp.py, against a real installation."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from apps.messaging import Message, Messaging, Progress, Refused, RequestFailed
from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.programs import Program

Enter = Callable[..., Messaging]


@pytest.fixture
def enter(installation: Installation) -> Iterator[Enter]:
    """Another program's door to the installation."""
    opened: list[Messaging] = []

    def messaging(namespace: str | None = None) -> Messaging:
        stomp = installation.credentials["stomp"]
        door = Messaging(
            stomp["host"], stomp["port"], stomp["login"], stomp["passcode"], namespace or stomp["namespace"], timeout=20
        )
        opened.append(door)
        return door

    yield messaging
    for door in opened:
        door.close()


def test_what_is_sent_arrives_as_it_was(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    bodies = [{"a": [1, None, "ü"]}, "grüß\nGott: \\", b"\x00\xff\n", "", []]
    sender, receiver = enter(), enter()
    for body in bodies:
        sender.send("things", body, headers={"x-colour": "red:green\\blue"})
    received: list[Message] = []
    receiver.on("things", received.append)
    assert receiver.run(limit=len(bodies)) == len(bodies)
    assert [message.body for message in received] == bodies
    assert {message.headers["x-colour"] for message in received} == {"red:green\\blue"}
    assert {message.destination for message in received} == {"/queue/things"}
    assert not any(message.redelivered for message in received)


def test_the_more_urgent_comes_first(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    sender, receiver = enter(), enter()
    for priority in (1, 9, 4):
        sender.send("things", priority, priority=priority)
    received: list[object] = []
    receiver.on("things", lambda message: received.append(message.body), prefetch=1)
    receiver.run(limit=3)
    assert received == [9, 4, 1]


def test_a_message_whose_handler_raised_comes_again_and_is_marked(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    receiver = enter()
    enter().send("things", "x")
    seen: list[bool] = []

    def handler(message: Message) -> None:
        seen.append(message.redelivered)
        if len(seen) == 1:
            raise RuntimeError("not this time")

    receiver.on("things", handler)
    assert receiver.run(limit=2) == 2
    assert seen == [False, True]
    assert receiver.run(idle=0.3) == 0, "acknowledged for good"


def test_what_a_program_that_left_has_not_handled_goes_to_the_next(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    first, second = enter(), enter()
    for number in range(5):
        first.send("things", number)
    handled: list[object] = []
    first.on("things", lambda message: handled.append(message.body), prefetch=5)
    first.run(limit=2)
    first.close()
    second.on("things", lambda message: handled.append(message.body))
    second.run(limit=3)
    assert handled == [0, 1, 2, 3, 4]


def test_every_listener_hears_what_is_published(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    listeners = [enter(), enter()]
    heard: list[list[object]] = [[], []]
    for listener, words in zip(listeners, heard, strict=True):
        listener.on("/topic/news", lambda message, words=words: words.append(message.body))
    sender = enter()
    sender.publish("news", {"headline": "rain"})
    sender.publish("news", "sun")
    for listener in listeners:
        listener.run(limit=2)
    assert heard == [[{"headline": "rain"}, "sun"]] * 2


def test_namespaces_do_not_hear_each_other(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    firebrand, taoshop = enter("firebrand.development"), enter("taoshop.development")
    heard: list[object] = []
    taoshop.on("things", lambda message: heard.append(message.body))
    firebrand.send("things", "for firebrand")
    enter("taoshop.development").send("things", "for taoshop")
    taoshop.run(limit=1)
    assert heard == ["for taoshop"]


def test_a_request_is_answered_by_another_program(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    worker, asker = enter(), enter()

    def work(message: Message) -> None:
        if message.body == "trouble":
            message.fail("cannot", code="no_can_do")
            return
        message.progress(1, 4, "a quarter")
        message.reply({"twice": message.body["number"] * 2})

    worker.on("doubling", work)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker.run, limit=2)
        told: list[Progress] = []
        reply = asker.request("/queue/doubling", {"number": 21}, on_progress=told.append, timeout=20)
        with pytest.raises(RequestFailed, match="cannot") as failed:
            asker.request("/queue/doubling", "trouble", timeout=20)
        assert working.result(20) == 2
    assert reply.body == {"twice": 42}
    assert [str(progress) for progress in told] == [" 25% a quarter"]
    assert failed.value.code == "no_can_do"


def test_a_task_is_done_by_a_worker_process(installation: Installation, enter: Enter) -> None:
    installation.start("stomp", "worker")
    installation.manage("seed_firebrand", "--name", "Ember", "--slug", "ember", "--products", "60")
    told: list[Progress] = []
    accepted: list[object] = []
    reply = enter().request(
        "firebrand.clone_brand",
        {"brand": "ember", "name": "Ember Nord", "domain": "nord.example"},
        timeout=60,
        on_accepted=accepted.append,
        on_progress=told.append,
    )
    assert reply.body["rows"]["products"] == 60
    assert told
    assert [progress.percent for progress in told] == sorted(progress.percent for progress in told)
    assert len(accepted) == 1
    assert reply.status_url == accepted[0].status_url  # type: ignore[attr-defined]


def test_a_task_with_bad_arguments_is_refused(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    with pytest.raises(Refused) as refused:
        enter().request("firebrand.clone_brand", {"colour": "red"})
    assert refused.value.code == "bad_arguments"
    with pytest.raises(Refused) as refused:
        enter().request("firebrand.no_such_task", {})
    assert refused.value.code == "unknown_task"


def test_a_request_outlives_the_gateway(installation: Installation, enter: Enter) -> None:
    installation.start("stomp", "worker")
    installation.manage("seed_firebrand", "--name", "Ember", "--slug", "ember", "--products", "400")
    under_way = threading.Event()
    job_id = uuid.uuid4()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            enter().request,
            "firebrand.clone_brand",
            {"brand": "ember", "name": "Ember Nord", "domain": "nord.example"},
            timeout=90,
            job_id=job_id,
            on_progress=lambda progress: under_way.set(),
        )
        assert under_way.wait(60)
        installation.kill("stomp")
        installation.start("stomp")
        reply = asking.result(90)
    assert reply.body["rows"]["products"] == 400
    assert reply.job_id == str(job_id)
    assert installation.query("SELECT count(*) FROM jobs_job") == [(1,)]
    assert installation.query("SELECT count(*) FROM firebrand_brand") == [(2,)]


def test_a_listener_survives_the_gateways_restart(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    receiver = enter()
    received: list[object] = []
    receiver.on("things", lambda message: received.append(message.body))
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(receiver.run, limit=1)
        installation.kill("stomp")
        installation.start("stomp")
        enter().send("things", "after the restart")
        assert listening.result(30) == 1
    assert received == ["after the restart"]


def test_it_works_outside_django(installation: Installation) -> None:
    installation.start("stomp")
    code = (
        "import sys; from apps.messaging import Messaging\n"
        "with Messaging.from_environment() as messaging:\n"
        "    messaging.send('things', {'from': 'a plain program'})\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('django', 'msgweb')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=installation.env, cwd=REPOSITORY, capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr


def test_a_program_ends_on_sigterm_after_its_message(installation: Installation, enter: Enter) -> None:
    installation.start("stomp")
    code = (
        "import signal, time; from apps.messaging import Messaging\n"
        "with Messaging.from_environment() as messaging:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: messaging.stop())\n"
        "    messaging.on('things', lambda message: print('has', message.body, flush=True) or time.sleep(0.5))\n"
        "    print('handled', messaging.run())\n"
    )
    program = Program([sys.executable, "-c", code], {**os.environ, **installation.env}, cwd=REPOSITORY)
    try:
        enter().send("things", "x")
        program.wait_for("has x")
        program.signal(signal.SIGTERM)
        assert program.wait(20) == 0, program.output
        assert program.lines[-1] == "handled 1"
    finally:
        program.close()
    second = enter()
    second.on("things", lambda message: None)
    assert second.run(idle=0.3) == 0, "the message was acknowledged"
