"""A slot: the process that does jobs, one at a time, or several that wait more than they work.

It is forked by the worker's main process, talks to the supervisor over a socket, and to nothing of the broker. A thread
of its own reads the socket, so that a cancel is seen while a task works. When the supervisor dies, so does the slot.
"""

import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

from workers import wire
from workers.running import Desk, Runner, SerialRunner
from workers.transport import Output

HEALTH_SECONDS = 1.0  # between two reports of a slot's memory,
HEALTH_JOBS = 100  # or so many jobs
#: When a slot of several jobs at a time looks for garbage that refers to itself: the hundreds that it has are none.
COLLECTED = 5_000, 20, 50
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RESTORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD)


class Channel:
    """The slot's end of the socket. May be used by all threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: deque[wire.RunJob] = deque()
        self._arrived = threading.Condition(threading.Lock())
        self._stopped = False
        self._cancelled: dict[tuple[str, int], str] = {}
        self._recorded: dict[str, threading.Event] = {}
        #: Told of each cancel, by the thread that reads: for jobs that need not ask.
        self.on_cancel: Callable[[tuple[str, int]], None] = lambda _key: None

    def send(self, *messages: wire.Message) -> None:
        """Send; waits while the supervisor is behind."""
        data = wire.encode(messages)
        with self._lock:
            try:
                self._connection.sendall(data)
            except OSError:
                os._exit(1)  # the supervisor is gone, and the job with it

    def read(self) -> None:
        """Take what the supervisor says until it dies. Runs in a thread of its own."""
        decoder = wire.Decoder()
        while True:
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                os._exit(1)
            jobs: list[wire.RunJob] = []
            for message in decoder.feed(data):
                if isinstance(message, wire.RunJob):
                    jobs.append(message)
                    continue
                self._arrive(jobs)
                if isinstance(message, wire.CancelJob):
                    self._cancelled.setdefault((message.job, message.attempt), message.why)
                    self.on_cancel((message.job, message.attempt))
                elif isinstance(message, wire.Recorded):
                    if (recorded := self._recorded.get(message.job)) is not None:
                        recorded.set()
                elif isinstance(message, wire.Recall):
                    self._recall(message.keep)
                elif isinstance(message, wire.Stop):
                    with self._arrived:
                        self._stopped = True
                        self._arrived.notify_all()
            self._arrive(jobs)

    def _arrive(self, jobs: list[wire.RunJob]) -> None:
        if jobs:
            with self._arrived:
                self._waiting.extend(jobs)
                self._arrived.notify()
            jobs.clear()

    def _recall(self, keep: int) -> None:
        with self._arrived:
            kept = [self._waiting.popleft() for _ in range(min(keep, len(self._waiting)))]
            returned = [job.job for job in self._waiting]
            self._waiting.clear()
            self._waiting.extend(kept)
        self.send(wire.Returned(returned))

    def take(self, most: int, seconds: float | None = None) -> list[wire.RunJob]:
        """The next jobs, at most so many; waits for the first. Empty: there are no more, or none came within so many
        seconds (see `stopped`)."""
        waiting = self._waiting
        with self._arrived:
            while not waiting:
                if self._stopped or not self._arrived.wait(seconds):
                    return []
            return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    @property
    def stopped(self) -> bool:
        """Whether there are no more jobs."""
        with self._arrived:
            return self._stopped and not self._waiting

    def record(self, job: str) -> None:
        """Have a job's start recorded that was deferred, and wait until it is."""
        recorded = self._recorded.setdefault(job, threading.Event())
        if not recorded.is_set():
            self.send(wire.Record(job))
            recorded.wait()

    def cancelled(self, key: tuple[str, int]) -> str | None:
        """Why that attempt should stop, if it should."""
        return self._cancelled.get(key)

    def forget(self, key: tuple[str, int]) -> None:
        """It has ended."""
        self._cancelled.pop(key, None)
        self._recorded.pop(key[0], None)


class Slot:
    """Takes jobs from the channel, has them run, and reports how they ended."""

    def __init__(self, channel: Channel, runner: Runner) -> None:
        self._channel = channel
        self._runner = runner
        self._done = 0
        self._reported_at = float("-inf")
        self._reported = 0
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Do jobs until told to stop."""
        self._report()
        while not self._channel.stopped:
            # What the last jobs of a burst left behind is told a little later, when nothing else comes.
            room = self._runner.room()
            jobs = self._channel.take(room, HEALTH_SECONDS if self._done > self._reported else None)
            if jobs:
                self._runner(jobs, self._finished)
            elif self._done > self._reported:
                self._report()
        self._runner.close()

    def _finished(self, done: Sequence[tuple[wire.RunJob, wire.Ended]]) -> None:
        """Jobs have ended; in whatever thread they ran."""
        self._channel.send(*(ended for _, ended in done))
        for job, _ in done:
            self._channel.forget((job.job, job.attempt))
        with self._lock:
            self._done += len(done)
            due = time.monotonic() - self._reported_at >= HEALTH_SECONDS or self._done - self._reported >= HEALTH_JOBS
        if due:
            self._report()

    def _report(self) -> None:
        self._reported_at, self._reported = time.monotonic(), self._done
        self._channel.send(wire.Health(resident_bytes()))


def resident_bytes() -> int:
    """This process's resident memory; its peak where the system does not tell the present."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def ignore(_signal: int, _frame: FrameType | None) -> None:
    """These signals are the supervisor's business.

    Not SIG_IGN: child processes of a task would inherit it.
    """


def _restore_signals() -> None:
    """A task has forked: the child may be terminated like any other."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


def run(connection: socket.socket, output: int, threads: int) -> None:
    """Serve the supervisor behind the socket. The process was just forked, and leads a session of its own.

    Args:
        output: the end to read from of the pipe that this process's standard output and error go to.
        threads: how many jobs at a time.
    """
    for number in IGNORED:
        signal.signal(number, ignore)
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.register_at_fork(after_in_child=_restore_signals)
    channel = Channel(connection)
    raw = Output(output)
    desk = Desk(channel, raw)
    runner: Runner
    if threads == 1:
        runner = SerialRunner(desk)
    else:
        from workers.coroutines import SharedRunner  # asyncio, which few slots need

        gc.set_threshold(*COLLECTED)
        runner = SharedRunner(desk, threads)
    raw.start(desk.printed)
    threading.Thread(target=channel.read, name="supervisor", daemon=True).start()
    Slot(channel, runner).serve()
