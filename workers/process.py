"""A slot as its supervisor sees it: a process, its socket, and the job in it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Protocol

from workers import wire

log = logging.getLogger(__name__)

OUTPUT_LINE_LIMIT = 64 * 1024  # bytes of raw output that may wait for the end of their line
FAREWELL_SECONDS = 5.0  # how long a slot that was told to stop may take


class SlotDied(Exception):
    """The slot's process ended with a job in it. `status` is subprocess's return code: negative for a signal."""

    def __init__(self, status: int) -> None:
        if status < 0:
            try:
                how = f"was ended by {signal.Signals(-status).name}"
            except ValueError:
                how = f"was ended by signal {-status}"
        else:
            how = f"exited with status {status}"
        super().__init__(f"the process of the job {how}")
        self.status = status


class Owner(Protocol):
    """Who hears of a slot."""

    def slot_idle(self, slot: "SlotProcess") -> None:
        """It is free for a job."""

    def slot_said(self, slot: "SlotProcess", message: wire.Progress | wire.Log) -> None:
        """Its job said something."""

    def slot_printed(self, slot: "SlotProcess", line: str) -> None:
        """Something in it wrote to the raw standard output or error: a child process, the interpreter's last words."""

    def slot_ended(self, slot: "SlotProcess") -> None:
        """Its process is gone."""


class SlotProcess(asyncio.Protocol):
    """One slot process.

    Attributes:
        idle: it is ready for a job.
        jobs: how many it has done.
        rss: its resident memory in bytes when it was last idle.
        ever_idle: whether it came up at all.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._decoder = wire.Decoder()
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._disconnected = asyncio.Event()
        self._job: asyncio.Future[wire.Ended] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._output: _Output
        self.idle = False
        self.ever_idle = False
        self.jobs = 0
        self.rss = 0

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process. It reports through `slot_idle` when it has loaded the project."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        output, child_output = os.pipe()
        ours.setblocking(False)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "workers.slot",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=child_output,
                    stderr=child_output,
                    pass_fds=[theirs.fileno()],
                    # Its own session: Ctrl-C at the terminal is for the supervisor, and the slot is ended together
                    # with whatever processes its task started.
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(_project_paths())},
                )
        except OSError:
            ours.close()
            os.close(output)
            raise
        finally:
            os.close(child_output)
        await loop.connect_accepted_socket(lambda: self, ours)
        reader = os.fdopen(output, "rb", 0)
        self._output = _Output(output, self._printed)
        await loop.connect_read_pipe(lambda: self._output, reader)
        self._watcher = loop.create_task(self._watch(), name=f"slot {self.pid}")

    def run(self, job: wire.RunJob) -> asyncio.Future[wire.Ended]:
        """Give it a job. The future fails with `SlotDied` if the process ends first."""
        assert self._job is None
        assert self._transport is not None
        self.idle = False
        self._job = asyncio.get_running_loop().create_future()
        self._transport.write(wire.encode(job))
        return self._job

    def cancel(self, job: str, attempt: int, why: str) -> None:
        """Tell its job that it should stop."""
        if self._transport is not None:
            self._transport.write(wire.encode(wire.CancelJob(job, attempt, why)))

    def kill(self) -> None:
        """End it at once, with the processes that its task started."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Have it end; after some seconds, end it."""
        self.idle = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.encode(wire.Stop()))
        if self._farewell is None:
            self._farewell = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.kill)

    async def wait(self) -> None:
        """Until the process is gone and `slot_ended` was said."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except wire.WireError as error:
            log.error("slot %d is broken and is ended: %s", self.pid, error)
            self.kill()
            return
        for message in messages:
            if isinstance(message, wire.Progress | wire.Log):
                self._owner.slot_said(self, message)
            elif isinstance(message, wire.Ended):
                self._output.drain()
                job, self._job = self._job, None
                if job is not None and not job.done():
                    job.set_result(message)
            elif isinstance(message, wire.Idle):
                self.jobs, self.rss = message.jobs, message.rss
                self.idle = self.ever_idle = True
                self._owner.slot_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnected.set()

    async def _watch(self) -> None:
        assert self._process is not None
        status = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what its task started and left behind
        # What it sent before its end is still in the socket; a descendant in another session may hold that open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._disconnected.wait()
        if self._transport is not None:
            self._transport.close()
        if self._farewell is not None:
            self._farewell.cancel()
        self.idle = False
        self._output.drain()
        job, self._job = self._job, None
        if job is not None and not job.done():
            job.set_exception(SlotDied(status))
        self._owner.slot_ended(self)

    def _printed(self, line: str) -> None:
        self._owner.slot_printed(self, line)


def _project_paths() -> list[str]:
    """Where this process imports the project from. The interpreter's own folders stay out: a task may start another
    version of Python."""
    own = tuple(os.path.join(prefix, "") for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix})
    return [path for path in dict.fromkeys(sys.path) if path and not path.startswith(own)]


class _Output(asyncio.Protocol):
    """Cuts raw output into lines."""

    def __init__(self, descriptor: int, printed: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._printed = printed
        self._partial = b""
        self._open = True

    def drain(self) -> None:
        """Take what is in the pipe now: the job that said it has just ended."""
        try:
            while self._open and (data := os.read(self._descriptor, 65536)):
                self.data_received(data)
        except BlockingIOError:
            pass
        self._end_line()

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > OUTPUT_LINE_LIMIT:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._printed(line.decode(errors="replace").rstrip("\r"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._end_line()

    def _end_line(self) -> None:
        if self._partial:
            self._printed(self._partial.decode(errors="replace"))
            self._partial = b""
