"""One run: a plan's clients and faults in a world, then the drain, then the checker's verdict."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.chaos.checker import Violation, check
from tests.chaos.clients import Client, Message
from tests.chaos.consumers import Consumer
from tests.chaos.history import (
    Delivered,
    Ending,
    Event,
    Outcome,
    Recorder,
    Remaining,
    Sending,
    Settling,
    in_order,
)
from tests.chaos.plans import Plan
from tests.chaos.producers import SqlProducer, StompProducer
from tests.chaos.workers import Workers
from tests.chaos.world import World

DRAIN_SECONDS = 75.0  # without any progress: the engine's most thorough look at its queues comes once a minute
END_SECONDS = 60.0  # a deadline for a loaded machine, not an expectation
LOOK_SECONDS = 0.03  # between two looks whether the queues are empty
IDLE_SECONDS = 0.5  # after this long without progress the faults that are left come at once
STILL_SECONDS = 3.0  # a drain in which nothing is delivered for longer is told of, with what was left then

_MAKE = "SELECT msgweb.destination_id(%s, 'queue', %s)"
_SET = "UPDATE msgweb.destination SET retry_delay = %s, retry_delay_max = 0.5 WHERE id = %s"
_LEFT = """
SELECT substr(d.name, length(%(prefix)s) + 1),
       CASE WHEN m.session IS NULL THEN 'ready' WHEN m.session > 0 THEN 'held' WHEN m.session = 0 THEN 'parked'
            ELSE 'delayed' END AS state, s.pid, count(*)
FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination LEFT JOIN msgweb.session s ON s.id = m.session
WHERE starts_with(d.name, %(prefix)s) GROUP BY 1, 2, 3
"""


@dataclass(slots=True)
class Result:
    """What came of a run.

    Attributes:
        counts: for the summary.
        drained: seconds from the last fault's end until the queues were empty.
        stood: the longest time, seconds, in which nothing was delivered meanwhile.
        still: what was left in the queues when nothing was for `STILL_SECONDS`.
        violations: also the clients' complaints about answers that no client should get.
    """

    seed: int
    seconds: float
    drained: float
    counts: Counter[str] = field(default_factory=Counter)
    stood: float = 0.0
    still: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Run:
    """A run in progress.

    Attributes:
        prefix: what the names of its queues begin with in the broker.
        calm: set when the clients are to behave, so that the queues run empty.
        over: set when the queues are empty.
    """

    def __init__(self, plan: Plan, world: World, number: int) -> None:
        self.plan = plan
        self.world = world
        self.prefix = f"run{number}."
        self.recorder = Recorder()
        self.calm = asyncio.Event()
        self.over = asyncio.Event()
        self._clients: list[Client] = []
        self._sent = 0
        self._planned = sum(producer.messages for producer in plan.producers)
        self._seen: set[str] = set()
        self._moved = asyncio.Event()
        self._manned = asyncio.Event()  # the workers run
        self._last_move = time.monotonic()
        self._stood = 0.0
        self._still: list[str] = []

    # -- for the actors

    async def connect(
        self, slot: str, name: str, deliver: Callable[[str, Message], None] | None = None
    ) -> Client | None:
        """A client at a gateway; None if that was not to be had now."""
        client = await Client.connect(self.world, slot, self.recorder, name, self.prefix, deliver)
        if client is not None:
            self._clients.append(client)
        return client

    def progressed(self) -> None:
        """A producer has sent one of the planned messages."""
        self._sent += 1
        self._move()

    def delivered(self, message: str) -> None:
        """A message was seen."""
        self._seen.add(message)
        self._move()

    def _move(self) -> None:
        self._last_move = time.monotonic()
        self._moved.set()

    # -- the run

    async def work(self) -> Result:
        """All of it; the world is whole at the end."""
        begun = time.monotonic()
        before = len(self.world.events)
        await self._make_queues()
        workers = Workers(self)
        consumers = [
            asyncio.create_task(Consumer(self, one).work()) for one in self.plan.consumers if one.kind == "stomp"
        ]
        watching = asyncio.create_task(workers.watch())
        producers = [
            asyncio.create_task((SqlProducer if one.kind == "sql" else StompProducer)(self, one).work())
            for one in self.plan.producers
        ]
        faults = asyncio.create_task(self._strike())
        tasks = [*consumers, *producers, faults, watching]
        try:
            await workers.start([one for one in self.plan.consumers if one.kind == "worker"])
            self._manned.set()
            await self._all([*producers, faults], [*consumers, watching])
            await self.world.heal()
            self.calm.set()
            workers.behave()
            calm = time.monotonic()
            await self._drain(workers)
            drained = time.monotonic() - calm
            self.over.set()
            async with asyncio.timeout(END_SECONDS):
                await asyncio.gather(*consumers)
                await workers.end()
        finally:
            workers.forget()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in self._clients:
                client.abandon()
        await self.world.read_notes()
        result = Result(self.plan.seed, time.monotonic() - begun, drained, stood=self._stood, still=self._still)
        result.events = in_order([*self.recorder.events, *workers.events, *self.world.events[before:]])
        result.violations = check(result.events)
        for client in self._clients:
            result.violations += [Violation("refused", text) for text in client.complaints]
        self._count(result)
        return result

    async def _make_queues(self) -> None:
        """Those that are not as all others are."""
        for queue in self.plan.queues:
            if queue.retry_delay:
                ((number,),) = await self.world.query(_MAKE, (self.world.namespace, self.prefix + queue.name))
                await self.world.query(_SET, (queue.retry_delay, number))

    async def _all(self, awaited: list[asyncio.Task[None]], watched: list[asyncio.Task[None]]) -> None:
        """Wait for some tasks, and fail when any of the others does."""
        pending, others = set(awaited), set(watched)
        while pending:
            done, _ = await asyncio.wait(pending | others, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            pending -= done
            others -= done

    async def _strike(self) -> None:
        chance = random.Random(f"{self.plan.seed}/faults")
        for fault in self.plan.faults:
            while self._progress() < fault.at and not self._idle():
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), IDLE_SECONDS)
            if fault.slot not in self.world.slots:
                await self._manned.wait()
            await self.world.strike(fault.kind, self.world.slots[fault.slot], chance)

    def _progress(self) -> float:
        return (self._sent + len(self._seen)) / (2 * self._planned)

    def _idle(self) -> bool:
        return time.monotonic() - self._last_move > IDLE_SECONDS

    async def _drain(self, workers: Workers) -> None:
        """Wait until the queues are empty; what is left after long is put on record.

        A transaction of a consumer may be all that there is of a message: what it acks was lost in a crash, what it
        sends is not written yet.
        """
        begun = time.monotonic()
        before: object = None
        while True:
            waiting = workers.waiting or any(client.waiting for client in self._clients if client.live)
            try:
                left = await self.world.query(_LEFT, {"prefix": self.prefix})
            except psycopg.OperationalError:
                left = [("?", "Postgres is away", None, 1)]
            if not left and not waiting:
                return
            where = [
                (queue, state if pid is None else f"{state} by {self.world.name_of(pid)}", count)
                for queue, state, pid, count in left
            ]
            standing = time.monotonic() - max(begun, self._last_move)
            self._stood = max(self._stood, standing)
            if standing > STILL_SECONDS and (where, waiting) != before:
                before = where, waiting
                what = [f"{queue}: {count} {state}" for queue, state, count in where]
                what += ["a client waits for an answer"] if waiting else []
                self._still.append(f"nothing was delivered for {standing:.1f} s; {'; '.join(what)}")
            if standing > DRAIN_SECONDS:
                for queue, state, count in where:
                    self.recorder.write(Remaining, queue=queue, messages=count, state=state)
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _count(self, result: Result) -> None:
        counts = result.counts
        counts["runs"] = 1
        done = {event.op for event in result.events if isinstance(event, Outcome) and event.result == "done"}
        for event in result.events:
            match event:
                case Sending():
                    counts["sends"] += 1
                case Settling():
                    counts["acks" if event.verb == "ack" else "nacks"] += len(event.tags)
                case Delivered():
                    counts["deliveries"] += 1
                    counts["marked repeats"] += event.redelivered
                case Ending():
                    counts["transactions"] += 1
                    counts["committed"] += event.commit and event.op in done
        counts["operations"] = counts["sends"] + counts["acks"] + counts["nacks"] + counts["transactions"]
        for violation in result.violations:
            counts[f"rule {violation.rule}"] += 1
