"""The supervisor of a worker: its life, from the first connection to the drain."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from apps.broker.engine import Engine
from apps.jobs.upkeep import Upkeep
from msgweb.errors import PooledDatabase, Unavailable
from workers.admissions import Admissions
from workers.control import Control, Wish
from workers.dispatch import Dispatch
from workers.ledger import Ledger
from workers.options import Options
from workers.process import Forks

log = logging.getLogger(__name__)

ENGINE_RETRY_SECONDS = 2.0
HAND_BACK_SECONDS = 10.0  # how long a worker that was told twice to stop tries to record what it hands back


class Supervisor:
    """One worker. `run` serves until `stop` was called and everything is at rest."""

    def __init__(
        self,
        engine: Engine,
        conninfo: str,
        options: Options,
        pid: int,
        forks: Forks,
        changed: Callable[[dict[str, Any]], None],
    ) -> None:
        """
        Args:
            pid: of the worker's main process.
            changed: called with what the console is to show of this worker, when that has changed.
        """
        self._engine = engine
        self._options = options
        host = socket.gethostname()
        self._ledger = Ledger(conninfo, host, pid, lambda jobs: self._dispatch.cancel(jobs))
        self._admissions = Admissions(conninfo, self._ledger, host, pid)
        self._dispatch = Dispatch(engine, self._ledger, self._admissions, options, forks, self._spawn)
        if "companions" in engine.capabilities:
            engine.accompany(self._admissions.companion(self._dispatch.short_tasks))
        self._control = Control(
            engine,
            conninfo,
            self._dispatch.running,
            self._dispatch.cancel,
            self._dispatch.serve,
            self._obey,
        )
        self._upkeep = Upkeep(conninfo)
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_asked = asyncio.Event()
        self._hand_back_asked = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def ready(self) -> asyncio.Event:
        """Set when the first slot is up and the queues are subscribed to."""
        return self._dispatch.ready

    def stop(self) -> None:
        """The first time: take no more jobs, and end when those here are done. The second: hand them back."""
        if self._stop_asked.is_set():
            self._hand_back_asked.set()
        self._stop_asked.set()
        self._changed(self.details())

    def drain(self) -> None:
        """Take no more jobs, and end when those here are done; more calls change nothing."""
        if not self._stop_asked.is_set():
            self.stop()

    def pause(self, paused: bool) -> None:
        """Take no more jobs until told otherwise; those here go on."""
        if paused != self._dispatch.paused:
            log.info("paused" if paused else "resumed")
            self._dispatch.paused = paused
            self._dispatch.flush_soon()
            self._changed(self.details())

    def resize(self, slots: int) -> None:
        """Have so many slots."""
        if slots != self._dispatch.roster.size:
            log.info("%d slots instead of %d", slots, self._dispatch.roster.size)
            self._dispatch.roster.resize(slots)
            self._dispatch.flush_soon()
            self._changed(self.details())

    def _obey(self, wish: Wish) -> None:
        if wish.paused is not None:
            self.pause(wish.paused)
        if wish.slots is not None:
            self.resize(wish.slots)
        if wish.stop:
            self.drain()

    @property
    def slots(self) -> int:
        """How many there are to be."""
        return self._dispatch.roster.size

    def details(self) -> dict[str, Any]:
        """What the console shows of this worker."""
        return {
            "slots": self.slots,
            "threads": self._options.threads,
            "paused": self._dispatch.paused,
            "draining": self._stop_asked.is_set(),
            "queues": self._dispatch.intake.names(),
            "namespaces": list(self._options.namespaces) if self._options.namespaces is not None else None,
        }

    async def run(self) -> None:
        """Serve.

        Raises:
            PooledDatabase: it cannot work through that pooler; nothing was begun.
            Exception: what should not have happened in one of our own tasks; everything was ended as well as could be.
        """
        if not await self._start_engine():
            return
        for task in (self._ledger.start(), self._admissions.start(), self._control.start(), self._upkeep.start()):
            task.add_done_callback(self._failed)
        self._dispatch.roster.fill()
        await self._stop_asked.wait()
        await self._drain()
        if self._error is not None:
            raise self._error

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._failed)

    def _failed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the worker ends: %s failed", task.get_name(), exc_info=error)
            self._error = error
            self.stop()
            self._hand_back_asked.set()

    async def _start_engine(self) -> bool:
        told = False
        while not self._stop_asked.is_set():
            try:
                await self._engine.start()
            except PooledDatabase:
                raise
            except Unavailable as error:
                if not told:
                    log.warning("no database yet, trying every %g s: %s", ENGINE_RETRY_SECONDS, error)
                    told = True
                try:
                    async with asyncio.timeout(ENGINE_RETRY_SECONDS):
                        await self._stop_asked.wait()
                except TimeoutError:
                    continue
            else:
                return True
        return False

    async def _drain(self) -> None:
        self._dispatch.stop()
        running = len(self._dispatch.running())
        log.info("draining: %d job%s still at work", running, "" if running == 1 else "s")
        handing_back = asyncio.get_running_loop().create_task(self._hand_back(), name="hand back")
        await self._dispatch.quiet.wait()
        handing_back.cancel()
        await asyncio.wait([handing_back])
        await self._dispatch.roster.close()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._control.close()
        await self._upkeep.close()
        written = await self._ledger.close(HAND_BACK_SECONDS if self._hand_back_asked.is_set() else None)
        await self._admissions.close()
        if not written:
            log.error("the database did not answer: what was left to record is lost with this worker")
        self._dispatch.close()
        await self._engine.close()
        log.info("stopped")

    async def _hand_back(self) -> None:
        try:
            async with asyncio.timeout(self._options.drain_limit):
                await self._hand_back_asked.wait()
        except TimeoutError:
            self._hand_back_asked.set()
        count = self._dispatch.hand_back()
        log.warning("handing %d job%s back", count, "" if count == 1 else "s")
        await asyncio.sleep(HAND_BACK_SECONDS)  # a limit, not a wait: the drain cancels this task when all is done
        log.error("the interruption of some jobs could not be recorded")  # the lease will tell the others
        self._dispatch.quiet.set()
