"""What a worker records of its jobs: one batch, one transaction.

A batch first locks the rows of all its jobs and compares them with what the worker believes (the fence): an attempt
may write while its job is running, in that very attempt, under the session that began it. What does not fit is
refused and nothing of it is written; what cannot be locked now, because somebody else's transaction holds the row, is
put off. So nothing that a worker writes ever waits for anybody, and no two batches can lock each other out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NewType
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from apps.jobs import replies
from apps.jobs.channels import EVENTS
from apps.jobs.queries import query

Json = NewType("Json", str)  # a text that `registry.to_json` made

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
STARTABLE_STATES = frozenset({"scheduled", "ready", "waiting", "running"})


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that a worker has begun; with the session, the fence of what it writes."""

    job: UUID
    attempt: int
    worker: int


@dataclass(frozen=True, slots=True)
class Start:
    """A worker holds a job's message and wants to begin an attempt.

    Attributes:
        delivery: the message's delivery count. One that is lower than that of the latest start belongs to a worker
            that was fenced off and does not know it yet.
        ticket: the message's: of a job that was given a new message since, the old one is void.
    """

    job: UUID
    delivery: int
    worker: int
    ticket: int = 0


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of an attempt's log."""

    run: Run
    at: datetime
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """How far an attempt is. Of several in a batch the latest counts."""

    run: Run
    at: datetime
    done: int
    total: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an attempt.

    Attributes:
        outcome: succeeded, failed, cancelled or interrupted; expired for a job that never began.
        again: whether a failure may be retried, while the job has attempts left.
        note: why, for the state event.
        pause: seconds until then.
    """

    run: Run
    outcome: str
    result: Json | None = None
    error: Mapping[str, str] | None = None
    again: bool = True
    note: str | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one transaction. The notes precede the finishes; a job's start stands alone."""

    starts: Sequence[Start] = ()
    notes: Sequence[LogLine | Mark] = ()
    finishes: Sequence[Finish] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to a `Start` that was taken.

    Attributes:
        failures: how often the job has failed before.
        timeout: seconds that the attempt may take.
    """

    run: Run
    task: str
    namespace: str
    arguments: str
    failures: int = 0
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The answer to a `Start` that was refused.

    Attributes:
        reason: `final` (the message is of no more use: the job has ended, or gets another one), `missing` (there is no
            such job), `stale` (a later delivery of the message is at work).
    """

    reason: str


@dataclass(slots=True)
class Written:
    """What became of a batch.

    Attributes:
        starts: the answers, by job. A start that is in none of these was put off.
        finishes: the job's state and its failures so far, by run.
        refused: runs that the fence turned away, with the job's state where the job is still in that attempt (then
            an earlier write of the same finish took effect), or None where somebody else has it.
        put_off: jobs whose rows were locked elsewhere; nothing of theirs was written.
        cancelled: runs that somebody asked to cancel.
    """

    starts: dict[UUID, Started | NotStarted] = field(default_factory=dict)
    finishes: dict[Run, tuple[str, int]] = field(default_factory=dict)
    refused: dict[Run, str | None] = field(default_factory=dict)
    put_off: set[UUID] = field(default_factory=set)
    cancelled: set[Run] = field(default_factory=set)


