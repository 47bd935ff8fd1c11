"""A slot: the process that does jobs, one at a time. `python -m workers.slot SOCKET SUPERVISOR`

It talks to its supervisor over a socket and to nothing of the broker. The task runs in the main thread; another reads
the socket, so that a cancel is seen while the task works. When the supervisor dies, so does the slot: at once by the
kernel's word (Linux), and anyway when the socket ends.
"""

import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
import uuid
from types import FrameType
from typing import TYPE_CHECKING

from msgweb.errors import MsgwebError
from workers import wire
from workers.limits import LogLimiter

if TYPE_CHECKING:
    from apps.jobs.outcomes import Outcome

PR_SET_PDEATHSIG = 1  # prctl(2)


class Channel:
    """The slot's end of the socket. May be used by all threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.jobs: queue.SimpleQueue[wire.RunJob | None] = queue.SimpleQueue()
        self.cancelled: dict[tuple[str, int], str] = {}

    def send(self, message: wire.Message) -> None:
        """Send; waits while the supervisor is behind."""
        data = wire.encode(message)
        with self._lock:
            try:
                self._connection.sendall(data)
            except OSError:
                os._exit(1)  # the supervisor is gone, and the job with it

    def read(self) -> None:
        """Take what the supervisor says until it stops or dies. Runs in a thread of its own."""
        decoder = wire.Decoder()
        while True:
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                os._exit(1)
            for message in decoder.feed(data):
                if isinstance(message, wire.RunJob):
                    self.jobs.put(message)
                elif isinstance(message, wire.CancelJob):
                    self.cancelled.setdefault((message.job, message.attempt), message.why)
                elif isinstance(message, wire.Stop):
                    self.jobs.put(None)


class SlotTransport:
    """How the context of the running job reaches the supervisor (`apps.jobs.context.Transport`)."""

    def __init__(self, channel: Channel, job: wire.RunJob) -> None:
        self._channel = channel
        self._key = job.job, job.attempt
        self._limiter = LogLimiter()
        self._lock = threading.Lock()
        self._closed = False

    def progress(self, done: int, total: int, text: str) -> None:
        with self._lock:
            if not self._closed:
                self._channel.send(wire.Progress(time.time(), done, total, text))

    def log(self, level: str, text: str) -> None:
        with self._lock:
            if not self._closed and self._limiter.admit():
                self._notice()
                self._channel.send(wire.Log(time.time(), level, text))

    @property
    def cancelled(self) -> str | None:
        return self._channel.cancelled.get(self._key)

    def close(self) -> None:
        """The job has ended: a thread that it left behind says nothing more."""
        with self._lock:
            self._notice()
            self._closed = True

    def _notice(self) -> None:
        notice = self._limiter.notice()
        if notice is not None:
            self._channel.send(wire.Log(time.time(), "warning", notice))


class Slot:
    """Runs the jobs that come over the channel."""

    def __init__(self, channel: Channel) -> None:
        from workers import output

        self._channel = channel
        self._transport: SlotTransport | None = None
        self._in_sink = threading.local()
        self._streams = output.take_over(self._sink)

    def serve(self) -> None:
        """Do jobs until told to stop."""
        done = 0
        self._channel.send(wire.Idle(done, resident_bytes()))
        while (job := self._channel.jobs.get()) is not None:
            self._channel.send(self._do(job))
            self._clean_up(job)
            done += 1
            self._channel.send(wire.Idle(done, resident_bytes()))

    def _sink(self, level: str, line: str) -> bool:
        from apps.jobs.context import LINE_LIMIT, clean

        transport = self._transport
        if transport is None or getattr(self._in_sink, "busy", False):
            return False
        self._in_sink.busy = True
        try:
            transport.log(level, clean(line, LINE_LIMIT))
        finally:
            self._in_sink.busy = False
        return True

    def _do(self, job: wire.RunJob) -> wire.Ended:
        import json

        from django.db import close_old_connections

        from apps.jobs import django_tasks, outcomes, registry
        from apps.jobs.context import JobContext, at_work
        from apps.jobs.steps import KeptSteps

        transport = self._transport = SlotTransport(self._channel, job)
        try:
            close_old_connections()
            try:
                task = registry.load(job.task)
                arguments = json.loads(job.arguments)
                task.check(arguments)
            except MsgwebError as error:
                return ended(outcomes.impossible(error))
            job_id = uuid.UUID(job.job)
            worker = django_tasks.worker_id(job.worker, socket.gethostname())
            steps = KeptSteps(job_id, job.attempt)
            context = JobContext(job_id, job.attempt, job.namespace, transport, steps, job.failures, worker)
            try:
                with at_work(context):
                    return ended(outcomes.succeeded(task(context, **arguments)))
            except BaseException as error:  # noqa: BLE001  whatever a task raises, SystemExit too, is the job's failure
                return ended(outcomes.failed(task, error, job.failures))
        finally:
            for stream in self._streams:
                stream.end_line()
            transport.close()
            self._transport = None

    def _clean_up(self, job: wire.RunJob) -> None:
        from django.db import close_old_connections, connections

        self._channel.cancelled.pop((job.job, job.attempt), None)
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None and not connection.get_autocommit():
                connection.close()  # the task left a transaction open
        close_old_connections()


def ended(outcome: "Outcome") -> wire.Ended:
    """What an attempt came to, for the supervisor."""
    return wire.Ended(outcome.name, outcome.result, outcome.error, outcome.again, outcome.pause)


def resident_bytes() -> int:
    """This process's resident memory; its peak where the system does not tell the present."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def die_with(supervisor: int) -> None:
    """Have the kernel end this process when its supervisor dies (Linux; elsewhere the socket's end must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before that
        os._exit(1)


def ignore(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGINT are the supervisor's business.

    Not SIG_IGN: child processes of a task would inherit it.
    """


def main() -> None:
    """Serve the supervisor that started this process."""
    signal.signal(signal.SIGTERM, ignore)
    signal.signal(signal.SIGINT, ignore)
    descriptor, supervisor = int(sys.argv[1]), int(sys.argv[2])
    die_with(supervisor)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    channel = Channel(connection)
    threading.Thread(target=channel.read, name="supervisor", daemon=True).start()

    import django

    django.setup()
    Slot(channel).serve()


if __name__ == "__main__":
    main()
