"""A slot as its supervisor sees it: a process, its socket, and the jobs in it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Protocol, cast

from workers import wire
from workers.forkserver import MESSAGE_LIMIT, end_group

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 5.0  # how long a slot that was told to stop may take after its last job
LAST_WORDS = 64 * 1024  # bytes of raw output that are kept of a process that died


class SlotDied(Exception):
    """The slot's process ended. `status` is negative for a signal."""

    def __init__(self, status: int) -> None:
        if status < 0:
            try:
                how = f"was ended by {signal.Signals(-status).name}"
            except ValueError:
                how = f"was ended by signal {-status}"
            if -status == signal.SIGKILL:  # where it was ours, its job is told something else
                how += ", probably out of memory"
        else:
            how = f"exited with status {status}"
        super().__init__(f"the process of the job {how}")
        self.status = status


class Owner(Protocol):
    """Who hears of a slot."""

    def slot_up(self, slot: "SlotProcess") -> None:
        """It is there."""

    def slot_said(self, slot: "SlotProcess", message: wire.Message) -> None:
        """One of its jobs said something, or ended; or it gives jobs back; or it says how it is."""

    def slot_settled(self, slot: "SlotProcess") -> None:
        """All that came with one reading of its socket has been said."""

    def slot_ended(self, slot: "SlotProcess", death: SlotDied, last_words: list[str]) -> None:
        """Its process is gone. `last_words`: lines of raw output that it could not pass on itself."""


class Forks:
    """The supervisor's end of the socket to the main process (`workers.forkserver`)."""

    def __init__(self, connection: socket.socket, signalled: Callable[[int], None]) -> None:
        self._socket = connection
        self._signalled = signalled
        self._number = 0
        self._asked: dict[int, asyncio.Future[tuple[int, asyncio.Future[int]]]] = {}
        self._exited: dict[int, asyncio.Future[int]] = {}

    def start(self) -> None:
        """Begin to listen. Belongs to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._readable)
        if sys.platform != "linux":
            self._look_at_parent(os.getppid())

    def _look_at_parent(self, parent: int) -> None:
        """Where the kernel does not end this process with the main one."""
        if os.getppid() != parent:
            os._exit(1)
        self._loop.call_later(1.0, self._look_at_parent, parent)

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._socket)

    async def fork(self, descriptors: list[int], threads: int) -> tuple[int, "asyncio.Future[int]"]:
        """A slot with a socket and both ends of a pipe: its process id, and a future of its exit status.

        Raises:
            OSError: no process is to be had.
        """
        self._number += 1
        asked: asyncio.Future[tuple[int, asyncio.Future[int]]] = self._loop.create_future()
        self._asked[self._number] = asked
        socket.send_fds(self._socket, [json.dumps(["fork", self._number, threads]).encode()], descriptors)
        return await asked

    def _readable(self) -> None:
        while True:
            try:
                data = self._socket.recv(MESSAGE_LIMIT)
            except BlockingIOError:
                return
            if not data:  # the kernel is ending this process
                self._loop.remove_reader(self._socket)
                return
            kind, *values = json.loads(data)
            if kind == "signal":
                self._signalled(values[0])
            elif kind == "forked":
                number, pid = values
                self._exited[pid] = self._loop.create_future()
                self._asked.pop(number).set_result((pid, self._exited[pid]))
            elif kind == "failed":
                number, why = values
                self._asked.pop(number).set_exception(OSError(why))
            elif kind == "exited":
                pid, status = values
                self._exited.pop(pid).set_result(status)


class SlotProcess(asyncio.Protocol):
    """One slot process.

    Attributes:
        up: it has said that it is there.
        retiring: it gets no more jobs.
        jobs: how many it has done.
        rss: its resident memory in bytes when it last told.
        pid: the process's id; 0 before it was started.
    """

    def __init__(self, owner: Owner, forks: Forks, threads: int) -> None:
        self._owner = owner
        self._forks = forks
        self._threads = threads
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._disconnected = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._exited: asyncio.Future[int] | None = None
        self._output = -1
        self._posted: list[wire.Message] = []
        self.up = False
        self.retiring = False
        self.jobs = 0
        self.rss = 0
        self.pid = 0

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._exited is not None and not self._exited.done()

    async def start(self) -> None:
        """Start the process. It reports through `slot_up`.

        Raises:
            OSError: no process is to be had.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self._output, writing = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self.pid, self._exited = await self._forks.fork([theirs.fileno(), self._output, writing], self._threads)
        except OSError:
            ours.close()
            os.close(self._output)
            raise
        finally:
            theirs.close()
            os.close(writing)
        ours.setblocking(False)
        await loop.connect_accepted_socket(lambda: self, ours)
        self._watcher = loop.create_task(self._watch(self._exited), name=f"slot {self.pid}")

    def post(self, message: wire.Message) -> None:
        """Tell it something with the next `send`."""
        self._posted.append(message)

    def send(self, *messages: wire.Message) -> None:
        """Tell it what was posted, then this; what is sent to one that has died is lost."""
        told = [*self._posted, *messages]
        self._posted.clear()
        if self._transport is not None and told:
            self._transport.write(wire.encode(told))

    def kill(self) -> None:
        """End it at once, with the processes that its task started."""
        if self.alive:
            end_group(self.pid)

    def stop(self) -> None:
        """Have it end after the jobs that it has."""
        self.retiring = True
        self.send(wire.Stop())

    def hurry(self) -> None:
        """It has no jobs and was told to stop: it may take some seconds, then it is ended."""
        if self._farewell is None:
            self._farewell = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.kill)

    async def wait(self) -> None:
        """Until the process is gone and `slot_ended` was said."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except wire.WireError as error:
            log.error("slot %d is broken and is ended: %s", self.pid, error)
            self.kill()
            return
        for message in messages:
            if isinstance(message, wire.Ended):
                self.jobs += 1
            elif isinstance(message, wire.Health):
                self.rss = message.rss
                if not self.up:
                    self.up = True
                    self._owner.slot_up(self)
                    continue
            self._owner.slot_said(self, message)
        self._owner.slot_settled(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnected.set()

    async def _watch(self, exited: "asyncio.Future[int]") -> None:
        status = await exited
        # What it sent before its end is still in the socket; a descendant in another session may hold that open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._disconnected.wait()
        if self._transport is not None:
            self._transport.close()
        if self._farewell is not None:
            self._farewell.cancel()
        self._owner.slot_ended(self, SlotDied(status), self._last_words())

    def _last_words(self) -> list[str]:
        data = b""
        try:
            while len(data) < LAST_WORDS and (chunk := os.read(self._output, LAST_WORDS)):
                data += chunk
        except BlockingIOError:
            pass
        os.close(self._output)
        return data.decode(errors="replace").splitlines()