class Recorder:
    """Writes batches on a connection of its own, which is in autocommit mode."""

    def __init__(self, connection: AsyncConnection[tuple[Any, ...]], host: str, pid: int) -> None:
        self._connection = connection
        self._host = host
        self._pid = pid

    async def write(self, batch: Batch) -> Written:
        """Write a batch as one transaction.

        Raises:
            psycopg.OperationalError: the connection broke; whether the batch was committed is unknown, and writing it
                again is right: a finish that took effect is refused the second time, a note is written twice.
            psycopg.DatabaseError: something in the batch cannot be kept; nothing of it was.
        """
        async with self._connection.transaction():
            return await self._write(batch)

    async def _write(self, batch: Batch) -> Written:
        written = Written()
        runs = {item.run for item in (*batch.notes, *batch.finishes)}
        ids = {start.job for start in batch.starts} | {run.job for run in runs}
        if not ids:
            return written
        rows = {row[0]: row for row in await self._all("lock", ids=list(ids))}
        if len(rows) < len(ids):
            peeked = {row[0]: row for row in await self._all("peek", ids=[i for i in ids if i not in rows])}
        else:
            peeked = {}

        admitted: set[Run] = set()
        for run in runs:
            row, other = rows.get(run.job), peeked.get(run.job)
            if row is not None and (row[2], row[3], row[5]) == ("running", run.attempt, run.worker):
                admitted.add(run)
                if row[6] is not None:
                    written.cancelled.add(run)
            elif row is None and other is not None and other[1] == "running":
                # Held elsewhere, and perhaps about to change: ask again when it is free.
                written.put_off.add(run.job)
            else:
                known = row[2:4] if row is not None else other[1:3] if other is not None else (None, None)
                written.refused[run] = known[0] if known[1] == run.attempt and known[0] != "running" else None

        changed = await self._start(batch.starts, rows, peeked, written)
        notes = [note for note in batch.notes if note.run in admitted]
        changed |= await self._note(notes, rows)
        changed |= await self._finish([item for item in batch.finishes if item.run in admitted], written)
        if changed:
            await self._run("notify", channel=EVENTS, ids=list(changed))
        return written

    async def _start(
        self,
        starts: Sequence[Start],
        rows: Mapping[UUID, tuple[Any, ...]],
        peeked: Mapping[UUID, tuple[Any, ...]],
        written: Written,
    ) -> set[UUID]:
        taken: dict[UUID, Start] = {}
        ended: dict[UUID, str] = {}
        for start in starts:
            row = rows.get(start.job)
            if row is None:
                if start.job in peeked:
                    written.put_off.add(start.job)
                else:
                    written.starts[start.job] = NotStarted("missing")
            elif row[2] in FINAL_STATES or start.ticket < row[7] or row[8]:  # or void, or held back
                written.starts[start.job] = NotStarted("final")
            elif row[2] not in STARTABLE_STATES or start.delivery < row[4]:
                written.starts[start.job] = NotStarted("stale")
            elif row[6] is not None:  # its worker died before it could cancel
                ended[start.job] = "cancelled"
            elif row[9]:
                ended[start.job] = "expired"
            elif row[2] == "running" and row[11] == "fail":  # so did its worker, and that ends it
                ended[start.job] = "interrupted"
            else:
                taken[start.job] = start
        if ended:
            await self._end([(job, Finish(Run(job, 0, 0), outcome)) for job, outcome in ended.items()])
            written.starts.update(dict.fromkeys(ended, NotStarted("final")))
        limited = [job for job in taken if rows[job][10]]
        blocked = await self._admit(limited, taken, written) if limited else set()
        for worker in {start.worker for start in taken.values()}:
            mine = [start for start in taken.values() if start.worker == worker]
            begun = await self._all(
                "start",
                ids=[start.job for start in mine],
                deliveries=[start.delivery for start in mine],
                worker=worker,
                host=self._host,
                pid=self._pid,
            )
            for job, attempt, *what in begun:
                written.starts[job] = Started(Run(job, attempt, worker), *what)
        return set(taken) | set(ended) | blocked

    async def _admit(self, limited: Sequence[UUID], taken: dict[UUID, Start], written: Written) -> set[UUID]:
        """Take out those that may not begin now. Returns those that were put aside."""
        blocked = set()
        for job, verdict in await self._all("admit", ids=list(limited)):
            if verdict == "go":
                continue
            del taken[job]
            if verdict == "blocked":
                blocked.add(job)
                written.starts[job] = NotStarted("final")
            else:
                written.put_off.add(job)
        return blocked

    async def _note(self, notes: Sequence[LogLine | Mark], rows: Mapping[UUID, tuple[Any, ...]]) -> set[UUID]:
        if not notes:
            return set()
        latest = {note.run: note for note in notes if isinstance(note, Mark)}
        kept = [note for note in notes if isinstance(note, LogLine) or latest[note.run] is note]
        await self._run(
            "append_events",
            ids=[note.run.job for note in kept],
            ats=[note.at for note in kept],
            kinds=["log" if isinstance(note, LogLine) else "progress" for note in kept],
            data=[json.dumps(_data(note), ensure_ascii=False) for note in kept],
        )
        marks = list(latest.values())
        if marks:
            await self._run(
                "set_progress",
                ids=[mark.run.job for mark in marks],
                ats=[mark.at for mark in marks],
                dones=[mark.done for mark in marks],
                totals=[mark.total for mark in marks],
                texts=[mark.text for mark in marks],
            )
        for mark in marks:
            job, namespace, *_, reply_to, correlation_id, wants_progress = rows[mark.run.job]
            if reply_to and wants_progress:
                body = json.dumps(_data(mark), ensure_ascii=False)
                await self._reply(job, namespace, reply_to, correlation_id, "progress", body, persistent=False)
        return {note.run.job for note in kept}

    async def _finish(self, finishes: Sequence[Finish], written: Written) -> set[UUID]:
        if not finishes:
            return set()
        ended = await self._end([(item.run.job, item) for item in finishes])
        for item in finishes:
            written.finishes[item.run] = ended[item.run.job]
        return set(ended)

    async def _end(self, finishes: Sequence[tuple[UUID, Finish]]) -> dict[UUID, tuple[str, int]]:
        """End jobs whose rows are locked, and send the replies of those that are final now."""
        rows = await self._all(
            "finish",
            ids=[job for job, _ in finishes],
            outcomes=[item.outcome for _, item in finishes],
            results=[item.result for _, item in finishes],
            errors=[json.dumps(dict(item.error), ensure_ascii=False) if item.error else None for _, item in finishes],
            again=[item.again for _, item in finishes],
            notes=[item.note for _, item in finishes],
            pauses=[item.pause for _, item in finishes],
        )
        ended = {}
        for job, state, failures, namespace, reply_to, correlation_id, result, error in rows:
            ended[job] = (state, failures)
            if reply_to and state in FINAL_STATES:
                event, body = replies.outcome(state, result, json.loads(error) if error else None)
                await self._reply(job, namespace, reply_to, correlation_id, event, body, persistent=True)
        await self._run("follow", ids=list(ended))
        return ended

    async def _reply(
        self, job: UUID, namespace: str, reply_to: str, correlation_id: str, event: str, body: str, *, persistent: bool
    ) -> None:
        headers = json.dumps(replies.reply_headers(job, correlation_id, event), ensure_ascii=False)
        try:
            async with self._connection.transaction():  # a savepoint: the result matters more than its reply
                await self._run(
                    "send", namespace=namespace, destination=reply_to, body=body, headers=headers, persistent=persistent
                )
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            line = {
                "level": "error",
                "text": f"the reply to {reply_to} could not be sent: {error.diag.message_primary}",
            }
            data = json.dumps(line, ensure_ascii=False)
            await self._run("append_events", ids=[job], ats=[datetime.now(UTC)], kinds=["log"], data=[data])

    async def cancel_requests(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Which of these jobs somebody asked to cancel."""
        return {row[0] for row in await self._all("cancel_requests", ids=list(jobs))}

    async def namespaces(self) -> list[str]:
        """The names of all namespaces."""
        return [row[0] for row in await self._all("namespaces")]

    async def _all(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        cursor = await self._run(name, **parameters)
        return await cursor.fetchall()

    async def _run(self, name: str, **parameters: Any) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        return await self._connection.execute(query(name), parameters)


def _data(note: LogLine | Mark) -> dict[str, Any]:
    if isinstance(note, LogLine):
        return {"level": note.level, "text": note.text}
    return {"done": note.done, "total": note.total, "text": note.text}
