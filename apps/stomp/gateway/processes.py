"""Several gateway processes on one port: a parent that starts them, again if they die, stops them, passes SIGHUP on.

The parent serves nobody. Its children share the port (SO_REUSEPORT), so the kernel spreads connections over them. They
hold one end of a pipe: when the parent is gone, however it ended, they read its end and stop too.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

RESTART_FIRST, RESTART_LAST = 0.5, 10.0  # seconds before a child that died is started again; doubled each time
STEADY_SECONDS = 60.0  # a child that lived this long did not die of its start
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

#: What a child runs: it calls `ready` once it serves, ends when `lifeline` (a file descriptor) can be read, and
#: returns its exit code. The last argument is which of them it is, from 0.
Serve = Callable[[Callable[[], None], int, int], int]


class Processes:
    """The children of this process.

    Args:
        count: how many.
        serve: see `Serve`.
        ready: called in the parent, once, when every child serves.
    """

    def __init__(self, count: int, serve: Serve, ready: Callable[[], None]) -> None:
        self._count = count
        self._serve = serve
        self._ready = ready
        self._started: dict[int, tuple[float, int]] = {}  # by pid: when, and which
        self._due: list[tuple[float, int]] = []  # when to start a child, and which
        self._delay = RESTART_FIRST
        self._failed = False
        self._unfit = False  # one of them found that none can serve

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._lifeline, lifeline_end = os.pipe()
        self._readiness, self._readiness_end = os.pipe()
        os.set_blocking(self._readiness, False)
        self._due = [(0.0, number) for number in range(self._count)]
        serving = 0
        stopping = announced = False
        while self._started or (self._due and not (stopping or self._unfit)):
            now = time.monotonic()
            for due in [due for due in self._due if due[0] <= now and not (stopping or self._unfit)]:
                self._due.remove(due)
                self._fork(lifeline_end, due[1])
            waiting = min(self._due, default=(now + 1, 0))[0] - now
            received = signal.sigtimedwait(_SIGNALS, max(0.0, min(waiting, 1.0 if announced else 0.05)))
            if received is not None and received.si_signo != signal.SIGCHLD:
                reloading = received.si_signo == signal.SIGHUP
                stopping = stopping or not reloading
                for pid in self._started:
                    os.kill(pid, signal.SIGHUP if reloading else signal.SIGTERM)
            self._reap(stopping)
            if not announced:
                serving += self._count_ready()
                if serving >= self._count:
                    announced = True
                    self._ready()
        if self._unfit:
            return os.EX_CONFIG
        return 1 if self._failed else 0

    def _fork(self, lifeline_end: int, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._started[pid] = time.monotonic(), number
            return
        code = 1
        try:
            os.close(lifeline_end)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it serves: what it would read again it has yet to read
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            code = self._serve(lambda: _write_byte(self._readiness_end), self._lifeline, number)
        except Exception:
            logger.exception("a gateway process failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self, stopping: bool) -> None:
        while self._started:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid not in self._started:  # a child of the process that this one was before
                continue
            begun, number = self._started.pop(pid)
            if os.waitstatus_to_exitcode(status) == os.EX_CONFIG:  # none that is started now will fare better
                self._unfit = True
                for other in self._started:
                    os.kill(other, signal.SIGTERM)
                continue
            lived = time.monotonic() - begun
            code = os.waitstatus_to_exitcode(status)
            if stopping or self._unfit:
                self._failed = self._failed or code not in (0, -signal.SIGTERM)  # the latter: it did not serve yet
                continue
            self._delay = RESTART_FIRST if lived >= STEADY_SECONDS else min(self._delay * 2, RESTART_LAST)
            logger.error("gateway process %d ended with %d; the next one starts in %.1f s", pid, code, self._delay)
            self._due.append((time.monotonic() + self._delay, number))

    def _count_ready(self) -> int:
        try:
            return len(os.read(self._readiness, 64))
        except BlockingIOError:
            return 0


def _write_byte(descriptor: int) -> None:
    os.write(descriptor, b".")
