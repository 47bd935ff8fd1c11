"""Admits the attempts at short jobs: their start is recorded later, mostly along with their end.

On a connection of its own, so that a job that may begin waits for no commit. What cannot be admitted so is for the
ledger, which decides and records it.
"""

import asyncio
import logging
from contextlib import suppress

import psycopg
from psycopg.conninfo import make_conninfo

from apps.jobs.admission import Admission
from apps.jobs.recorder import Run, Start
from workers.ledger import NETWORK, PLANNING, WRITE_SECONDS, Begun, Ledger

log = logging.getLogger(__name__)

BATCH = 400  # jobs: so many ids are a row that fits into a page
CLOSE_SECONDS = 2.0


class Admissions:
    """Gathers and asks, a statement at a time. Belongs to one event loop."""

    def __init__(self, conninfo: str, ledger: Ledger, host: str, pid: int) -> None:
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._ledger = ledger
        self._host = host
        self._pid = pid
        self._number = 0  # of the latest batch
        self._unsettled: dict[tuple[int, int], list[Run]] = {}  # what was admitted, by session and number
        self._waiting: list[tuple[Start, Begun]] = []
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._admission: Admission | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to serve, in a task that only an error of ours ends. Connects when there is something to ask."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="admissions")
        return self._task

    async def close(self) -> None:
        """End; nothing waits, and the ledger has written what it could."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._admission is not None and (settled := self._settled()):
            with suppress(psycopg.Error, TimeoutError):  # then they are removed when this session is dead
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._admission.admit((), 0, settled)
        await self._disconnect()

    def begin(self, start: Start, begun: Begun) -> None:
        """Admit an attempt, or have the ledger record that it begins."""
        self._waiting.append((start, begun))
        self._work.set()

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if self._waiting:
                self._work.set()
            settled = self._settled()
            self._number += 1
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    if self._admission is None:
                        await self._connect()
                    assert self._admission is not None
                    admitted = await self._admission.admit([start for start, _ in batch], self._number, settled)
                for done in settled:
                    del self._unsettled[done]
            except (psycopg.Error, TimeoutError) as error:
                # The ledger has a connection of its own, and waits until the database is back.
                log.debug("nothing can be admitted: %s", str(error).strip() or "no answer")
                admitted = {}
                await self._disconnect()
            for place, (start, begun) in enumerate(batch):
                answer = admitted.get(place)
                if answer is None:
                    self._ledger.begin(start, begun)
                else:
                    self._ledger.defer(answer.run, start)
                    self._unsettled.setdefault((start.worker, self._number), []).append(answer.run)
                    begun(answer)

    def _settled(self) -> list[tuple[int, int]]:
        """The batches of which no start is yet to be recorded. Each run is looked at once, and the last of a batch."""
        settled = []
        for key, runs in self._unsettled.items():
            while runs and not self._ledger.is_deferred(runs[-1]):
                runs.pop()
            if not runs:
                settled.append(key)
        return settled

    async def _connect(self) -> None:
        self._connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        await self._connection.execute(PLANNING)
        self._admission = Admission(self._connection, self._host, self._pid)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if self._admission is not None:
            self._admission.close()
            self._admission = None
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()
