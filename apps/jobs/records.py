"""What a worker says of the attempts at its jobs, and the answers: what the recorder takes and returns. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, NewType
from uuid import UUID

Json = NewType("Json", str)  # a text that `registry.to_json` made

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
STARTABLE_STATES = frozenset({"scheduled", "ready", "waiting", "running"})


class Run(NamedTuple):
    """An attempt that a worker has begun; with the session, the fence of what it writes."""

    job: UUID
    attempt: int
    worker: int


class Start(NamedTuple):
    """A worker holds a job's message and wants to begin an attempt.

    Attributes:
        delivery: the message's delivery count. One that is lower than that of the latest start belongs to a worker
            that was fenced off and does not know it yet.
        ticket: the message's: of a job that was given a new message since, the old one is void.
        namespace: whose job it must be; None: whosever.
        outside: who does the work, for people, where that is no process of the worker's own.
    """

    job: UUID
    delivery: int
    worker: int
    ticket: int = 0
    namespace: str | None = None
    outside: str | None = None


class LogLine(NamedTuple):
    """A line of an attempt's log."""

    run: Run
    at: datetime
    level: str
    text: str


class Mark(NamedTuple):
    """How far an attempt is. Of several in a batch the latest counts."""

    run: Run
    at: datetime
    done: int
    total: int
    text: str


class Stopping(NamedTuple):
    """The worker was told to stop, and the attempt is still at work: if it is killed now, it was not for the job."""

    run: Run
    at: datetime


Note = LogLine | Mark | Stopping


class Finish(NamedTuple):
    """The end of an attempt.

    Attributes:
        outcome: succeeded, failed, cancelled or interrupted; unbegun where the job's code was not even called; expired
            for a job that never began.
        again: whether a failure may be retried, while the job has attempts left.
        note: why, for the state event.
        pause: seconds until then.
        seconds: how long the attempt took, where its start was deferred.
    """

    run: Run
    outcome: str
    result: Json | None = None
    error: Mapping[str, str] | None = None
    again: bool = True
    note: str | None = None
    pause: float | None = None
    seconds: float = 0.0


Whole = tuple[Finish, Start]  # the end of an attempt whose start was deferred, and that


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one transaction. The notes precede the finishes; a job's start stands alone.

    Attributes:
        deferred: the starts of runs whose start was deferred; those of the batch are among them.
        records: those of them whose start is to be written now in any case.
    """

    starts: Sequence[Start] = ()
    notes: Sequence[Note] = ()
    finishes: Sequence[Finish] = ()
    deferred: Mapping[Run, Start] = field(default_factory=dict)
    records: Sequence[Run] = ()


class Started(NamedTuple):
    """The answer to a `Start` that was taken.

    Attributes:
        failures: how often the job has failed before.
        timeout: seconds that the attempt may take.
        deferred: nothing was written: the start is recorded along with what comes next.
    """

    run: Run
    task: str
    namespace: str
    arguments: str
    failures: int = 0
    timeout: float | None = None
    deferred: bool = False


class NotStarted(NamedTuple):
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
        finishes: the job's state, by run.
        completed: the same of those that were recorded at once, start and end: they have succeeded.
        refused: runs that the fence turned away, with the job's state where the job is still in that attempt and ended
            as was said (then an earlier write of the same finish took effect), or None where somebody else has it.
        put_off: jobs whose rows were locked elsewhere; nothing of theirs was written.
        cancelled: runs that somebody asked to cancel.
        recorded: runs whose deferred start has been written.
    """

    starts: dict[UUID, Started | NotStarted] = field(default_factory=dict)
    finishes: dict[Run, str] = field(default_factory=dict)
    completed: list[Run] = field(default_factory=list)
    refused: dict[Run, str | None] = field(default_factory=dict)
    put_off: set[UUID] = field(default_factory=set)
    cancelled: set[Run] = field(default_factory=set)
    recorded: set[Run] = field(default_factory=set)
