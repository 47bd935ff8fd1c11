"""A message that a worker holds, on its way from the queue to the job's end."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from apps.broker.engine import Delivery, SessionId, Subscription
from apps.jobs.records import Run
from workers import wire


@dataclass(slots=True, eq=False)
class Claim:
    """A message that this worker holds.

    Attributes:
        session: under which it is held.
        arrived: when, by `time.monotonic()`.
        expected: how many seconds the job will take, by what others of its task took; infinite if nobody knows.
        alone: it may not wait in a slot behind another job: once it has begun on paper, it begins.
        job: None where the message is no job.
        ticket: which of the job's messages it is.
        timeout: seconds after which it is ended; None: never.
        run: the attempt, once it has begun.
        deferred: its start is not on record yet (`apps.jobs.recorder`).
        sent: when it went to its slot, by `time.monotonic()`.
        frame: what its slot is told.
        slot: where it is.
        lost: the session was fenced off: the message is somebody else's.
        ending: why it should end before its time: `cancelled`, `timeout`, `interrupted`, `lost`; the first reason
            counts.
        grace: ends its slot when it does not stop by itself.
        deadline: the timer of its timeout.
    """

    subscription: Subscription
    delivery: Delivery
    session: SessionId
    arrived: float
    expected: float
    alone: bool
    job: UUID | None
    ticket: int = 0
    timeout: float | None = None
    run: Run | None = None
    deferred: bool = False
    sent: float = 0.0
    frame: wire.RunJob | None = None
    slot: Any = None
    lost: bool = False
    ending: str | None = None
    grace: asyncio.TimerHandle | None = None
    deadline: asyncio.TimerHandle | None = None

    def settle(self) -> None:
        """No timer runs for it any more."""
        if self.grace is not None:
            self.grace.cancel()
        if self.deadline is not None:
            self.deadline.cancel()
        self.grace = self.deadline = None
