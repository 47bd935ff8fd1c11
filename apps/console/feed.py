"""What happens to jobs, for many listeners of one process: one LISTEN connection, one reader.

A listener does not get events pushed: it is woken and then reads the next batch after its own last id. So a slow
listener costs one batch of memory and never holds up another, and nothing is lost when a notification is, since what
happened stands in the table.

All of it belongs to one event loop: each loop has a feed of its own, made by `feed_of_loop`. The connection and the
threads exist only while somebody listens.
"""

import asyncio
import logging
import random
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psycopg
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections
from psycopg import sql

from apps.jobs import channels, events
from apps.jobs.models import Event, Job
from msgweb.database import conninfo_of
from msgweb.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Events read at once: what a listener holds in memory while its client is slow.
BATCH = 500
#: Seconds between two looks at the table, for the case that LISTEN is dead without our knowing (a pooler, a firewall).
POLL_SECONDS = 5.0
#: Seconds before the connection is tried again: from the first to the last step of the back-off.
BACKOFF_SECONDS = 0.25, 10.0


class Watch:
    """A listener's place: it is woken when something may have happened to its job."""

    __slots__ = ("job_id", "seen", "woken")

    def __init__(self, job_id: uuid.UUID) -> None:
        self.job_id = job_id
        self.seen: int | None = None  # the last event's id that the listener read, if it wants the poll to compare it
        self.woken = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait until woken, at most so many seconds; whether it was woken. Forgets the waking."""
        try:
            async with asyncio.timeout(seconds):
                await self.woken.wait()
        except TimeoutError:
            return False
        self.woken.clear()
        return True


@dataclass(frozen=True, slots=True)
class Batch:
    """What a listener reads at once.

    Attributes:
        state: the job's state from before its events were read: where it is final and there are no events left, all
            has been read. None for a job that is not there.
        events: at most BATCH.
    """

    state: str | None
    events: list[Event]

    @property
    def is_full(self) -> bool:
        """Whether there may be more events already."""
        return len(self.events) >= BATCH

    @property
    def is_last(self) -> bool:
        """Whether nothing can follow."""
        return not self.is_full and (self.state is None or self.state in Job.FINAL)


class JobFeed:
    """The jobs' events, for the listeners of one event loop.

    Attributes:
        closing: set once this process is asked to end; every listener should end soon.
        listening: set while LISTEN stands.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.listening = asyncio.Event()
        self._watches: dict[uuid.UUID, set[Watch]] = {}
        self._reads: dict[uuid.UUID, dict[int, asyncio.Future[Batch]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._reader: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def watch(self, job_id: uuid.UUID) -> AsyncIterator[Watch]:
        """Be woken for a job. The first listener connects, the last one disconnects."""
        watch = Watch(job_id)
        self._watches.setdefault(job_id, set()).add(watch)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._poll())]
        try:
            yield watch
        finally:
            group = self._watches[job_id]
            group.discard(watch)
            if not group:
                del self._watches[job_id]
            if not self._watches:
                await self._stop()

    async def read(self, job_id: uuid.UUID, after: int) -> "Batch":
        """The next events of a job after an id. Listeners at the same place share one read.

        Raises:
            Unavailable: the database does not answer.
        """
        reads = self._reads.setdefault(job_id, {})
        shared = reads.get(after)
        if shared is None:
            shared = reads[after] = asyncio.ensure_future(self.query(partial(_read, job_id, after)))
            shared.add_done_callback(partial(self._forget, job_id, after))
        return await asyncio.shield(shared)

    def _forget(self, job_id: uuid.UUID, after: int, done: "asyncio.Future[Batch]") -> None:
        reads = self._reads.get(job_id, {})
        if reads.get(after) is done:
            del reads[after]
            if not reads:
                del self._reads[job_id]
        if not done.cancelled():
            done.exception()  # each listener that is still there gets it; here it counts as seen

    async def query(self, question: Callable[[], T]) -> T:
        """Ask Django's models from the reader's thread.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "job-feed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, _ask, question)
        except DatabaseError as error:
            raise Unavailable("the database is away") from error

    async def wait_final(self, job_id: uuid.UUID, seconds: float) -> None:
        """Return as soon as the job has ended or does not exist, this process ends, or so many seconds are over."""
        deadline = time.monotonic() + seconds
        async with self.watch(job_id) as watch:
            while not self.closing.is_set():
                state = await self.query(lambda: Job.objects.filter(id=job_id).values_list("state", flat=True).first())
                left = deadline - time.monotonic()
                if state is None or state in Job.FINAL or left <= 0:
                    return
                await watch.wait(min(left, POLL_SECONDS))

    def close(self) -> None:
        """Ask every listener to end."""
        self.closing.set()
        self._wake_all()

    def _wake(self, job_id: uuid.UUID) -> None:
        # A read that began before what happened may not show it: whoever is woken begins another one.
        self._reads.pop(job_id, None)
        for watch in self._watches.get(job_id, ()):
            watch.woken.set()

    def _wake_all(self) -> None:
        for job_id in self._watches:
            self._wake(job_id)

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        reader = self._reader
        if reader is not None and not self._watches:  # a new listener may have come meanwhile
            self._reader = None
            await asyncio.get_running_loop().run_in_executor(reader, connections.close_all)
            reader.shutdown(wait=False)

    async def _listen(self) -> None:
        """Keep a LISTEN connection; after each connect everybody looks for what happened meanwhile."""
        shortest, longest = BACKOFF_SECONDS
        pause = shortest
        while True:
            try:
                conninfo = conninfo_of(settings.DATABASES["default"])
                async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channels.EVENTS)))
                    self._wake_all()
                    self.listening.set()
                    pause = shortest
                    await self._pass_on(connection)
            except psycopg.Error as error:
                log.warning("the event stream lost its LISTEN connection: %s", str(error).partition("\n")[0])
            finally:
                self.listening.clear()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(pause * 2, longest)

    async def _pass_on(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            async for notification in connection.notifies(timeout=60):
                try:
                    for job_id in notification.payload.split():
                        self._wake(uuid.UUID(job_id))
                except ValueError:
                    log.warning("a notification on %s names no job: %.80r", channels.EVENTS, notification.payload)
            await connection.execute("SELECT 1")  # a minute of silence: is anybody there?

    async def _poll(self) -> None:
        """The net below LISTEN: one query for all watched jobs."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            readers = [watch for group in self._watches.values() for watch in group if watch.seen is not None]
            if not readers:
                continue
            jobs = {watch.job_id for watch in readers}
            lowest = min(watch.seen or 0 for watch in readers)
            try:
                newest = await self.query(partial(events.newest, jobs, lowest))
            except Unavailable:
                continue  # the listening connection says so in the log
            for job_id in {watch.job_id for watch in readers if newest.get(watch.job_id, 0) > (watch.seen or 0)}:
                self._wake(job_id)


def _read(job_id: uuid.UUID, after: int) -> Batch:
    state = Job.objects.filter(id=job_id).values_list("state", flat=True).first()
    return Batch(state, events.after(job_id, after, BATCH))


def _ask(question: Callable[[], T]) -> T:
    close_old_connections()  # this thread sees no request begin, which is where Django would do it
    return question()


_feeds: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, JobFeed]" = weakref.WeakKeyDictionary()


def feed_of_loop() -> JobFeed:
    """The feed of the running event loop."""
    loop = asyncio.get_running_loop()
    feed = _feeds.get(loop)
    if feed is None:
        feed = _feeds[loop] = JobFeed()
    return feed
