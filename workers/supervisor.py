"""The supervisor of a worker: takes messages as slots are free, drives each job to its end, drains.

A job, from its message to its end: `begin` is recorded (then, and only then, the attempt exists), the slot does it,
what it says is recorded as it comes, the outcome is recorded together with the reply, the message is acked. A crash
between any two of these is harmless: the message comes again, and the job's row says what is left to do.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from apps.broker.engine import Address, Delivery, Engine, Message, Refusal, SessionId, Subscription, Unit
from apps.broker.headers import decode_headers, encode_headers
from apps.jobs import registry
from apps.jobs.context import LINE_LIMIT, clean
from apps.jobs.recorder import Finish, Json, LogLine, Mark, Run, Start, Started
from apps.jobs.upkeep import Upkeep
from msgweb.errors import MsgwebError, Unavailable
from workers import wire
from workers.control import Control
from workers.ledger import Ended, Ledger
from workers.limits import LogLimiter
from workers.process import SlotDied, SlotProcess

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0  # before a message comes again whose job's start or end could not be recorded
RESPAWN_SECONDS = 0.5, 15.0  # the pause before a slot that did not come up is started again, doubling
ENGINE_RETRY_SECONDS = 2.0
HAND_BACK_SECONDS = 10.0  # how long a worker that was told twice to stop tries to record what it hands back
DEAD_LETTERS = "DLQ."  # + queue: where messages go that no worker can make sense of


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker serves, and how.

    Attributes:
        queues: names of queues.
        namespaces: None for all that there are, those to come too.
        slots: how many jobs at a time.
        cancel_grace: seconds between asking a job to stop and ending its process.
        slot_jobs: a slot's process is replaced after so many jobs.
        slot_rss: and when it holds so many bytes after a job.
        drain_limit: seconds after which a drain hands back what still runs; None: it waits.
    """

    queues: tuple[str, ...]
    namespaces: tuple[str, ...] | None = None
    slots: int = 2
    cancel_grace: float = 10.0
    slot_jobs: int = 1000
    slot_rss: int = 512 * 1024 * 1024
    drain_limit: float | None = None


@dataclass(slots=True, eq=False)
class Claim:
    """A message that this worker holds.

    Attributes:
        session: under which it is held.
        lost: the session was fenced off: the message is somebody else's.
        run: the attempt, once it has begun.
        ending: why its slot is being killed, if by us: `cancelled`, `timeout`, `interrupted` or `lost`.
    """

    subscription: Subscription
    delivery: Delivery
    session: SessionId
    job: UUID | None = None
    run: Run | None = None
    slot: SlotProcess | None = None
    lost: bool = False
    ending: str | None = None
    limiter: LogLimiter = field(default_factory=LogLimiter)
    grace: asyncio.TimerHandle | None = None
    timeout: asyncio.TimerHandle | None = None

    def held(self) -> bool:
        """Whether the message is still ours."""
        return not self.lost


