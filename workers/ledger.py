"""What a worker has to record, gathered and written in batches, across outages of the database.

Starts and finishes are written as soon as the connection is free, all of them in one transaction (group commit, no
timer); progress and log lines are written along with them, or at most every 100 ms. When the database goes away,
everything is kept and written when it is back: a result is never lost while the supervisor lives, and of log lines
so many are kept as memory allows (`NOTES_LIMIT`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo

from apps.jobs.recorder import Recorder
from apps.jobs.records import Batch, Finish, LogLine, Mark, Note, NotStarted, Run, Start, Started, Written

log = logging.getLogger(__name__)

NOTES_SECONDS = 0.1  # progress and log lines are written at most so often
NOTES_LIMIT = 20_000  # lines that wait to be written, of all jobs; beyond, lines are left out
BATCH_LIMIT = 2_000  # progress and log lines in one transaction
WRITE_SECONDS = 30.0  # a transaction that takes longer is given up: the network is gone
RECONNECT_SECONDS = 0.2, 5.0  # between attempts to connect, doubling from the first to the second
UNRECORDABLE = "unrecordable"

#: The statements name their rows by id. A plan made while the tables were empty would scan them when they are not.
PLANNING = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;"
    " SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off"
)

#: So that a network that swallows packets is noticed by the kernel: 15 s without an answer.
NETWORK = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 15_000}


class Ended:
    """The answer to a finish.

    Attributes:
        state: the job's state now; None where the fence refused the finish, because somebody else has the job.
    """

    __slots__ = ("state",)

    def __init__(self, state: str | None) -> None:
        self.state = state


#: Called with what became of a start, or with why it cannot be recorded.
Begun = Callable[[Started | NotStarted | psycopg.Error], None]
#: Called with what became of a finish, or with why it cannot be recorded.
Concluded = Callable[[Ended | psycopg.Error], None]


class Ledger:
    """Gathers and writes. Belongs to one event loop."""

    def __init__(self, conninfo: str, host: str, pid: int, cancelled: Callable[[set[UUID]], None]) -> None:
        """`cancelled` is called with jobs that a batch found to be asked to cancel."""
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._host = host
        self._pid = pid
        self._cancelled = cancelled
        self._starts: dict[UUID, tuple[Start, Begun]] = {}
        self._notes: list[Note] = []
        self._left_out: dict[Run, int] = {}
        self._finishes: dict[Run, tuple[Finish, Concluded]] = {}
        self._deferred: dict[Run, Start] = {}  # runs that have begun, which nothing is on disk of
        self._records: dict[Run, Callable[[], None] | None] = {}  # those of them whose start is to be written now
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self._recorder: Recorder | None = None
        self._connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to write, in a task that only an error of ours ends. Connects when there is something to write."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="ledger")
        return self._task

    async def close(self, seconds: float | None = None) -> bool:
        """Write what is left, for at most so many seconds (None: as long as it takes), and end.

        Returns:
            Whether everything was written.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            pass
        written = self._empty.is_set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._disconnect()
        return written

    def begin(self, start: Start, begun: Begun) -> None:
        """Record that an attempt begins. Only when `begun` is called with a `Started` may it begin."""
        earlier = self._starts.get(start.job)
        void = None
        if earlier is None or earlier[0].ticket <= start.ticket:
            self._starts[start.job] = (start, begun)
            if earlier is not None:
                void = earlier[1]
        else:
            void = begun
        if void is not None:
            # Of two messages of a job the one with the lower ticket is void; of two deliveries of one message, the
            # earlier: its session was lost.
            again = earlier is not None and earlier[0].ticket == start.ticket
            asyncio.get_running_loop().call_soon(void, NotStarted("stale" if again else "final"))
        self._wake(urgent=True)

    def defer(self, run: Run, start: Start) -> None:
        """An attempt was admitted: its start is recorded with the first thing that there is to record of it."""
        self._deferred[run] = start

    def is_deferred(self, run: Run) -> bool:
        """Whether the start of an attempt is yet to be recorded."""
        return run in self._deferred

    def record(self, run: Run, recorded: Callable[[], None] | None = None) -> None:
        """Write the start of an attempt that was deferred, and call back when it is written, or refused."""
        if run not in self._deferred:
            if recorded is not None:
                recorded()
            return
        if recorded is not None or run not in self._records:
            self._records[run] = recorded
        self._wake(urgent=True)

    def abandon(self, run: Run) -> bool:
        """An attempt does not take place, or is not ours any more. Whether nothing is on record of it, nor will be."""
        if run in self._records:
            return False
        return self._deferred.pop(run, None) is not None

    def forget(self, run: Run) -> None:
        """An attempt is over, or is not ours any more."""
        self._deferred.pop(run, None)
        if self._records:
            self._records.pop(run, None)

    def note(self, note: Note) -> None:
        """Record a line of the log, progress, or that the worker is to stop."""
        if len(self._notes) >= NOTES_LIMIT:
            self._left_out[note.run] = self._left_out.get(note.run, 0) + 1
            return
        if left_out := self._left_out.pop(note.run, 0):
            text = f"… {left_out:,} lines left out: the database was away or too slow"
            self._notes.append(LogLine(note.run, note.at, "warning", text))
        if isinstance(note, Mark) and self._notes:
            last = self._notes[-1]
            if isinstance(last, Mark) and last.run == note.run:
                self._notes[-1] = note
                return
        self._notes.append(note)
        self._wake(urgent=False)

    def finish(self, finish: Finish, concluded: Concluded) -> None:
        """Record the end of an attempt, after all that was noted of it."""
        self._finishes[finish.run] = (finish, concluded)
        self._wake(urgent=True)

    def _wake(self, *, urgent: bool) -> None:
        self._empty.clear()
        self._work.set()
        if urgent:
            self._urgent.set()

    async def _serve(self) -> None:
        written_at = float("-inf")
        while True:
            await self._work.wait()
            left = written_at + NOTES_SECONDS - time.monotonic()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._urgent.wait()
            await self._connect()
            batch = self._take()
            try:
                await self._write(batch)
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
                log.warning(
                    "the database is away: what is to be recorded waits (%s)", str(error).strip() or "no answer"
                )
                self._notes[:0] = batch.notes
                await self._disconnect()
                await asyncio.sleep(RECONNECT_SECONDS[0])  # a full disk answers at once, again and again
                continue
            except psycopg.DatabaseError:
                log.exception("a batch cannot be recorded: its parts are tried one by one")
                if not await self._write_apart(batch):
                    continue
            written_at = time.monotonic()
            if not (self._starts or self._notes or self._finishes or self._records):
                self._empty.set()

    def _take(self) -> Batch:
        self._work.clear()
        self._urgent.clear()
        notes, self._notes = self._notes[:BATCH_LIMIT], self._notes[BATCH_LIMIT:]
        behind = {note.run for note in self._notes}
        if self._notes:
            self._work.set()
            self._urgent.set()
        finishes = [finish for finish, _ in self._finishes.values()]
        if behind:
            finishes = [finish for finish in finishes if finish.run not in behind]
        return self._batch([start for start, _ in self._starts.values()], notes, finishes, list(self._records))

    def _batch(
        self,
        starts: Sequence[Start] = (),
        notes: Sequence[Note] = (),
        finishes: Sequence[Finish] = (),
        records: Sequence[Run] = (),
    ) -> Batch:
        deferred = self._deferred
        if not deferred:
            return Batch(starts, notes, finishes, records=records)
        return Batch(starts, notes, finishes, deferred.copy(), records)

    async def _write(self, batch: Batch) -> None:
        if not (batch.starts or batch.notes or batch.finishes or batch.records):
            return
        assert self._recorder is not None
        async with asyncio.timeout(WRITE_SECONDS):
            written = await self._recorder.write(batch)
        self._settle(batch, written)

    def _settle(self, batch: Batch, written: Written) -> None:
        for run in written.recorded:
            self._deferred.pop(run, None)
        done = Ended("succeeded")
        for run in written.completed:
            self._deferred.pop(run, None)
            self._finishes.pop(run)[1](done)
        for run in batch.records:
            if run.job not in written.put_off and (recorded := self._records.pop(run, None)) is not None:
                recorded()
        tickets = {start.job: start.ticket for start in batch.starts}
        for job, answer in written.starts.items():
            if self._starts[job][0].ticket == tickets[job]:
                self._starts.pop(job)[1](answer)
            else:  # another message of the job has come meanwhile: it is yet to be asked about
                self._wake(urgent=True)
        for run, state in written.finishes.items():
            self._finishes.pop(run)[1](Ended(state))
        if written.refused:
            finished = {finish.run for finish in batch.finishes}
            for run, known in written.refused.items():
                self._deferred.pop(run, None)
                if run in finished and run in self._finishes:
                    self._finishes.pop(run)[1](Ended(known))
        if written.put_off:
            self._notes[:0] = [note for note in batch.notes if note.run.job in written.put_off]
            self._work.set()  # tried again after the usual pause between batches of notes
        if written.cancelled:
            self._cancelled({run.job for run in written.cancelled})

    async def _write_apart(self, batch: Batch) -> bool:
        """Write each part of a batch alone, and give up what cannot be kept. False if the connection broke."""
        parts: list[Callable[[], Batch]] = [partial(self._batch, starts=[start]) for start in batch.starts]
        parts += [partial(self._batch, records=[run]) for run in batch.records]
        parts += [partial(self._batch, notes=[note]) for note in batch.notes]
        parts += [partial(self._batch, finishes=[finish]) for finish in batch.finishes]
        for number, make in enumerate(parts):
            part = make()
            try:
                await self._write(part)
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError):
                self._notes[:0] = [note for later in parts[number:] for note in later().notes]
                self._wake(urgent=True)
                await self._disconnect()
                return False
            except psycopg.DatabaseError as error:
                await self._give_up(part, error)
        return True

    async def _give_up(self, part: Batch, error: psycopg.DatabaseError) -> None:
        reason = error.diag.message_primary or str(error)
        for start in part.starts:
            log.error("job %s cannot be begun: %s", start.job, reason)
            self._starts.pop(start.job)[1](error)
        for run in part.records:
            log.error("the start of job %s cannot be recorded: %s", run.job, reason)
            if (recorded := self._records.pop(run, None)) is not None:
                recorded()
        for note in part.notes:
            log.error("a note of job %s cannot be recorded: %s", note.run.job, reason)
        for finish in part.finishes:
            log.error("the end of job %s cannot be recorded: %s", finish.run.job, reason)
            if finish.result is None and (finish.error is None or finish.error["code"] == UNRECORDABLE):
                self._finishes.pop(finish.run)[1](error)
                continue
            told = {"code": UNRECORDABLE, "message": f"the outcome cannot be kept: {reason}", "traceback": ""}
            failed = finish._replace(outcome="failed", result=None, error=told, again=False)
            self._finishes[finish.run] = (failed, self._finishes[finish.run][1])
            self._wake(urgent=True)

    async def _connect(self) -> None:
        pause, longest = RECONNECT_SECONDS
        told = False
        while self._connection is None:
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
                await connection.execute(PLANNING)
                self._connection = connection
            except psycopg.OperationalError as error:
                if not told:
                    log.warning("the database does not answer: %s", str(error).strip())
                    told = True
                await asyncio.sleep(pause)  # nothing tells when a database is back
                pause = min(longest, pause * 2)
            else:
                self._recorder = Recorder(self._connection, self._host, self._pid)
                if told:
                    log.info("the database answers again")

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        self._work.set()
        if connection is not None:
            await connection.close()
