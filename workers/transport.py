"""How a job in a slot reaches its supervisor: its context's transport, and the raw output of the process."""

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from apps.jobs.context import LINE_LIMIT, clean
from apps.jobs.log_limit import LogLimiter
from workers import wire

OUTPUT_LINE_LIMIT = 64 * 1024  # bytes of raw output that may wait for the end of their line
CHUNK = 64 * 1024
PROGRESS_SECONDS = 0.05  # between two reports of progress: a task may tell of each of a million steps


class Supervisor(Protocol):
    """The slot's end of the socket."""

    #: Told of each cancel, by another thread.
    on_cancel: Callable[[tuple[str, int]], None]

    def send(self, message: wire.Message) -> None: ...

    def record(self, job: str) -> None: ...

    def cancelled(self, key: tuple[str, int]) -> str | None: ...


class SlotTransport:
    """How the context of a running job reaches the supervisor (`apps.jobs.context.Transport`)."""

    def __init__(self, supervisor: Supervisor, job: wire.RunJob) -> None:
        self._supervisor = supervisor
        self._job = job.job
        self._key = job.job, job.attempt
        self._limiter: LogLimiter | None = None  # most short jobs say nothing
        self._lock = threading.Lock()
        self._closed = False
        self._told_at = float("-inf")
        self._untold: wire.Progress | None = None

    def progress(self, done: int, total: int, text: str) -> None:
        """Pass progress on; of what comes too quickly the latest, a moment later."""
        with self._lock:
            if self._closed:
                return
            waits, self._untold = self._untold, wire.Progress(self._job, time.time(), done, total, text)
            left = self._told_at + PROGRESS_SECONDS - time.monotonic()
            if left <= 0:
                self._tell()
            elif waits is None:
                timer = threading.Timer(left, self._tell_later)
                timer.daemon = True
                timer.start()

    def _tell(self) -> None:
        if self._untold is not None:
            self._supervisor.send(self._untold)
            self._untold = None
            self._told_at = time.monotonic()

    def _tell_later(self) -> None:
        with self._lock:
            if not self._closed:
                self._tell()

    def log(self, level: str, text: str) -> None:
        """Pass a line on, within bounds."""
        with self._lock:
            if self._limiter is None:
                self._limiter = LogLimiter()
            if not self._closed and self._limiter.admit():
                self._tell()  # it keeps its place before the line
                self._notice()
                self._supervisor.send(wire.Log(self._job, time.time(), level, text))

    def record(self) -> None:
        """Have the job's start recorded; returns when it is, or never will be."""
        self._supervisor.record(self._job)

    @property
    def cancelled(self) -> str | None:
        """Why the job should stop, if it should."""
        return self._supervisor.cancelled(self._key)

    def close(self) -> None:
        """The job has ended: a thread that it left behind says nothing more."""
        with self._lock:
            self._tell()
            self._notice()
            self._closed = True

    def _notice(self) -> None:
        notice = None if self._limiter is None else self._limiter.notice()
        if notice is not None:
            self._supervisor.send(wire.Log(self._job, time.time(), "warning", notice))


class Output:
    """The process's raw standard output and error: what child processes write, and libraries in C.

    It comes back to this process by a pipe, so that it keeps its order with what Python code prints: before a line of
    that is passed on, the pipe is emptied. The supervisor holds the pipe too, for the last words of a process.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._partial = b""
        self._lock = threading.RLock()
        self._printed: Callable[[str], None] = lambda _line: None

    def start(self, printed: Callable[[str], None]) -> None:
        """Hand each line on, from whatever thread finds it."""
        self._printed = printed
        threading.Thread(target=self._watch, name="output", daemon=True).start()

    def drain(self, *, end: bool = False) -> None:
        """Hand on what has been written until now; `end`: an unfinished line too."""
        with self._lock:
            try:
                while data := os.read(self._descriptor, CHUNK):
                    self._split(data)
            except BlockingIOError:
                pass
            if end and self._partial:
                self._hand_on(self._partial)
                self._partial = b""

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            poll.poll()
            self.drain()

    def _split(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > OUTPUT_LINE_LIMIT:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._hand_on(line)

    def _hand_on(self, line: bytes) -> None:
        self._printed(clean(line.decode(errors="replace").rstrip("\r"), LINE_LIMIT))
