"""What a worker records of its jobs: one batch, one transaction.

A batch first locks the rows of all its jobs and compares them with what the worker believes (the fence): an attempt
may write while its job is running, in that very attempt, under the session that began it. What does not fit is
refused and nothing of it is written; what cannot be locked now, because somebody else's transaction holds the row, is
put off. So nothing that a worker writes ever waits for anybody, and no two batches can lock each other out.

The start of a short job may be deferred: it is admitted, but written only along with the first thing that is to be
recorded of the attempt, which mostly is its end; then the whole attempt is one change of the row. The fence of such an
attempt is that nothing has changed since it was admitted, and that its session lives. Whoever would change the job from
outside asks `msgweb.is_held` first (`apps.jobs.control`). Rows that nobody has locked meanwhile are changed without
being locked and read first; the others, few, go the way of all.
"""

import json
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from apps.jobs import deaths, replies
from apps.jobs.channels import EVENTS
from apps.jobs.pipelined import Pipelined, Row, Step
from apps.jobs.records import (
    FINAL_STATES,
    STARTABLE_STATES,
    Batch,
    Finish,
    LogLine,
    Mark,
    Note,
    NotStarted,
    Run,
    Start,
    Started,
    Stopping,
    Whole,
    Written,
)


class Recorder:
    """Writes batches on a connection of its own, which is in autocommit mode. `close` before that is closed."""

    def __init__(self, connection: AsyncConnection[Row], host: str, pid: int) -> None:
        self._statements = Pipelined(connection)
        self._host = host
        self._pid = pid

    def close(self) -> None:
        """The connection is about to be closed."""
        self._statements.close()

    async def write(self, batch: Batch) -> Written:
        """Write a batch as one transaction.

        Raises:
            psycopg.OperationalError: the connection broke; whether the batch was committed is unknown, and writing it
                again is right: a finish that took effect is refused the second time, a note is written twice.
            psycopg.DatabaseError: something in the batch cannot be kept; nothing of it was.
        """
        try:
            return await self._write(batch, _wholes(batch))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            # Somebody locked one of them just when it was to be changed: so all are locked first, but for that one.
            await self._statements.run([("rollback", {})])
            return await self._write(batch, [])
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError:
            await self._statements.run([("rollback", {})])
            raise

    async def _write(self, batch: Batch, wholes: Sequence[Whole]) -> Written:
        """Two round trips, mostly: what is compared, and all that follows from it.

        Args:
            wholes: those of the finishes that are tried without a lock, with their starts.
        """
        written = Written()
        finishes: Sequence[Finish] = batch.finishes
        if wholes:
            tried = {id(item) for item, _ in wholes}
            finishes = [item for item in finishes if id(item) not in tried]
        opening: list[Step] = [("begin", {})]
        if wholes:
            opening += [("briefly", {}), self._completing(wholes, free=True)]
        runs = {item.run for item in chain(batch.notes, finishes)}
        runs.update(batch.records)
        ids = {start.job for start in batch.starts} | {run.job for run in runs}
        if not (ids or wholes):
            return written
        _, *answers = await self._statements.run(opening + _looks(ids, runs, batch))
        rows: dict[UUID, Row] = {}
        alive: set[int] = set()
        _see(answers[len(opening) - 1 :], rows, alive)
        followed: Sequence[UUID] = ()
        asking: list[UUID] = []
        if wholes:
            done, replying, followed = (found or () for found in answers[1][0])
            asking = [wholes[place - 1][0].run.job for place in replying]
            if len(done) < len(wholes):
                places = {place - 1 for place in done}
                left = [item for place, (item, _) in enumerate(wholes) if place not in places]
                wholes = [wholes[place] for place in sorted(places)]
                finishes = [*finishes, *left]
                remaining = [item.run for item in left]
                runs.update(remaining)
                more = {run.job for run in remaining}
                ids |= more
                _see(await self._statements.run(_looks(more, remaining, batch)), rows, alive)
            written.completed = [item.run for item, _ in wholes]
        await self._recover([start.job for start in batch.starts if start.delivery > 1], rows)
        if len(rows) < len(ids):
            peeked = {row[0]: row for row in await self._rows("peek", ids=uuid_array(i for i in ids if i not in rows))}
        else:
            peeked = {}

        admitted: set[Run] = set()
        unbegun: set[Run] = set()
        said = {item.run: item.outcome for item in batch.finishes}
        for run in runs:
            row, other = rows.get(run.job), peeked.get(run.job)
            if row is not None and row[2] == "running" and row[3] == run.attempt and row[5] == run.worker:
                admitted.add(run)
                if row[6] is not None:
                    written.cancelled.add(run)
            elif row is not None and _is_unbegun(row, run, batch.deferred.get(run)) and run.worker in alive:
                admitted.add(run)
                unbegun.add(run)
            elif row is None and other is not None and (other[1] == "running" or run in batch.deferred):
                # Held elsewhere, and perhaps about to change: ask again when it is free.
                written.put_off.add(run.job)
            else:
                known = row[2:4] if row is not None else other[1:3] if other is not None else (None, None)
                written.refused[run] = (
                    known[0] if known[1] == run.attempt and _ends_so(said.get(run), known[0]) else None
                )

        taken, over = self._admissible(batch.starts, rows, peeked, written)
        orphans = await self._orphans(taken, rows, over, written)
        blocked = await self._admit(taken, rows, written)
        await self._count_deaths([one for one in orphans if one.job not in written.put_off])
        notes = [note for note in batch.notes if note.run in admitted]
        marks = list({note.run: note for note in notes if isinstance(note, Mark)}.values())
        finishes = [item for item in finishes if item.run in admitted]
        late: list[Finish] = []
        if unbegun:
            begin_first = {note.run for note in notes}.union(batch.records)
            late = [item for item in finishes if item.run in unbegun and _is_whole(item, begin_first)]
            for run in unbegun.difference(item.run for item in late):
                taken[run.job] = batch.deferred[run]
            if late:
                finishes = [item for item in finishes if not (item.run in unbegun and _is_whole(item, begin_first))]
        ends = [(item.run.job, item) for item in finishes]
        ends += over.items()
        ended = [item.run.job for item in late] + [job for job, _ in ends]
        changed = {*taken, *blocked, *(note.run.job for note in notes), *ended}
        asked = any(rows[job][12] for job in changed)  # somebody may want a reply: it depends on what follows
        completed = [run.job for run in written.completed]
        if not (changed or completed):  # locks are all that there was
            await self._statements.run([("rollback", {})])
            return written
        told_of = uuid_array(completed)
        watched = told_of if not changed else uuid_array(chain(completed, changed))
        told: list[Step] = [("notify", {"channel": EVENTS, "ids": watched}), ("commit", {})]
        workers = list({(start.worker, start.outside) for start in taken.values()})
        steps = [self._starting(list(taken.values()), rows, *worker) for worker in workers]
        steps += _noting(notes, marks)
        if completed:
            steps.append(("follow_completed", {"ids": told_of, "followed": uuid_array(followed)}))
        if late:
            steps.append(self._completing([(item, batch.deferred[item.run]) for item in late], free=False))
            asking += [item.run.job for item in late if rows[item.run.job][12]]
        if ends:
            steps.append(_ending(ends))
        if ended:
            steps.append(("follow", {"ids": uuid_array(ended)}))
        results = await self._statements.run(steps if asked or asking else [*steps, *told])
        began = {start.job for start in batch.starts}
        for (worker, _), begun in zip(workers, results, strict=False):
            for job, attempt, *what in begun:
                if job in began:
                    written.starts[job] = Started(Run(job, attempt, worker), *what)
        outcomes = {row[0]: row for row in results[len(steps) - 2]} if ends else {}
        for item in finishes:
            written.finishes[item.run] = outcomes[item.run.job][1]
        written.finishes.update((item.run, "succeeded") for item in late)
        written.recorded = unbegun
        if asked or asking:
            if asking:
                outcomes.update((row[0], row) for row in await self._rows("replies", ids=uuid_array(asking)))
            await self._tell_askers(marks, rows, outcomes)
            await self._statements.run(told)
        return written

    async def _recover(self, redelivered: Sequence[UUID], rows: dict[UUID, Row]) -> None:
        """Of jobs whose message comes again: record what a worker had begun that died before it could."""
        known = [job for job in redelivered if job in rows and rows[job][2] in STARTABLE_STATES - {"running"}]
        if known and (recovered := [row[0] for row in await self._rows("recover", ids=uuid_array(known))]):
            rows.update((row[0], row) for row in await self._rows("lock", ids=uuid_array(recovered)))

    def _admissible(
        self,
        starts: Sequence[Start],
        rows: Mapping[UUID, Row],
        peeked: Mapping[UUID, Row],
        written: Written,
    ) -> tuple[dict[UUID, Start], dict[UUID, Finish]]:
        """Which of them may begin, limits apart, and how the jobs end that end instead; the others are answered."""
        taken: dict[UUID, Start] = {}
        over: dict[UUID, Finish] = {}
        for start in starts:
            row = rows.get(start.job)
            if row is None:
                if start.job in peeked:
                    written.put_off.add(start.job)
                else:
                    written.starts[start.job] = NotStarted("missing")
            elif start.namespace is not None and row[1] != start.namespace:
                written.starts[start.job] = NotStarted("missing")
            elif row[2] in FINAL_STATES or start.ticket < row[7] or row[8]:  # or void, or held back
                written.starts[start.job] = NotStarted("final")
            elif row[2] not in STARTABLE_STATES or start.delivery < row[4]:
                written.starts[start.job] = NotStarted("stale")
            elif row[6] is not None:  # its worker died before it could cancel
                over[start.job] = Finish(_run(start), "cancelled")
            elif row[9]:
                over[start.job] = Finish(_run(start), "expired")
            elif row[2] == "running" and row[11] == "fail":  # so did its worker, and that ends it
                over[start.job] = Finish(_run(start), "interrupted")
            else:
                taken[start.job] = start
        written.starts.update(dict.fromkeys(over, NotStarted("final")))
        return taken, over

    async def _orphans(
        self, taken: dict[UUID, Start], rows: Mapping[UUID, Row], over: dict[UUID, Finish], written: Written
    ) -> list[deaths.Verdict]:
        """Those whose worker died with them. Takes out whose turn is later, or never."""
        running = [job for job in taken if rows[job][2] == "running"]
        found = [deaths.judge(*row) for row in await self._rows("orphans", ids=running)] if running else []
        for one in found:
            if one.error is not None and one.pause != 0:
                again = one.pause is not None
                run = _run(taken.pop(one.job))
                over[one.job] = Finish(run, "interrupted", None, one.error, again, one.note or None, one.pause)
                written.starts[one.job] = NotStarted("final")
        return found

    async def _count_deaths(self, orphans: Sequence[deaths.Verdict]) -> None:
        if orphans:
            await self._rows(
                "count_deaths",
                ids=[one.job for one in orphans],
                deaths=[one.deaths for one in orphans],
                errors=[None if one.error is None else json.dumps(one.error) for one in orphans],
            )

    async def _admit(self, taken: dict[UUID, Start], rows: Mapping[UUID, Row], written: Written) -> set[UUID]:
        """Take out those whose limits do not let them begin now. Returns those that were put aside."""
        limited = [job for job in taken if rows[job][10]]
        blocked = set()
        for job, verdict in await self._rows("admit", ids=limited) if limited else ():
            if verdict == "go":
                continue
            del taken[job]
            if verdict == "blocked":
                blocked.add(job)
                written.starts[job] = NotStarted("final")
            else:
                written.put_off.add(job)
        return blocked

    def _starting(self, taken: Sequence[Start], rows: Mapping[UUID, Row], worker: int, outside: str | None) -> Step:
        mine = [start for start in taken if (start.worker, start.outside) == (worker, outside)]
        return "start", {
            "ids": uuid_array([start.job for start in mine]),
            "deliveries": number_array(start.delivery for start in mine),
            "again": uuid_array([start.job for start in mine if rows[start.job][3]]),
            "worker": worker,
            "host": self._host if outside is None else outside[:255],
            "pid": self._pid if outside is None else None,
        }

    def _completing(self, wholes: Sequence[Whole], *, free: bool) -> Step:
        runs = [item.run for item, _ in wholes]
        starts = [start for _, start in wholes]
        return "complete", {
            "ids": uuid_array([run.job for run in runs]),
            "attempts": number_array([run.attempt for run in runs]),
            "deliveries": number_array([start.delivery for start in starts]),
            "tickets": number_array([start.ticket for start in starts]),
            "workers": number_array([run.worker for run in runs]),
            "sessions": number_array({run.worker for run in runs}),
            "free": free,
            "seconds": number_array([item.seconds for item, _ in wholes]),
            "results": "[%s]" % ",".join([item.result or "null" for item, _ in wholes]),  # noqa: UP031
            "host": self._host,
            "pid": self._pid,
        }

    async def _tell_askers(
        self,
        marks: Sequence[Mark],
        rows: Mapping[UUID, Row],
        outcomes: Mapping[UUID, Row],
    ) -> None:
        """Send the replies of jobs that are final now, and progress to those who want it."""
        for mark in marks:
            job, namespace, *_ = row = rows[mark.run.job]
            reply_to, correlation_id, wants_progress = row[12:15]
            if reply_to and wants_progress:
                body = json.dumps(_data(mark), ensure_ascii=False)
                await self._reply(job, namespace, reply_to, correlation_id, "progress", body, persistent=False)
        for job, state, _, namespace, reply_to, correlation_id, result, error in outcomes.values():
            if reply_to and state in FINAL_STATES:
                event, body = replies.outcome(state, result, json.loads(error) if error else None)
                await self._reply(job, namespace, reply_to, correlation_id, event, body, persistent=True)

    async def _reply(
        self, job: UUID, namespace: str, reply_to: str, correlation_id: str, event: str, body: str, *, persistent: bool
    ) -> None:
        headers = json.dumps(replies.reply_headers(job, correlation_id, event), ensure_ascii=False)
        reply = {
            "namespace": namespace,
            "destination": reply_to,
            "body": body,
            "headers": headers,
            "persistent": persistent,
        }
        try:  # a savepoint: the result matters more than its reply
            await self._statements.run([("savepoint", {}), ("send", reply), ("release", {})])
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            line = {
                "level": "error",
                "text": f"the reply to {reply_to} could not be sent: {error.diag.message_primary}",
            }
            data = [json.dumps(line, ensure_ascii=False)]
            event_row = {"ids": [job], "ats": [datetime.now(UTC)], "kinds": ["log"], "data": data}
            await self._statements.run([("undo", {}), ("append_events", event_row)])

    async def _rows(self, name: str, **parameters: Any) -> list[Row]:
        return (await self._statements.run([(name, parameters)]))[0]


