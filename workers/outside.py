"""What a gateway needs in order to look after the jobs that its consumers work on: it is their supervisor.

The same records as those of a worker of ours, by the same statements (`workers.ledger`): an attempt begins, within the
job's limits, before its message is handed out, under the gateway's session; its end is recorded before the message is
let go. What a consumer says of its job is recorded by `apps.jobs.outside`.

Nothing is connected before the first job is handed out.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from apps.jobs import registry
from apps.jobs.channels import CONTROL
from apps.jobs.queries import query
from apps.jobs.records import Finish, NotStarted, Run, Start, Started
from apps.stomp.gateway.ports import Attempt, AtWork, End, NotBegun, Offer
from workers.ledger import NETWORK, Ended, Ledger

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
RECONNECT_SECONDS = 1.0
ANSWER_SECONDS = 15.0
ROLL_UP_SECONDS = 10.0


class OutsideDesk:
    """Records the attempts of consumers, and hears of what becomes of their jobs. Belongs to one event loop.

    Args:
        conninfo: of the database.
        poll_seconds: so often it asks, also without a notification.
    """

    def __init__(self, conninfo: str, poll_seconds: float = POLL_SECONDS) -> None:
        self._conninfo = make_conninfo(conninfo, **NETWORK)
        self._poll_seconds = poll_seconds
        self._ledger = Ledger(conninfo, socket.gethostname(), os.getpid(), self._cancelled)
        self._at_work: AtWork | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._roll_up_at = 0.0

    def attach(self, at_work: AtWork) -> None:
        """Whom to tell of what becomes of jobs."""
        self._at_work = at_work

    def begin(self, offer: Offer, answer: Callable[[Attempt | NotBegun], None]) -> None:
        """Begin an attempt, if the job may."""
        if self._closed:
            asyncio.get_running_loop().call_soon(answer, "later")
            return
        if not self._tasks:
            watching = asyncio.get_running_loop().create_task(self._watch(), name="jobs outside")
            self._tasks = [self._ledger.start(), watching]
            for task in self._tasks:
                task.add_done_callback(_tell_failure)
        start = Start(UUID(offer.job), offer.deliveries, offer.session, offer.ticket, offer.namespace, offer.worker)
        self._ledger.begin(start, partial(_begun, answer))

    def end(self, attempt: Attempt, end: End, done: Callable[[str | None], None]) -> None:
        """Record that an attempt is over."""
        pause = end.pause
        if pause is None and end.outcome == "failed":
            pause = registry.pause_after(attempt.task, attempt.failures + 1)
        error = {**end.error, "traceback": ""} if end.error is not None else None
        run = Run(UUID(attempt.job), attempt.number, attempt.session)
        finish = Finish(run, end.outcome, error=error, again=end.again, note=end.note, pause=pause)
        self._ledger.finish(finish, partial(_concluded, attempt, done))

    async def close(self, seconds: float = 5.0) -> None:
        """Record what is left, for at most so many seconds, and end."""
        self._closed = True
        if not self._tasks:
            return
        if not await self._ledger.close(seconds):
            log.error("the database did not answer: what was left to record of jobs is lost with this gateway")
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _cancelled(self, jobs: set[UUID]) -> None:
        """Somebody wants these cancelled; perhaps they are at work here."""
        if self._at_work is not None:
            for job in jobs:
                self._at_work.cancel(str(job))

    async def _watch(self) -> None:
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, application_name="msgweb gateway jobs"
                )
                async with connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CONTROL)))
                    while True:
                        await self._look(connection)
                        await self._roll_up(connection)
                        async for notification in connection.notifies(timeout=self._poll_seconds):
                            if self._at_work is not None:
                                self._at_work.cancel(notification.payload)
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
                log.warning("cannot hear of jobs now, trying again: %s", str(error).strip() or "no answer")
                await asyncio.sleep(RECONNECT_SECONDS)  # nothing tells when a database is back

    async def _roll_up(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """The figures of the jobs that have ended: there may be no worker that does it."""
        if time.monotonic() >= self._roll_up_at:
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.execute(query("roll_up"))
            self._roll_up_at = time.monotonic() + ROLL_UP_SECONDS

    async def _look(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """A notification can be lost, and a job may have been ended by another connection of its worker."""
        assert self._at_work is not None
        attempts = self._at_work.attempts()
        if not attempts:
            return
        async with asyncio.timeout(ANSWER_SECONDS):
            cursor = await connection.execute(query("attempts_of"), {"ids": [UUID(one.job) for one in attempts]})
            now = {str(job): row for job, *row in await cursor.fetchall()}
        for attempt in attempts:
            number, session, state, cancelled = now.get(attempt.job, (0, None, "gone", False))
            if (number, session, state) != (attempt.number, attempt.session, "running"):
                self._at_work.over(attempt, state)
            elif cancelled:
                self._at_work.cancel(attempt.job)


def _begun(answer: Callable[[Attempt | NotBegun], None], told: Started | NotStarted | psycopg.Error) -> None:
    if isinstance(told, psycopg.Error):
        log.error("a job cannot be begun: %s", told)
        answer("later")
    elif isinstance(told, NotStarted):
        answer({"final": "void", "missing": "unknown"}.get(told.reason, "stale"))  # type: ignore[arg-type]
    else:
        run = told.run
        answer(Attempt(str(run.job), run.attempt, run.worker, told.task, told.failures, told.timeout))


def _concluded(attempt: Attempt, done: Callable[[str | None], None], ended: Ended | psycopg.Error) -> None:
    if isinstance(ended, psycopg.Error):
        log.error("job %s: its end cannot be recorded: %s", attempt.job, ended)
        done(None)
    else:
        done(ended.state)


def _tell_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the gateway cannot look after jobs any more", exc_info=error)
