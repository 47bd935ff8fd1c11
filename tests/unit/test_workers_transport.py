"""What a job says on its way out of the slot: bounded, in order."""

import os
import subprocess
import threading
from collections.abc import Callable

from workers import wire
from workers.transport import Output, SlotTransport

JOB = wire.RunJob("12345678-1234-5678-1234-567812345678", 1, "n", "t", "{}")


class Supervisor:
    """Keeps what it is sent."""

    on_cancel: Callable[[tuple[str, int]], None] = staticmethod(lambda _key: None)

    def __init__(self) -> None:
        self.sent: list[wire.Message] = []
        self.came = threading.Semaphore(0)

    def send(self, message: wire.Message) -> None:
        self.sent.append(message)
        self.came.release()

    def record(self, job: str) -> None:
        raise AssertionError("no job of these tests is deferred")

    def cancelled(self, key: tuple[str, int]) -> str | None:
        return None

    @property
    def progress(self) -> list[int]:
        return [message.done for message in self.sent if isinstance(message, wire.Progress)]


def test_of_progress_that_comes_too_quickly_the_first_and_the_latest_arrive() -> None:
    supervisor = Supervisor()
    transport = SlotTransport(supervisor, JOB)
    for done in range(1, 100_001):
        transport.progress(done, 100_000, "")
    transport.close()
    assert supervisor.progress[0] == 1
    assert supervisor.progress[-1] == 100_000
    assert len(supervisor.progress) < 1000
    assert supervisor.progress == sorted(set(supervisor.progress))


def test_the_latest_progress_arrives_though_the_task_says_nothing_more() -> None:
    supervisor = Supervisor()
    transport = SlotTransport(supervisor, JOB)
    for done in (1, 2, 3):
        transport.progress(done, 3, "")
    assert supervisor.came.acquire(timeout=10)
    assert supervisor.came.acquire(timeout=10)
    assert supervisor.progress == [1, 3]


def test_progress_keeps_its_place_before_the_next_line() -> None:
    supervisor = Supervisor()
    transport = SlotTransport(supervisor, JOB)
    transport.progress(1, 2, "")
    transport.progress(2, 2, "")
    transport.log("info", "done")
    assert [type(message) for message in supervisor.sent] == [wire.Progress, wire.Progress, wire.Log]


def test_what_is_said_after_the_end_is_dropped() -> None:
    supervisor = Supervisor()
    transport = SlotTransport(supervisor, JOB)
    transport.close()
    transport.progress(1, 2, "")
    transport.log("info", "late")
    assert supervisor.sent == []


def test_raw_output_becomes_lines() -> None:
    reading, writing = os.pipe()
    lines: list[str] = []
    output = Output(reading)
    output._printed = lines.append  # without its thread: the test decides when it looks
    subprocess.run(["printf", "one\\r\\ntw"], stdout=writing, check=True)
    output.drain()
    assert lines == ["one"]
    subprocess.run(["printf", "o\\nunfinished"], stdout=writing, check=True)
    output.drain(end=True)
    assert lines == ["one", "two", "unfinished"]
    os.write(writing, b"x" * 10)
    for _ in range(20):
        os.write(writing, b"y" * 4096)
        output.drain()
    assert len(lines) == 4
    assert set(lines[3][10:4000]) <= {"y", "…"}
    os.close(writing)
    os.close(reading)


def test_a_watched_pipe_is_read_without_being_asked() -> None:
    reading, writing = os.pipe()
    came = threading.Event()
    Output(reading).start(lambda line: came.set() if line == "by itself" else None)
    os.write(writing, b"by itself\n")
    assert came.wait(10)
