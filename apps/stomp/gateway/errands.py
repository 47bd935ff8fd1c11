"""What a client asks for that needs Django's database: jobs, and what is said of them. In order, one after the other.

Words about a job that wait while something else is under way are recorded together, and nobody is in a hurry for
progress and log: words without a receipt are recorded `PACE_SECONDS` apart. So a worker that tells of each of a million
steps costs the database twenty transactions a second, and what it says is seen as soon as an eye could.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from apps.broker.engine import Done
from apps.stomp.gateway.ports import Word
from msgweb.errors import MsgwebError

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection

logger = logging.getLogger(__name__)

PACE_SECONDS = 0.05
WORD_BYTES = 500  # that a request takes in memory, beside its body
PATIENT = frozenset({"progress", "log"})  # the others are an end

Call = Callable[[], Awaitable[object]]
#: Records words about a job, of the attempt that the client named; what became of each.
Say = Callable[[str, str | None, Sequence[Word]], Awaitable[Sequence[MsgwebError | None]]]


class Errand:
    """A request that has nothing to do with others.

    Attributes:
        size: bytes in memory.
    """

    __slots__ = ("_call", "_done", "size")
    urgent = True

    def __init__(self, call: Call, done: Done, size: int) -> None:
        self._call = call
        self._done = done
        self.size = size

    async def run(self) -> None:
        """Do it."""
        self._done(await _error_of(self._call()))


class Words:
    """Words about one job that are recorded together.

    Attributes:
        named: the attempt that they name, as the client wrote it; None: they name none.
        ended: the last of them is an end: what follows it is another matter.
        size: bytes in memory.
        urgent: the client waits for one of them.
    """

    __slots__ = ("_done", "_say", "_words", "ended", "job", "named", "size", "urgent")

    def __init__(self, say: Say, job: str, named: str | None) -> None:
        self._say = say
        self._words: list[Word] = []
        self._done: list[Done] = []
        self.job = job
        self.named = named
        self.ended = False
        self.size = 0
        self.urgent = False

    def add(self, word: Word, done: Done, *, urgent: bool) -> None:
        """One more."""
        self._words.append(word)
        self._done.append(done)
        self.ended = word.event not in PATIENT
        self.size += len(word.body) + WORD_BYTES
        self.urgent = self.urgent or urgent or self.ended

    async def run(self) -> None:
        """Record them."""
        answers: Sequence[MsgwebError | None] = ()

        async def say() -> None:
            nonlocal answers
            answers = await self._say(self.job, self.named, self._words)

        error = await _error_of(say())
        for done, answer in zip(self._done, answers if error is None else [error] * len(self._done), strict=True):
            done(answer)


class Errands:
    """Those of one connection."""

    __slots__ = ("_again_at", "_connection", "_leaving", "_running", "_say", "_size", "_urgent", "_waiting", "_wake")

    def __init__(self, connection: "ClientConnection", say: Say) -> None:
        self._connection = connection
        self._say = say
        self._waiting: deque[Errand | Words] = deque()
        self._running = False
        self._size = 0  # of those that wait, and of the one that is under way
        self._urgent = 0  # how many of those that wait
        self._leaving = False
        self._again_at = 0.0  # before which words are not recorded that nobody waits for (the loop's time)
        self._wake: asyncio.Future[None] | None = None  # ends the wait for that moment

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._running

    def ask(self, call: Call, done: Done, size: int = 0) -> None:
        """Do something, after all that was asked for before.

        Args:
            size: of what it keeps in memory, in bytes.
        """
        errand = Errand(call, done, size + WORD_BYTES)
        self._waiting.append(errand)
        self._urgent += 1
        self._added(errand.size)

    def say(self, job: str, named: str | None, word: Word, done: Done, *, urgent: bool) -> None:
        """Record a word about a job, after all that was asked for before; only words about other jobs may come after it
        that are no end.

        Args:
            named: the attempt, as the client wrote it.
            urgent: the client waits for it.
        """
        words = self._to_join(job, named, word)
        if words is None:
            words = Words(self._say, job, named)
            self._waiting.append(words)
        size, was_urgent = words.size, words.urgent
        words.add(word, done, urgent=urgent)
        self._urgent += words.urgent - was_urgent
        self._added(words.size - size)

    def hurry(self) -> None:
        """The client leaves: no word waits for its moment any more."""
        self._leaving = True
        self._wake_up()

    def _to_join(self, job: str, named: str | None, word: Word) -> Words | None:
        """Words that wait, to which this one may be added."""
        for errand in reversed(self._waiting):
            if type(errand) is not Words:
                return None
            if errand.job == job:
                return errand if errand.named == named and not errand.ended else None
            if word.event not in PATIENT:
                return None
        return None

    def _added(self, size: int) -> None:
        self._size += size
        if self._is_full:
            self._connection.hold("errands")
        if self._urgent or self._is_full:
            self._wake_up()
        if not self._running:
            self._running = True
            self._connection.start_task(self._run())

    @property
    def _is_full(self) -> bool:
        options = self._connection.options
        return len(self._waiting) + self._running >= options.errands or self._size >= options.errand_bytes

    async def _run(self) -> None:
        while self._waiting:
            await self._pace()
            for _ in range(len(self._waiting)):  # what comes meanwhile is of the next round
                errand = self._waiting.popleft()
                self._urgent -= errand.urgent
                await errand.run()
                self._size -= errand.size
                if not self._is_full:
                    self._connection.release_hold("errands")
        self._running = False

    async def _pace(self) -> None:
        """Wait for the moment of the next round, if nobody waits for it."""
        loop = self._connection.loop
        if not (self._urgent or self._is_full or self._leaving) and loop.time() < self._again_at:
            self._wake = loop.create_future()
            timer = loop.call_at(self._again_at, self._wake_up)
            await self._wake
            timer.cancel()
            self._wake = None
        self._again_at = loop.time() + PACE_SECONDS

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


async def _error_of(work: Awaitable[object]) -> MsgwebError | None:
    """Wait for it; what it raised, as clients may be told it."""
    try:
        await work
    except MsgwebError as error:
        return error
    except Exception:
        logger.exception("a request for a job failed")
        return MsgwebError("the request failed; the server's log says why")
    return None


def word_of(headers: dict[str, str], body: bytes) -> Word:
    """A SEND to `/job/<id>` that comes now. Without an event it is a result."""
    return Word(headers.get("job-event", "result"), body, headers.get("content-type"), time.time())