def uuid_array(ids: Iterable[UUID]) -> str:
    """An array as Postgres reads it. psycopg's own way, an object each, takes ten times as long."""
    return "{%s}" % ",".join(["%032x" % one.int for one in ids])  # noqa: UP031  the quickest


def number_array(numbers: Iterable[int | float]) -> str:
    """The same of numbers."""
    return "{%s}" % ",".join(map(repr, numbers))  # noqa: UP031  the quickest


def _is_unbegun(row: Row, run: Run, start: Start | None) -> bool:
    """Whether a job is as it was when the start of this attempt was deferred."""
    return (
        start is not None
        and row[3] == run.attempt - 1
        and row[2] in STARTABLE_STATES
        and row[2] != "running"
        and row[4] <= start.delivery
        and row[7] == start.ticket
        and not row[8]
    )


def _ends_so(outcome: str | None, state: str) -> bool:
    """Whether a job may be in that state since its attempt has ended so; None: whatever way."""
    return state == outcome if outcome in FINAL_STATES - {"failed"} else state != "running"


def _is_whole(item: Finish, begin_first: Container[Run]) -> bool:
    """Whether its start, which was deferred, and its end are one write."""
    return item.outcome == "succeeded" and item.run not in begin_first


def _wholes(batch: Batch) -> list[Whole]:
    """The finishes that are one write with their start, with that."""
    if not batch.deferred:
        return []
    find = batch.deferred.get
    found = [(item, start) for item in batch.finishes if item.outcome == "succeeded" and (start := find(item.run))]
    begin_first = {note.run for note in batch.notes}.union(batch.records)
    return [(item, start) for item, start in found if item.run not in begin_first] if begin_first else found