class Supervisor:
    """One worker. `run` serves until `stop` was called and everything is at rest."""

    def __init__(self, engine: Engine, conninfo: str, options: Options, pid: int) -> None:
        self._engine = engine
        self._options = options
        self._ledger = Ledger(conninfo, socket.gethostname(), pid, self._cancel)
        self._control = Control(conninfo, self._running, self._cancel, self._namespaces)
        self._upkeep = Upkeep(conninfo)
        self._subscriptions: dict[Address, Subscription] = {}
        self._served: dict[Subscription, int] = {}  # when each was served last, for fairness
        self._turn = 0
        self._claims: dict[Subscription, set[Claim]] = {}
        self._arrived: list[Claim] = []
        self._dispatching = False
        self._slots: set[SlotProcess] = set()
        self._failed_starts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stop_asked = asyncio.Event()
        self._hand_back_asked = asyncio.Event()
        self._listed = False  # whether the namespaces are known
        self._ready = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def ready(self) -> asyncio.Event:
        """Set when the first slot is up and the queues are subscribed to."""
        return self._ready

    def stop(self) -> None:
        """The first time: take no more jobs, and end when those here are done. The second: hand them back."""
        if self._stop_asked.is_set():
            self._hand_back_asked.set()
        self._stop_asked.set()

    async def run(self) -> None:
        """Serve.

        Raises:
            Exception: what should not have happened in one of our own tasks; everything was ended as well as could be.
        """
        if not await self._start_engine():
            return
        for task in (self._ledger.start(), self._control.start(), self._upkeep.start()):
            task.add_done_callback(self._failed)
        for _ in range(self._options.slots):
            self._spawn()
        await self._stop_asked.wait()
        await self._drain()
        if self._error is not None:
            raise self._error

    def _failed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the worker ends: %s failed", task.get_name(), exc_info=error)
            self._error = error
            self.stop()
            self._hand_back_asked.set()

    async def _start_engine(self) -> bool:
        told = False
        while not self._stop_asked.is_set():
            try:
                await self._engine.start()
            except Unavailable as error:
                if not told:
                    log.warning("no database yet, trying every %g s: %s", ENGINE_RETRY_SECONDS, error)
                    told = True
                try:
                    async with asyncio.timeout(ENGINE_RETRY_SECONDS):
                        await self._stop_asked.wait()
                except TimeoutError:
                    continue
            else:
                return True
        return False

    async def _drain(self) -> None:
        self._stopping = True
        self._grant()
        running = len(self._running())
        log.info("draining: %d job%s still at work", running, "" if running == 1 else "s")
        handing_back = asyncio.get_running_loop().create_task(self._hand_back(), name="hand back")
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        handing_back.cancel()
        await asyncio.wait([handing_back])
        for slot in list(self._slots):
            slot.stop()
        await asyncio.gather(*(slot.wait() for slot in list(self._slots)))
        await self._control.close()
        await self._upkeep.close()
        written = await self._ledger.close(HAND_BACK_SECONDS if self._hand_back_asked.is_set() else None)
        if not written:
            log.error("the database did not answer: what was left to record is lost with this worker")
        await self._engine.close()
        log.info("stopped")

    async def _hand_back(self) -> None:
        try:
            async with asyncio.timeout(self._options.drain_limit):
                await self._hand_back_asked.wait()
        except TimeoutError:
            self._hand_back_asked.set()
        running = self._claims_running()
        log.warning("handing %d job%s back", len(running), "" if len(running) == 1 else "s")
        for claim in running:
            self._end(claim, "interrupted")
        await asyncio.sleep(HAND_BACK_SECONDS)  # a limit, not a wait: the drain cancels this task when all is done
        for task in list(self._tasks):
            task.cancel()

    # Messages and credit

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """`Consumer.deliver`: looked at together with what else arrives in this tick, so that no queue starves."""
        session = self._engine.session
        for delivery in deliveries:
            claim = Claim(subscription, delivery, session)
            self._claims[subscription].add(claim)
            self._arrived.append(claim)
        self._dispatch_soon()

    def lost(self, subscription: Subscription) -> None:
        """`Consumer.lost`: whoever holds the messages now does the jobs; what runs here is ended."""
        for claim in self._claims.get(subscription, set()).copy():
            log.warning("job %s is lost to another worker: this one was taken for dead", claim.job)
            claim.lost = True
            self._claims[subscription].discard(claim)
            self._end(claim, "lost")
        self._dispatch_soon()

    def _namespaces(self, names: list[str]) -> None:
        if self._stopping:
            return
        if self._options.namespaces is not None:
            missing = set(self._options.namespaces).difference(names)
            if missing and not self._listed:
                log.warning("no namespace %s yet: it is served once it is there", ", ".join(sorted(missing)))
            names = [name for name in names if name in self._options.namespaces]
        self._listed = True
        wanted = {Address(namespace, "queue", queue) for namespace in names for queue in self._options.queues}
        for address in wanted - self._subscriptions.keys():
            subscription = self._engine.subscribe(address, self, 0)
            self._subscriptions[address] = subscription
            self._served[subscription] = 0
            self._claims[subscription] = set()
        for address in self._subscriptions.keys() - wanted:
            if not self._claims[self._subscriptions[address]]:
                subscription = self._subscriptions.pop(address)
                self._engine.unsubscribe(subscription)
                del self._served[subscription], self._claims[subscription]
        self._grant()

    def _free(self) -> list[SlotProcess]:
        return [slot for slot in self._slots if slot.idle]

    def _grant(self) -> None:
        """Share the free slots out as credit.

        Together the subscriptions may get more than there are slots, since any of them may be the one with work; what
        arrives in excess goes back at once (`_dispatch`).
        """
        free = 0 if self._stopping else len(self._free()) - len(self._arrived)
        share = -(-free // len(self._subscriptions)) if free > 0 and self._subscriptions else 0
        for subscription in self._subscriptions.values():
            credit = len(self._claims[subscription]) + share
            if credit != subscription.credit:
                self._engine.set_credit(subscription, credit)
        if free > 0 and self._listed:
            self._ready.set()

    def _dispatch_soon(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        arrived, self._arrived = self._arrived, []
        arrived.sort(key=lambda claim: self._served[claim.subscription])  # stable: in order within a queue
        free = [] if self._stopping else self._free()
        for claim in arrived:
            if claim.lost:
                continue
            slot = free.pop() if free else None
            if slot is None:
                self._refuse(claim)
                continue
            self._turn += 1
            self._served[claim.subscription] = self._turn
            slot.idle = False
            task = asyncio.get_running_loop().create_task(self._work(claim, slot), name=f"message {claim.delivery.id}")
            self._tasks.add(task)
            task.add_done_callback(self._worked)
        self._grant()

    def _worked(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._failed(task)
        self._dispatch_soon()

    def _settle(self, claim: Claim, verb: str, *details: Refusal) -> None:
        """Ack or nack the message of a claim, and forget the claim."""
        self._claims.get(claim.subscription, set()).discard(claim)
        if claim.lost:
            return

        def done(error: MsgwebError | None) -> None:
            if error is not None:
                log.debug("message %d of job %s: %s", claim.delivery.id, claim.job, error)

        getattr(self._engine, verb)(claim.subscription, [claim.delivery.id], done, *details)

    def _accept(self, claim: Claim) -> None:
        self._settle(claim, "ack")
        self._dispatch_soon()

    def _refuse(self, claim: Claim, delay: float | None = None) -> None:
        self._settle(claim, "nack", Refusal(delay))
        self._dispatch_soon()

    def _bury(self, claim: Claim, reason: str) -> None:
        """Move a message that is no job to the queue's dead letters."""
        address = claim.delivery.address
        log.warning("a message in %s is no job (%s): it goes to %s%s", address, reason, DEAD_LETTERS, address.name)
        headers = claim.delivery.headers + encode_headers({"dead-letter-reason": reason})
        target = Address(address.namespace, "queue", DEAD_LETTERS + address.name)
        message = Message(target, claim.delivery.body, headers, claim.delivery.persistent)
        self._claims[claim.subscription].discard(claim)
        self._engine.transact(Unit(sends=[message], acks=[(claim.subscription, [claim.delivery.id])]))

    # Jobs

    async def _work(self, claim: Claim, slot: SlotProcess) -> None:
        """Drive one message to its end."""
        try:
            started = await self._begin(claim)
            if started is None or not claim.held():
                self._give_free(slot)
                return
            if not slot.alive:
                finish = Finish(started.run, "interrupted", note="its process ended before it began")
            elif self._hand_back_asked.is_set():
                finish = Finish(started.run, "interrupted", note="handed back: the worker was stopped")
            else:
                finish = await self._do(claim, slot, started)
            if claim.held():
                self._conclude(claim, await self._ledger.finish(finish))
        except psycopg.Error:
            log.exception("job %s: its end cannot be recorded", claim.job)
            self._refuse(claim, AGAIN_SECONDS)
        except asyncio.CancelledError:  # the second stop's limit is over: the lease will tell the others
            log.error("job %s: its interruption could not be recorded", claim.job)
        finally:
            for timer in (claim.grace, claim.timeout):
                if timer is not None:
                    timer.cancel()

    def _give_free(self, slot: SlotProcess) -> None:
        slot.idle = slot.alive and slot in self._slots

    async def _begin(self, claim: Claim) -> Started | None:
        """Record the start. None: there is nothing to do, and the message is seen to."""
        headers = decode_headers(claim.delivery.headers)
        try:
            claim.job = UUID(headers["job-id"])
        except KeyError:
            self._bury(claim, "no job-id")
            return None
        except ValueError:
            self._bury(claim, "the job-id is no UUID")
            return None
        try:
            ticket = int(headers.get("job-ticket", "0"))
            answer = await self._ledger.begin(Start(claim.job, claim.delivery.deliveries, int(claim.session), ticket))
        except psycopg.Error:
            log.exception("job %s cannot be begun", claim.job)
            self._refuse(claim, AGAIN_SECONDS)
            return None
        if isinstance(answer, Started):
            claim.run = answer.run
            return answer
        if answer.reason == "missing":
            self._bury(claim, "there is no such job")
        elif answer.reason == "final":
            self._accept(claim)
        else:  # a later delivery of this message is at work: this one is not held any more
            self._refuse(claim)
        return None

    async def _do(self, claim: Claim, slot: SlotProcess, started: Started) -> Finish:
        run = started.run
        claim.slot = slot
        log.info("job %s: %s, attempt %d", run.job, started.task, run.attempt)
        try:
            job = wire.RunJob(
                *(str(run.job), run.attempt, started.namespace, started.task, started.arguments),
                *(started.failures, run.worker),
            )
            if started.timeout is not None:
                claim.timeout = asyncio.get_running_loop().call_later(started.timeout, self._time_out, claim)
            ended = await slot.run(job)
        except SlotDied as death:
            finish = self._died(claim, started, death)
        else:
            finish = Finish(
                run,
                ended.outcome,
                result=None if ended.result is None else Json(ended.result),
                error=ended.error,
                again=ended.again,
                pause=ended.pause,
            )
        if notice := claim.limiter.notice():
            self._ledger.note(LogLine(run, datetime.now(UTC), "warning", notice))
        claim.slot = None
        return finish

    def _died(self, claim: Claim, started: Started, death: SlotDied) -> Finish:
        run = started.run
        if claim.ending == "cancelled":
            return Finish(run, "cancelled", note="it did not stop by itself: its process was ended")
        if claim.ending == "interrupted":
            return Finish(run, "interrupted", note="handed back: the worker was stopped")
        code, message = "slot_died", str(death)
        if claim.ending == "timeout":
            code, message = "timeout", "it took too long and did not stop by itself: its process was ended"
        error = {"code": code, "message": message, "traceback": ""}
        return Finish(run, "failed", error=error, pause=registry.pause_after(started.task, started.failures + 1))

    def _conclude(self, claim: Claim, ended: Ended) -> None:
        log.info("job %s: %s", claim.job, ended.state or "somebody else has it")
        if ended.state in (None, "ready"):
            self._refuse(claim)
        else:
            self._accept(claim)

    def _claims_running(self) -> list[Claim]:
        return [claim for claims in self._claims.values() for claim in claims if claim.slot is not None]

    def _running(self) -> list[UUID]:
        return [claim.run.job for claim in self._claims_running() if claim.run is not None]

    def _cancel(self, jobs: set[UUID]) -> None:
        for claim in self._claims_running():
            if claim.job in jobs:
                self._ask_to_stop(claim, "cancelled")

    def _time_out(self, claim: Claim) -> None:
        self._ask_to_stop(claim, "timeout")

    def _ask_to_stop(self, claim: Claim, why: str) -> None:
        if claim.slot is not None and claim.grace is None and claim.run is not None:
            log.info("job %s: asked to stop (%s)", claim.job, why)
            claim.slot.cancel(str(claim.job), claim.run.attempt, why)
            claim.grace = asyncio.get_running_loop().call_later(self._options.cancel_grace, self._end, claim, why)

    def _end(self, claim: Claim, why: str) -> None:
        if claim.slot is not None:
            claim.ending = claim.ending or why
            claim.slot.kill()

    # Slots

    def _spawn(self) -> None:
        if self._stopping or self._stop_asked.is_set():
            return
        slot = SlotProcess(self)
        self._slots.add(slot)
        task = asyncio.get_running_loop().create_task(self._start_slot(slot), name="start of a slot")
        self._tasks.add(task)
        task.add_done_callback(self._worked)

    async def _start_slot(self, slot: SlotProcess) -> None:
        try:
            await slot.start()
        except OSError as error:
            log.error("no process for a slot: %s", error)
            self.slot_ended(slot)

    def slot_idle(self, slot: SlotProcess) -> None:
        """`process.Owner`: it is free; or has done enough, and gives way to a fresh one."""
        self._failed_starts = 0
        if slot.jobs and (slot.jobs >= self._options.slot_jobs or slot.rss >= self._options.slot_rss):
            log.info("slot %d is replaced after %d jobs, with %d MiB", slot.pid, slot.jobs, slot.rss >> 20)
            slot.stop()
            return
        self._dispatch_soon()

    def slot_said(self, slot: SlotProcess, message: wire.Progress | wire.Log) -> None:
        """`process.Owner`: progress or a line of the log."""
        claim = self._claim_of(slot)
        if claim is None or claim.run is None or claim.lost:
            return
        at = datetime.fromtimestamp(message.at, UTC)
        if isinstance(message, wire.Log):
            self._ledger.note(LogLine(claim.run, at, message.level, message.text))
        else:
            self._ledger.note(Mark(claim.run, at, message.done, message.total, message.text))

    def slot_printed(self, slot: SlotProcess, line: str) -> None:
        """`process.Owner`: raw output is the job's log too."""
        claim = self._claim_of(slot)
        if claim is None or claim.run is None:
            log.warning("slot %d: %s", slot.pid, line)
        elif claim.limiter.admit():
            now = datetime.now(UTC)
            if notice := claim.limiter.notice():
                self._ledger.note(LogLine(claim.run, now, "warning", notice))
            self._ledger.note(LogLine(claim.run, now, "info", clean(line, LINE_LIMIT)))

    def slot_ended(self, slot: SlotProcess) -> None:
        """`process.Owner`: another takes its place."""
        self._slots.discard(slot)
        if self._stopping or self._stop_asked.is_set():
            return
        if slot.ever_idle:
            self._spawn()
        else:
            first, longest = RESPAWN_SECONDS
            pause = min(longest, first * 2.0**self._failed_starts)
            self._failed_starts += 1
            log.error("slot %d did not come up; another is started in %g s", slot.pid, pause)
            asyncio.get_running_loop().call_later(pause, self._spawn)
        self._dispatch_soon()

    def _claim_of(self, slot: SlotProcess) -> Claim | None:
        for claim in self._claims_running():
            if claim.slot is slot:
                return claim
        return None
