"""The way of each message that a worker holds, from the queue to the job's end.

`begin` is recorded (then, and only then, the attempt exists), the slot does the job, what it says is recorded as it
comes, the outcome is recorded together with the reply, the message is acked. A crash between any two of these is
harmless: the message comes again, and the job's row says what is left to do.

Each of these steps is a callback of the one before, and what happens in one turn of the event loop is written, sent and
acked together, so that a short job costs a few dozen microseconds here.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg

from apps.broker.engine import Address, Delivery, Engine, Message, MessageId, Refusal, Subscription, Unit
from apps.broker.headers import decode_headers, encode_headers
from apps.jobs import registry
from apps.jobs.context import LINE_LIMIT, clean
from apps.jobs.errors import UnknownTask
from apps.jobs.records import Finish, Json, LogLine, Mark, NotStarted, Start, Started, Stopping
from workers import wire
from workers.admissions import Admissions
from workers.claims import Claim
from workers.durations import QUICK, Durations
from workers.intake import PATIENCE, Intake
from workers.ledger import Ended, Ledger
from workers.options import Options
from workers.process import Forks, SlotDied, SlotProcess
from workers.roster import Roster, Slot

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0  # before a message comes again whose job's start or end could not be recorded
RECORD_SECONDS = 0.1  # after which the start of a job is recorded that was deferred, since it seemed to be a quick one
TICK_SECONDS = 0.05  # between two looks for what is held up
FEW = 20  # jobs at work, up to which more are admitted with their claim
SHORT_TASKS = 200  # that are named with each claim, the latest to become so
#: The headers of a job's first message (`apps.jobs.asking.message_headers`), of a task whose name needs no escapes.
_PLAIN = re.compile(
    rb"task:([\w.-]+)\njob-id:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\n"
    rb"reply-to:/job/\2\ncontent-type:application/json\n"
).fullmatch
DEAD_LETTERS = "DLQ."  # + queue: where messages go that no worker can make sense of


class Dispatch:
    """Takes messages as slots are free, and drives each job to its end.

    Attributes:
        intake: the queues.
        roster: the slots.
        quiet: set while nothing is held.
        ready: set when the first slot is up and the queues are subscribed to.
        stopping: it takes no more.
        paused: for now.
        handing_back: what is begun from now on is handed back at once.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        admissions: Admissions,
        options: Options,
        forks: Forks,
        spawned: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._admissions = admissions
        self._options = options
        self._durations = Durations()
        self.intake = Intake(engine, self, options.queues, strict=options.strict, known=registry.queues)
        self.roster = Roster(
            self,
            forks,
            self._durations,
            spawned,
            size=options.slots,
            threads=options.threads,
            jobs=options.slot_jobs,
            rss=options.slot_rss,
        )
        self._at_work: dict[UUID, Claim] = {}  # those whose attempt has begun
        self._homeless: dict[Claim, tuple[float, str]] = {}  # begun on paper, without a slot: since when, and why
        self._posted: set[SlotProcess] = set()  # who is told something at the end of this turn of the loop
        self._acks: dict[Subscription, list[MessageId]] = {}
        self._releases: dict[Subscription, list[MessageId]] = {}
        self._flushing = False
        self._ticker: asyncio.TimerHandle | None = None
        self._listed = False  # whether the namespaces are known
        self.stopping = False
        self.paused = False
        self.handing_back = False
        self.quiet = asyncio.Event()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Take no more. What is at work goes on; if this worker is killed meanwhile, that was not for its jobs."""
        self.stopping = True
        for claim in self._at_work.values():
            self._note_stopping(claim)
        self.flush()

    def _note_stopping(self, claim: Claim) -> None:
        if claim.run is not None and not (claim.lost or claim.deferred):
            self._ledger.note(Stopping(claim.run, datetime.now(UTC)))

    def hand_back(self) -> int:
        """End what runs, at no cost to the jobs; how many there are."""
        self.handing_back = True
        running = list(self._at_work.values())
        for claim in running:
            self._end(claim, "interrupted")
        self.flush_soon()
        return len(running)

    def close(self) -> None:
        """Nothing is held any more."""
        if self._ticker is not None:
            self._ticker.cancel()

    # -- messages

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """`Consumer.deliver`."""
        session, now, loop_now = self._engine.session, time.monotonic(), asyncio.get_running_loop().time()
        self.quiet.clear()
        known: dict[str, tuple[float, bool]] = {}
        job: UUID | None
        for delivery in deliveries:
            if (plain := _PLAIN(delivery.headers)) is not None:
                name, job, ticket = plain[1].decode(), UUID(plain[2].decode()), 0
            else:
                headers = decode_headers(delivery.headers)
                name = headers.get("task", "")
                job, ticket = _named(headers)
            if (habits := known.get(name)) is None:
                habits = known[name] = self._durations.expect(name), _is_alone(name)
            claim = Claim(subscription, delivery, session, now, *habits, job, ticket)
            self.intake.arrive(claim, loop_now)
            if job is None:
                self._bury(claim, "no job-id" if "job-id" not in headers else "the job-id is no UUID")
        self.flush_soon()

    def lost(self, subscription: Subscription) -> None:
        """`Consumer.lost`: whoever holds the messages now does the jobs; what runs here is ended."""
        for claim in self.intake.held(subscription):
            self._note_loss(claim, "this one was taken for dead")
            claim.lost = True
            if claim.slot is not None and claim.frame is not None:
                self._end(claim, "lost")
            else:
                self._forget(claim)
        self.flush_soon()

    def _note_loss(self, claim: Claim, how: str) -> None:
        """Say once that its job is somebody else's: the engine tells it, or what was to be recorded is refused."""
        if not claim.lost:
            log.warning("job %s is lost to another worker: %s", claim.job, how)

    def short_tasks(self) -> list[str]:
        """Those whose jobs are admitted with the claims: they begin without a start on record, for it would decide
        nothing. None while there is much at hand: then nobody waits for the admission, and it costs less by itself."""
        if len(self._at_work) > FEW:
            return []
        return [task for task in self._durations.quick()[-SHORT_TASKS:] if not _is_alone(task)]

    def serve(self, names: list[str]) -> None:
        """These namespaces there are."""
        if self.stopping:
            return
        if self._options.namespaces is not None:
            missing = set(self._options.namespaces).difference(names)
            if missing and not self._listed:
                log.warning("no namespace %s yet: it is served once it is there", ", ".join(sorted(missing)))
            names = [name for name in names if name in self._options.namespaces]
        self._listed = True
        self.intake.serve(names)
        self.flush_soon()

    def flush_soon(self) -> None:
        """At the end of this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """The end of a turn: place what waits, send, ack, and ask for more."""
        self._flushing = False
        halted = self.stopping or self.paused
        busy = not halted and self.roster.busy()
        if not busy:
            for subscription, ids in self._acks.items():
                # Nobody waits for it, so it need not be on disk: a message that comes again finds its job ended.
                self._engine.ack(subscription, ids)
            self._acks.clear()
        self._house()
        if not halted:
            while (claim := self.intake.next(self._place)) is not None:
                assert claim.job is not None
                # What was delivered before, and may have killed its worker, is on record first: deaths are counted.
                short = claim.expected <= QUICK and not claim.alone and claim.delivery.deliveries <= 1
                self._admissions.begin(_start(claim, claim.job), partial(self._begun, claim), short=short)
        for slot in self._posted:
            slot.send()
        self._posted.clear()
        self._give_back(halted)
        # Many messages at a time: while the slots have enough to do, none is asked for, and none is acked.
        free, room = (0, 0) if halted or busy else (self.roster.free(), self.roster.room())
        self.intake.grant(free, room)
        # What goes back does so once the credit for it is gone, or it would come again.
        for subscription, ids in self._releases.items():
            self._engine.release(subscription, ids)
        self._releases.clear()
        if self.intake.empty:
            self.quiet.set()
        elif self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        if self._listed and self.roster.free() > 0:
            self.ready.set()

    def _place(self, claim: Claim) -> bool:
        slot = self.roster.place(claim)
        if slot is not None:
            self.roster.reserve(slot, claim)
        return slot is not None

    def _tick(self) -> None:
        """While anything is held: see to what is held up."""
        self._ticker = None
        self.roster.recall_held_up()
        long_ago = time.monotonic() - RECORD_SECONDS
        for slot in self.roster.slots():
            for claim in self.roster.beginning(slot):
                if claim.deferred and claim.sent < long_ago:
                    self._record(claim)
        self.flush()

    def _give_back(self, halted: bool) -> None:
        """What has waited for too long goes to whoever has room."""
        for claim in self.intake.waiting() if halted else self.intake.impatient(time.monotonic()):
            if claim.expected > QUICK:  # others are soon done
                self.intake.disappointed(claim)
            self._refuse(claim)

    def _forget(self, claim: Claim) -> None:
        """It is held no longer."""
        claim.settle()
        if claim.run is not None:
            self._ledger.forget(claim.run)
        self.roster.leave(claim)
        self._homeless.pop(claim, None)
        if claim.job is not None and self._at_work.get(claim.job) is claim:
            del self._at_work[claim.job]
        self.intake.forget(claim)
        self.flush_soon()

    def _accept(self, claim: Claim) -> None:
        """Its message is dealt with."""
        self._forget(claim)
        if not claim.lost:
            self._acks.setdefault(claim.subscription, []).append(claim.delivery.id)

    def _refuse(self, claim: Claim) -> None:
        """Its message goes back."""
        if claim.run is None and claim.job is not None:
            self._admissions.give_back(_start(claim, claim.job))
        self._forget(claim)
        if not claim.lost:
            self._releases.setdefault(claim.subscription, []).append(claim.delivery.id)

    def _refuse_later(self, claim: Claim) -> None:
        """Its message goes back, and comes again after a pause, which the database keeps."""
        self._forget(claim)
        if not claim.lost:
            self._engine.nack(claim.subscription, [claim.delivery.id], refusal=Refusal(delay=AGAIN_SECONDS))

    def _bury(self, claim: Claim, reason: str) -> None:
        """Move a message that is no job to the queue's dead letters."""
        self._forget(claim)
        address = claim.delivery.address
        log.warning("a message in %s is no job (%s): it goes to %s%s", address, reason, DEAD_LETTERS, address.name)
        headers = claim.delivery.headers + encode_headers({"dead-letter-reason": reason})
        target = Address(address.namespace, "queue", DEAD_LETTERS + address.name)
        message = Message(target, claim.delivery.body, headers, claim.delivery.persistent)
        self._engine.transact(Unit(sends=[message], acks=[(claim.subscription, [claim.delivery.id])]))

    # -- a job's way

    def _begun(self, claim: Claim, answer: Started | NotStarted | psycopg.Error) -> None:
        """Its start was recorded, or not."""
        if isinstance(answer, psycopg.Error):
            log.error("job %s cannot be begun: %s", claim.job, answer)
            self._refuse_later(claim)
        elif isinstance(answer, NotStarted):
            if answer.reason == "missing":
                self._bury(claim, "there is no such job")
            elif answer.reason == "final":
                self._accept(claim)
            else:  # a later delivery of this message is at work: this one is not held any more
                self._note_loss(claim, "its beginning is refused")
                self._refuse(claim)
        elif not claim.lost:
            run = claim.run = answer.run
            claim.timeout = answer.timeout
            claim.deferred = answer.deferred
            claim.frame = wire.RunJob(
                str(run.job),
                run.attempt,
                answer.namespace,
                answer.task,
                answer.arguments,
                answer.failures,
                run.worker,
                answer.deferred,
            )
            self._at_work[run.job] = claim
            if self.handing_back:
                self._interrupt(claim, "handed back: the worker was stopped")
            else:
                if self.stopping:
                    self._note_stopping(claim)
                self._send(claim)
        self.flush_soon()

    def _send(self, claim: Claim) -> None:
        """Its attempt has begun: to its slot."""
        assert claim.frame is not None
        if not self.roster.enter(claim):
            self._send_elsewhere(claim, "its process was stopped before it began")
            return
        process = claim.slot.process
        claim.sent = time.monotonic()
        self._posted.add(process)
        process.post(claim.frame)
        log.debug("job %s: %s, attempt %d, slot %d", claim.job, claim.frame.task, claim.frame.attempt, process.pid)
        if claim.ending is not None:
            process.post(wire.CancelJob(claim.frame.job, claim.frame.attempt, claim.ending))
        if claim.timeout is not None and claim.deadline is None:
            claim.deadline = asyncio.get_running_loop().call_later(claim.timeout, self._ask_to_stop, claim, "timeout")
        self.flush_soon()

    def _send_elsewhere(self, claim: Claim, note: str) -> None:
        """Its attempt has begun, but only on paper: to another slot, or soon back to the queue."""
        self._homeless[claim] = time.monotonic(), note
        self.flush_soon()

    def _house(self) -> None:
        """Find slots for those without one. One that must not be begun twice waits for it, the others not for long."""
        for claim, (since, note) in list(self._homeless.items()):
            assert claim.run is not None
            slot = None if claim.ending else self.roster.place(claim, pressed=True)
            if slot is not None:
                del self._homeless[claim]
                self.roster.reserve(slot, claim)
                self._send(claim)
            elif claim.ending or not (claim.alone or time.monotonic() - since < PATIENCE):
                del self._homeless[claim]
                self._interrupt(claim, note)

    def _interrupt(self, claim: Claim, note: str) -> None:
        """An attempt that exists on paper, or not even there, does not take place."""
        assert claim.run is not None
        if self._ledger.abandon(claim.run):
            self._refuse(claim)
        else:
            self._finish(claim, Finish(claim.run, "unbegun", note=note))

    def _record(self, claim: Claim, asked: bool = False) -> None:
        """Have the start of a job recorded that was deferred; tell its slot, if that asked."""
        assert claim.run is not None
        self._ledger.record(claim.run, (lambda: self._recorded(claim)) if asked else None)
        if claim.deferred and self.stopping:
            self._ledger.note(Stopping(claim.run, datetime.now(UTC)))
        claim.deferred = False

    def _recorded(self, claim: Claim) -> None:
        if claim.slot is not None and claim.job is not None:
            claim.slot.process.send(wire.Recorded(str(claim.job)))

    def _ended(self, claim: Claim, message: wire.Ended) -> None:
        """Its slot says that it has ended."""
        assert claim.run is not None
        assert claim.frame is not None
        self._durations.learn(claim.frame.task, message.seconds)
        finish = Finish(
            claim.run,
            message.outcome,
            result=None if message.result is None else Json(message.result),
            error=message.error,
            again=message.again,
            pause=message.pause,
            seconds=message.seconds,
        )
        self._finish(claim, finish)

    def _finish(self, claim: Claim, finish: Finish) -> None:
        claim.settle()
        self.roster.leave(claim)
        if claim.lost:
            self._forget(claim)
            return
        self._ledger.finish(finish, partial(self._concluded, claim))

    def _concluded(self, claim: Claim, ended: Ended | psycopg.Error) -> None:
        """Its end was recorded, or not."""
        if isinstance(ended, psycopg.Error):
            log.error("job %s: its end cannot be recorded: %s", claim.job, ended)
            self._refuse_later(claim)
            return
        if ended.state is None:
            self._note_loss(claim, "its end is refused")
        else:
            log.debug("job %s: %s", claim.job, ended.state)
        if ended.state in (None, "ready"):
            self._refuse(claim)
        else:
            self._accept(claim)

    def running(self) -> list[UUID]:
        """The jobs that slots have."""
        return [job for job, claim in self._at_work.items() if claim.slot is not None]

    def cancel(self, jobs: set[UUID]) -> None:
        """Somebody wants these jobs cancelled."""
        for job in jobs:
            claim = self._at_work.get(job)
            if claim is not None:
                self._ask_to_stop(claim, "cancelled")

    def _ask_to_stop(self, claim: Claim, why: str) -> None:
        """Politely first; after a grace its process is ended."""
        if claim.slot is None or claim.ending is not None or claim.frame is None:
            return
        log.info("job %s: asked to stop (%s)", claim.job, why)
        claim.ending = why
        claim.slot.process.send(wire.CancelJob(claim.frame.job, claim.frame.attempt, why))
        claim.grace = asyncio.get_running_loop().call_later(self._options.cancel_grace, self._end, claim, why)

    def _end(self, claim: Claim, why: str) -> None:
        """End its process. What waits in there behind it goes elsewhere, what runs beside it comes again."""
        claim.ending = claim.ending or why
        if claim.slot is None:
            return
        if self.roster.at_work(claim):
            self.roster.kill(claim.slot)
        else:
            self.roster.recall(claim.slot)

    # -- what slots say

    def slot_up(self, slot: SlotProcess) -> None:
        """`process.Owner`: it is there."""
        self.roster.up(slot)
        self.flush_soon()

    def slot_said(self, slot: SlotProcess, message: wire.Message) -> None:
        """`process.Owner`: of one of its jobs, or of itself."""
        mine = self.roster.of(slot)
        if type(message) is wire.Ended:  # mostly
            claim = mine.claims.get(message.job)
            if claim is not None and claim.run is not None:
                self._ended(claim, message)
                self.roster.look_at(slot)
        elif isinstance(message, wire.Health):
            self.roster.look_at(slot)
        elif isinstance(message, wire.Returned):
            self._returned(mine, message.jobs)
        elif isinstance(message, wire.Log | wire.Progress | wire.Record):
            claim = mine.claims.get(message.job)
            if claim is None or claim.run is None:
                if isinstance(message, wire.Log):
                    log.warning("slot %d: %s", slot.pid, message.text)
            elif isinstance(message, wire.Record):
                self._record(claim, asked=True)
            elif claim.lost:
                pass
            elif isinstance(message, wire.Log):
                at = datetime.fromtimestamp(message.at, UTC)
                self._ledger.note(LogLine(claim.run, at, message.level, message.text))
            else:
                at = datetime.fromtimestamp(message.at, UTC)
                self._ledger.note(Mark(claim.run, at, message.done, message.total, message.text))

    def slot_settled(self, slot: SlotProcess) -> None:
        """`process.Owner`: all that came at once has been said."""
        self.flush_soon()

    def _returned(self, slot: Slot, jobs: list[str]) -> None:
        slot.recalled = False
        for job in jobs:
            claim = slot.claims.get(job)
            if claim is not None:
                self.roster.leave(claim)
                if claim.lost:
                    self._forget(claim)
                else:
                    self._send_elsewhere(claim, "the job before it took long")

    def slot_ended(self, process: SlotProcess, death: SlotDied, last_words: list[str]) -> None:
        """`process.Owner`: what it was at has failed with it; what it had not begun goes elsewhere."""
        slot = self.roster.of(process)
        at_work = self.roster.beginning(slot)
        for line in last_words:
            if len(at_work) == 1 and at_work[0].run is not None and not at_work[0].lost:
                self._ledger.note(LogLine(at_work[0].run, datetime.now(UTC), "info", clean(line, LINE_LIMIT)))
            else:
                log.warning("slot %d: %s", process.pid, line)
        meant = any(claim.ending for claim in at_work)
        for claim in self.roster.gone(process):
            if claim in at_work:
                self._died(claim, death, meant=meant)
            elif claim.lost:
                self._forget(claim)
            else:
                claim.slot = None
                self._send_elsewhere(claim, "its process ended before it began")
        self.flush_soon()

    def _died(self, claim: Claim, death: SlotDied, *, meant: bool) -> None:
        run = claim.run
        assert run is not None
        if claim.ending == "cancelled":
            finish = Finish(run, "cancelled", note="it did not stop by itself: its process was ended")
        elif claim.ending == "interrupted":
            finish = Finish(run, "interrupted", note="handed back: the worker was stopped")
        elif meant and claim.ending != "timeout":
            finish = Finish(run, "interrupted", note="its process was ended because of another job")
        else:
            code, message = "slot_died", str(death)
            if claim.ending == "timeout":
                code, message = "timeout", "it took too long and did not stop by itself: its process was ended"
            error = {"code": code, "message": message, "traceback": ""}
            assert claim.frame is not None
            pause = registry.pause_after(claim.frame.task, claim.frame.failures + 1)
            finish = Finish(run, "failed", error=error, pause=pause)  # its first death is followed at once
        self._finish(claim, finish)


def _start(claim: Claim, job: UUID) -> Start:
    return Start(job, claim.delivery.deliveries, int(claim.session), claim.ticket)


def _named(headers: dict[str, str]) -> tuple[UUID | None, int]:
    """The job that a message names, if it names one, and its ticket."""
    try:
        return UUID(headers.get("job-id", "")), int(headers.get("job-ticket", "0"))
    except ValueError:
        return None, 0


def _is_alone(task: str) -> bool:
    """Whether a job of that task must not wait in a slot behind another, nor begin on paper before it does: one death,
    even of a worker that was not at it yet, would end it."""
    try:
        options = registry.load(task).options
    except UnknownTask:
        return False
    return options.timeout is not None or options.on_worker_death == "fail" or options.max_deaths == 1