def _looks(ids: Collection[UUID], runs: Iterable[Run], batch: Batch) -> list[Step]:
    """Lock the rows of jobs, and see whether the sessions live under which starts were deferred."""
    if not ids:
        return []
    steps: list[Step] = [("lock", {"ids": uuid_array(ids)})]
    if batch.deferred:
        steps.append(("alive", {"sessions": list({run.worker for run in runs})}))
    return steps


def _see(answers: Sequence[Sequence[Row]], rows: dict[UUID, Row], alive: set[int]) -> None:
    """What `_looks` found."""
    for locked in answers[:1]:
        rows.update((row[0], row) for row in locked)
    for living in answers[1:]:
        alive.update(row[0] for row in living)


def _run(start: Start) -> Run:
    """Stands for the attempt of a job that ends, or is put off, instead of beginning another."""
    return Run(start.job, 0, 0)


def _noting(notes: Sequence[Note], marks: Sequence[Mark]) -> list[Step]:
    """Record lines, of the marks the latest of each run, and whose worker is to stop."""
    latest = set(map(id, marks))
    kept = [note for note in notes if isinstance(note, LogLine) or (isinstance(note, Mark) and id(note) in latest)]
    leaving = [note.run for note in notes if isinstance(note, Stopping)]
    steps: list[Step] = []
    if leaving:
        steps.append(("stopping", {"ids": [run.job for run in leaving], "attempts": [run.attempt for run in leaving]}))
    if kept:
        events = {
            "ids": [note.run.job for note in kept],
            "ats": [note.at for note in kept],
            "kinds": ["log" if isinstance(note, LogLine) else "progress" for note in kept],
            "data": [json.dumps(_data(note), ensure_ascii=False) for note in kept],
        }
        steps.append(("append_events", events))
    if marks:
        progress = {
            "ids": [mark.run.job for mark in marks],
            "ats": [mark.at for mark in marks],
            "dones": [mark.done for mark in marks],
            "totals": [mark.total for mark in marks],
            "texts": [mark.text for mark in marks],
        }
        steps.append(("set_progress", progress))
    return steps


def _ending(finishes: Sequence[tuple[UUID, Finish]]) -> Step:
    return "finish", {
        "ids": uuid_array([job for job, _ in finishes]),
        "outcomes": [item.outcome for _, item in finishes],
        "results": [item.result for _, item in finishes],
        "errors": [json.dumps(dict(item.error), ensure_ascii=False) if item.error else None for _, item in finishes],
        "again": [item.again for _, item in finishes],
        "notes": [item.note for _, item in finishes],
        "pauses": [item.pause for _, item in finishes],
    }


def _data(note: LogLine | Mark) -> dict[str, Any]:
    if isinstance(note, LogLine):
        return {"level": note.level, "text": note.text}
    return {"done": note.done, "total": note.total, "text": note.text}
