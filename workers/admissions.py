"""Admits the attempts at short jobs: their start is recorded later, mostly along with their end.

Mostly in the transaction of the claim that brought their messages, where the engine can do that: so the claim and the
row that says what may begin are one commit and one round trip. What is not admitted there (its task was not known to be
a short one yet, say) is on a connection of its own, so that it waits for no other commit. What cannot be admitted so
either is for the ledger, which decides and records it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import psycopg
from psycopg.conninfo import make_conninfo

from apps.broker.engine import Asking, Companion, SessionId
from apps.jobs.admission import CLAIMED, CLAIMED_NAMES, Admission, claimed_parameters, claimed_rows
from apps.jobs.records import Run, Start, Started
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
        self._claimed: dict[Start, Started] = {}  # what the latest claim admitted, and has not begun
        self._quick: Callable[[], Sequence[str]] = tuple
        self._asked: dict[int, SessionId] = {}  # with claims that have not answered: the numbers, in order
        self._settling: set[tuple[int, int]] = set()  # by a statement here that is under way
        self._settling_along: set[tuple[int, int]] = set()  # by claims that have not answered, or failed
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
        self._forget_claimed()
        if settled := self._settled():
            with suppress(psycopg.Error, TimeoutError):  # then they are removed when this session is dead
                async with asyncio.timeout(CLOSE_SECONDS):
                    if self._admission is None:
                        await self._connect()
                    assert self._admission is not None
                    await self._admission.admit((), 0, settled)
        await self._disconnect()

    def companion(self, quick: Callable[[], Sequence[str]]) -> Companion:
        """What admits along with claims. `quick` says of which tasks."""
        self._quick = quick
        return Companion(CLAIMED, CLAIMED_NAMES, self._ask_along, self._forget_claimed)

    def begin(self, start: Start, begun: Begun, *, short: bool) -> None:
        """Admit an attempt if it is to be a short one, or have the ledger record that it begins. Calls back at once if
        it was admitted with its claim."""
        admitted = self._claimed.pop(start, None) if self._claimed else None
        if admitted is not None:
            begun(admitted)
        elif short:
            self._waiting.append((start, begun))
            self._work.set()
        else:
            self._ledger.begin(start, begun)

    def give_back(self, start: Start) -> None:
        """A message goes back whose attempt has not begun. If it was admitted with its claim, that is undone at once:
        should this worker be killed, it was not at that job."""
        admitted = self._claimed.pop(start, None)
        if admitted is not None:
            self._ledger.abandon(admitted.run)
            self._work.set()

    def _ask_along(self, session: SessionId) -> Asking | None:
        self._forget_claimed()
        tasks = self._quick()
        if not tasks:
            return None
        # What a statement on the other connection removes is left to it: two that did would wait for each other.
        settled = [key for key in self._settled() if key[0] == session and key not in self._settling]
        self._settling_along = set(settled)
        self._number += 1
        self._asked[self._number] = session
        parameters = claimed_parameters(tasks, self._number, self._host, self._pid, [number for _, number in settled])
        return parameters, partial(self._admitted, session, self._number, settled)

    def _admitted(
        self,
        session: SessionId,
        number: int,
        settled: Sequence[tuple[int, int]],
        rows: Sequence[Sequence[bytes | None]],
    ) -> None:
        while self._asked and (earlier := next(iter(self._asked))) <= number:
            # Claims answer in their order. One that did not failed, or its answer was lost and its messages went
            # back: what it admitted, if so, has not begun.
            asked_by = self._asked.pop(earlier)
            if earlier < number:
                self._unsettled[asked_by, earlier] = []
        for key in settled:
            self._unsettled.pop(key, None)
            self._settling_along.discard(key)
        runs = []
        for start, answer in claimed_rows(session, rows):
            if answer is not None:
                self._claimed[start] = answer
                self._ledger.defer(answer.run, start)
                runs.append(answer.run)
        if runs:
            self._unsettled[session, number] = runs

    def _forget_claimed(self) -> None:
        """Forget what was admitted with an earlier claim and not asked for: its message may have gone back before
        anybody here saw it, and come again. What still comes is asked about anew."""
        for answer in self._claimed.values():
            self._ledger.abandon(answer.run)
        self._claimed.clear()

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if self._waiting:
                self._work.set()
            settled = [key for key in self._settled() if key not in self._settling_along]
            if not (batch or settled):
                continue
            self._settling.update(settled)
            self._number += 1
            number = self._number
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    if self._admission is None:
                        await self._connect()
                    assert self._admission is not None
                    admitted = await self._admission.admit([start for start, _ in batch], number, settled)
                for done in settled:
                    self._unsettled.pop(done, None)
            except (psycopg.Error, TimeoutError) as error:
                # The ledger has a connection of its own, and waits until the database is back.
                log.debug("nothing can be admitted: %s", str(error).strip() or "no answer")
                admitted = {}
                await self._disconnect()
            finally:
                self._settling.clear()
            for place, (start, begun) in enumerate(batch):
                answer = admitted.get(place)
                if answer is None:
                    self._ledger.begin(start, begun)
                else:
                    self._ledger.defer(answer.run, start)
                    self._unsettled.setdefault((start.worker, number), []).append(answer.run)
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
