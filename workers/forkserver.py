"""The worker's main process: it has loaded the project, and forks from itself the supervisor and the slots.

So a slot is up within milliseconds and shares the memory of what was loaded. This process does nothing else, has no
thread, no event loop and no connection to a database: what forks must not hold what a child cannot have. Signals come
to it, from whoever runs the worker, and it passes them on to the supervisor; the other processes ignore them, so that
it does not matter whether they are sent to one process or to all (systemd's default).

    main process ── supervisor
                 ├─ slot
                 └─ slot

When it dies, the kernel ends the others (Linux; elsewhere their sockets do); when the supervisor dies, it ends the
slots, and then itself.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # prctl(2)
PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
MESSAGE_LIMIT = 4096  # bytes
#: Messages arrive whole. Where there is only the second kind (macOS), no end is seen of the other side.
PACKETS = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
OUTPUT_DESCRIPTORS = (1, 2)
END_SECONDS = 5.0  # what remains of the slots when the supervisor has gone may take so long

#: What a slot runs: its socket, the end to read of the pipe that its output goes to, and how many jobs at a time.
SlotMain = Callable[[socket.socket, int, int], None]
#: What the supervisor runs: its socket to this process. Returns the exit status.
SupervisorMain = Callable[[socket.socket], int]


class ForkServer:
    """Forks, reaps, and passes signals on. The messages on the socket are JSON arrays:

    from the supervisor   ["fork", number, threads] with a socket and both ends of a pipe
    to the supervisor     ["forked", number, pid], ["failed", number, why], ["exited", pid, status], ["signal", number]
    """

    def __init__(self, supervise: SupervisorMain, slot: SlotMain) -> None:
        self._supervise = supervise
        self._slot = slot
        self._slots: set[int] = set()
        self._supervisor = 0
        self._socket: socket.socket
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """Serve until the supervisor has ended; its exit status."""
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, _noted)
        gc.collect()
        gc.freeze()  # what is loaded stays as it is: the collector of a child does not touch it, so it stays shared
        with contextlib.suppress(AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)  # what was needed to load it goes back
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, PACKETS)
        main = os.getpid()
        self._supervisor = os.fork()
        if self._supervisor == 0:
            self._become_child(main, "msgweb-worker")
            self._socket.close()
            _exit_with(lambda: self._supervise(theirs))
        theirs.close()
        return self._serve()

    def _become_child(self, main: int, name: str) -> None:
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._waker.close()
        die_with(main)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())  # for top and ps; at most 15 characters

    def _serve(self) -> int:
        status: int | None = None
        while status is None:
            readable, _, _ = select.select([self._socket, self._woken], [], [])
            if self._woken in readable:
                with contextlib.suppress(BlockingIOError):
                    for number in self._woken.recv(4096):
                        if number != signal.SIGCHLD:
                            self._tell(["signal", number])
            if self._socket in readable:
                self._receive()
            status = self._reap()
        self._end_slots()
        return status

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_LIMIT, 3)
        except OSError:
            data, descriptors = b"", []
        if not data:  # the supervisor is about to be reaped
            time.sleep(0.01)
            return
        _, number, threads = json.loads(data)
        try:
            pid = self._fork_slot(descriptors, threads)
        except OSError as error:
            self._tell(["failed", number, str(error)])
        else:
            self._slots.add(pid)
            self._tell(["forked", number, pid])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork_slot(self, descriptors: list[int], threads: int) -> int:
        main = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        connection, reading, writing = descriptors
        self._become_child(main, "msgweb-slot")
        self._socket.close()
        # Its own session: Ctrl-C at the terminal is for the main process, and the slot is ended together with whatever
        # processes its task started.
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for descriptor in OUTPUT_DESCRIPTORS:
            os.dup2(writing, descriptor)
        os.close(writing)

        def serve() -> int:
            self._slot(socket.socket(fileno=connection), reading, threads)
            return 0

        return _exit_with(serve)

    def _reap(self) -> int | None:
        """Take note of who has ended. The supervisor's exit status, if it was that one."""
        while True:
            which = -1
            try:
                if sys.platform == "linux":
                    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if ended is None or ended.si_pid == 0:
                        return None
                    which = ended.si_pid
                    if which in self._slots:
                        end_group(which)  # what its task left behind; before the group's id is free again
                pid, raw = os.waitpid(which, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            status = os.waitstatus_to_exitcode(raw)
            if pid == self._supervisor:
                return status if status >= 0 else 128 - status
            if pid in self._slots:
                self._slots.discard(pid)
                if sys.platform != "linux":
                    end_group(pid)
                self._tell(["exited", pid, status])

    def _tell(self, message: list[object]) -> None:
        with contextlib.suppress(OSError):  # it is gone: it will be reaped
            self._socket.send(json.dumps(message).encode())

    def _end_slots(self) -> None:
        for pid in self._slots:
            end_group(pid)
        deadline = time.monotonic() + END_SECONDS
        while self._slots and time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            self._slots.discard(pid)
            if pid == 0:
                time.sleep(0.005)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor has it."""


def _exit_with(main: Callable[[], int]) -> NoReturn:
    """Run what a child is for, and end it without the parent's own clean-up."""
    status = 1
    try:
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  the end of the process: nobody else can report it
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def end_group(pid: int) -> None:
    """SIGKILL a slot, if it is there, and the processes that its task started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies (Linux; elsewhere the socket's end must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
