"""Jobs that clients work on: any consumer of a task's queue.

A job's message is handed out once its attempt is recorded, so what limits a job limits consumers too; and it is held
until the job has ended, whatever the client acknowledges meanwhile: when the client goes, the job goes to another. A
client that subscribes to `/job/control` is told there when a job of its is to stop (`job-event:cancel`) or is its no
more (`job-event:over`).
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from apps.broker.engine import Delivery, Done, MessageId, Refusal, Subscription, Unit
from apps.broker.headers import decode_headers, encode_headers
from apps.stomp.gateway.ports import Attempt, End, Heard, Hearing, NotBegun, Offer, WorkPort
from apps.stomp.protocol.encoder import MessageEncoder
from msgweb.errors import MsgwebError

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection
    from apps.stomp.gateway.subscriptions import ClientSubscription

logger = logging.getLogger(__name__)

MARK = b"reply-to:/job/"  # among the headers of every job's message, and of few others
AGAIN_SECONDS = 5.0  # before a message comes again whose job could not be begun
PAST_LIMIT = 100  # jobs that a connection had, and has no more, that are remembered

Why = Literal["cancelled", "timeout", "lost", "ended"]

NACKED = {"code": "nacked", "message": "its worker refused it (NACK)"}
UNANSWERED = {"code": "unanswered", "message": "its worker acknowledged it and left without a result"}
TIMEOUT = {"code": "timeout", "message": "it took too long and did not stop: it was taken from its worker"}


@dataclass(slots=True, eq=False)
class Assignment:
    """A job's message that this gateway holds for a client.

    Attributes:
        attempt: None until it has begun.
        acked: the client has acknowledged the message.
        ending: why the client was asked to stop, or should be once it has the job.
        concluding: its end is being recorded.
        over: why the job is not the client's any more; its message waits for the client's ACK, if that is to come.
        hearing: what it has said of it; None: nothing yet.
        grace, deadline: timers.
    """

    work: "OutsideWork"
    subscription: "ClientSubscription"
    handle: Subscription
    delivery: Delivery
    job: str
    attempt: Attempt | None = None
    acked: bool = False
    ending: Why | None = None
    concluding: bool = False
    over: Why | None = None
    hearing: Hearing | None = None
    grace: asyncio.TimerHandle | None = None
    deadline: asyncio.TimerHandle | None = None

    def stop_timers(self) -> None:
        """Neither grace nor timeout."""
        for timer in (self.grace, self.deadline):
            if timer is not None:
                timer.cancel()
        self.grace = self.deadline = None


class OutsideJobs:
    """Those of all connections: `ports.AtWork`."""

    def __init__(self, port: WorkPort) -> None:
        self.port = port
        self.offered: dict[str, Assignment] = {}
        self.begun: dict[str, Assignment] = {}
        port.attach(self)

    def attempts(self) -> list[Attempt]:
        """All that have begun."""
        return [one.attempt for one in self.begun.values() if one.attempt is not None]

    def cancel(self, job: str) -> None:
        """Somebody wants it cancelled."""
        assignment = self.begun.get(job) or self.offered.get(job)
        if assignment is not None:
            assignment.work.ask_to_stop(assignment, "cancelled")

    def over(self, attempt: Attempt, state: str) -> None:
        """It was ended elsewhere."""
        assignment = self.begun.get(attempt.job)
        if assignment is not None and assignment.attempt == attempt and not assignment.concluding:
            assignment.work.end(assignment, _why(state), tell=True)


class OutsideWork:
    """Those of one connection."""

    __slots__ = ("_closing", "_connection", "_control_count", "_current", "_held", "_jobs", "_past", "controls")

    def __init__(self, connection: "ClientConnection", jobs: OutsideJobs) -> None:
        self._connection = connection
        self._jobs = jobs
        self._held: dict[MessageId, Assignment] = {}  # in the order of their arrival
        self._current: dict[str, Assignment] = {}  # at work, by job
        self._past: dict[str, tuple[str, Why]] = {}  # jobs that were, with the attempt
        self._closing: dict[ClientSubscription, bool] = {}  # those that end when nothing is held; True: with all it has
        self._control_count = 0
        self.controls: dict[str, MessageEncoder] = {}  # subscriptions to `/job/control`

    @property
    def busy(self) -> bool:
        """Whether the client is at work."""
        return bool(self._current)

    # -- messages

    def take(
        self, subscription: "ClientSubscription", handle: Subscription, deliveries: Sequence[Delivery]
    ) -> list[Delivery]:
        """Begin those that are jobs; the others are returned."""
        connection = self._connection
        others = []
        mine = []
        for delivery in deliveries:
            headers = decode_headers(delivery.headers) if MARK in delivery.headers else {}
            job, ticket = headers.get("job-id", ""), headers.get("job-ticket", "0")
            if _is_id(job) and headers.get("reply-to") == f"/job/{job}" and ticket.isdecimal():
                mine.append((Assignment(self, subscription, handle, delivery, job), int(ticket)))
            else:
                others.append(delivery)
        for assignment, number in mine[: len(mine) - self._trim(subscription, handle, mine)]:
            delivery = assignment.delivery
            self._held[delivery.id] = self._jobs.offered[assignment.job] = assignment
            worker = f"{connection.entered.login} at {connection.peer_name}"
            session = int(connection.engine.session)
            offer = Offer(assignment.job, delivery.address.namespace, delivery.deliveries, number, session, worker)
            self._jobs.port.begin(offer, partial(self._answered, assignment))
        return others

    def _trim(
        self, subscription: "ClientSubscription", handle: Subscription, mine: Sequence[tuple[Assignment, int]]
    ) -> int:
        """A subscription that does not acknowledge has much credit, which is not meant for jobs: how many of these go
        back."""
        most = subscription.prefetch
        if not mine or not subscription.auto or subscription.credit <= most:
            return 0
        engine = self._connection.engine
        subscription.credit = most
        engine.set_credit(handle, min(handle.credit, most))
        surplus = min(max(0, len(handle.held) - most), len(mine) - 1)
        if surplus:
            ids = [assignment.delivery.id for assignment, _ in mine[-surplus:]]
            asyncio.get_running_loop().call_soon(engine.release, handle, ids)
        return surplus

    def _answered(self, assignment: Assignment, answer: Attempt | NotBegun) -> None:
        """The attempt has begun, or may not."""
        if self._jobs.offered.get(assignment.job) is assignment:
            del self._jobs.offered[assignment.job]
        if isinstance(answer, Attempt):
            assignment.attempt = answer
            if self._held.get(assignment.delivery.id) is not assignment:  # the session was lost meanwhile
                self._jobs.port.end(
                    answer, End("interrupted", "its message was lost before it was handed out"), _ignore
                )
            elif assignment.subscription in self._closing:
                self._let_go(assignment)
            else:
                self._hand_out(assignment)
        elif self._held.get(assignment.delivery.id) is not assignment:
            pass
        elif answer == "unknown" and assignment.subscription not in self._closing:
            del self._held[assignment.delivery.id]
            assignment.subscription.hand_out([assignment.delivery])
        elif answer == "later":
            self._settle(assignment, partial(self._connection.engine.nack, refusal=Refusal(delay=AGAIN_SECONDS)))
        else:
            engine = self._connection.engine
            self._settle(assignment, engine.ack if answer == "void" else engine.release)

    def _hand_out(self, assignment: Assignment) -> None:
        attempt = assignment.attempt
        assert attempt is not None
        self._past.pop(assignment.job, None)
        self._current[assignment.job] = self._jobs.begun[assignment.job] = assignment
        assignment.subscription.hand_out_job(assignment.delivery, attempt.number)
        self._mind_deadlines(assignment.subscription)
        if assignment.ending is not None:
            why, assignment.ending = assignment.ending, None
            self.ask_to_stop(assignment, why)

    def _settle(self, assignment: Assignment, verb: Callable[[Subscription, Sequence[MessageId]], None]) -> None:
        """Its message is held no longer."""
        del self._held[assignment.delivery.id]
        verb(assignment.handle, [assignment.delivery.id])
        subscription = assignment.subscription
        if subscription in self._closing and not any(one.subscription is subscription for one in self._held.values()):
            del self._closing[subscription]
            self._connection.engine.unsubscribe(assignment.handle)

    # -- what the client does

    def acked(self, ids: Sequence[MessageId]) -> list[MessageId]:
        """The client acknowledges these. Returns those for the engine: a job that has not ended stays with it."""
        left = []
        for message_id in ids:
            assignment = self._held.get(message_id)
            if assignment is None or assignment.over:
                self._held.pop(message_id, None)
                left.append(message_id)
            else:
                assignment.acked = True
        return left

    def nacked(self, ids: Sequence[MessageId], refusal: Refusal, done: Done | None) -> list[MessageId]:
        """The client refuses these: an attempt that failed. Returns those for the engine.

        Args:
            done: called where none is left.
        """
        jobs = [self._held[one] for one in ids if one in self._held]
        for assignment in jobs:
            assignment.acked = True
        left = [one for one in ids if one not in self._held]
        if jobs:
            told = _ignore if left or not done else done
            self._connection.sending.errands.ask(partial(self._fail, jobs, refusal), told)
        return left

    async def _fail(self, assignments: list[Assignment], refusal: Refusal) -> None:
        for assignment in assignments:
            if assignment.over:
                if assignment.delivery.id in self._held:
                    self._settle(assignment, self._connection.engine.ack)
            else:
                end = End("failed", error=NACKED, again=not refusal.dead_letter, pause=refusal.delay)
                await self._conclude(assignment, end, "ended", tell=False)

    def within(self, unit: Unit) -> None:
        """Take out of a transaction that is committed now what jobs are."""
        unit.acks = [(handle, left) for handle, ids in unit.acks if (left := self.acked(ids))]
        unit.nacks = [
            (handle, left, refusal) for handle, ids, refusal in unit.nacks if (left := self.nacked(ids, refusal, None))
        ]

    # -- what the client says

    def is_past(self, job: str, named: str | None) -> bool:
        """Whether an attempt, as a word names it, is this client's no more: then the client is told so."""
        if job in self._past and named in (None, self._past[job][0]):
            self._tell(job, self._past[job][0], "over", self._past[job][1])
            return True
        return False

    def spoken_of(self, job: str, named: str | None) -> Assignment | None:
        """The client says something about a job: the attempt that is meant, if it is at work here."""
        assignment = self._current.get(job)
        if assignment is None or named not in (None, str(_number(assignment))):
            return None
        self._start_deadline(assignment)
        return assignment

    def heard(self, job: str, named: str | None, assignment: Assignment | None, heard: Heard) -> None:
        """What became of it: it was the end of the job, or the job is not the client's any more."""
        if assignment is None:
            if not heard.counted and named is not None:
                self._tell(job, named, "over", _why(heard.state))
        elif not assignment.over:
            why = _why(heard.state)
            self.end(assignment, "ended" if heard.counted and why == "lost" else why, tell=not heard.counted)

    async def _close_log(self, assignment: Assignment) -> None:
        """An end comes that the client does not say: what was left out of the log is told before."""
        if assignment.hearing is not None:
            try:
                await assignment.hearing.close(_number(assignment))
            except MsgwebError as error:
                logger.warning("job %s: its log lacks a notice: %s", assignment.job, error)

    # -- stopping

    def ask_to_stop(self, assignment: Assignment, why: Why) -> None:
        """Politely first; after a grace the job is taken away. From who does not listen it is taken at once."""
        if assignment.over or assignment.ending is not None:
            return
        assignment.ending = why
        if assignment.attempt is None or assignment.concluding:
            return
        if not self.controls:
            self._take_away(assignment)
            return
        self._tell_to_stop(assignment)
        seconds = self._connection.options.cancel_grace
        assignment.grace = asyncio.get_running_loop().call_later(seconds, self._take_away, assignment)

    def _take_away(self, assignment: Assignment) -> None:
        if assignment.over or assignment.concluding:
            return
        note = "its worker did not stop: the job was taken from it"
        if not self.controls:
            note = "its worker does not listen to /job/control: the job was taken from it"
        end = End("cancelled", note)
        if assignment.ending == "timeout":
            end = End("failed", note, error=TIMEOUT)
        self._connection.start_task(self._conclude(assignment, end, assignment.ending or "ended", tell=True))

    def _start_deadline(self, assignment: Assignment) -> None:
        attempt = assignment.attempt
        if attempt is not None and attempt.timeout is not None and not assignment.over and assignment.deadline is None:
            loop = asyncio.get_running_loop()
            assignment.deadline = loop.call_later(attempt.timeout, self.ask_to_stop, assignment, "timeout")

    def _mind_deadlines(self, subscription: "ClientSubscription") -> None:
        """The time of a job runs from when its worker speaks of it, or it is the first that the subscription brought of
        those that are unfinished: the others wait at the client."""
        for assignment in self._held.values():
            if assignment.subscription is subscription and not assignment.over:
                self._start_deadline(assignment)
                return

    async def _conclude(self, assignment: Assignment, end: End, why: Why, *, tell: bool) -> None:
        """Record an end that the worker did not say itself."""
        if assignment.over or assignment.concluding:
            return
        assert assignment.attempt is not None
        assignment.concluding = True
        await self._close_log(assignment)
        state = await self._recorded(assignment.attempt, end)
        if not assignment.over:
            self.end(assignment, why if state is not None else "ended", tell=tell)

    async def _recorded(self, attempt: Attempt, end: End) -> str | None:
        recorded: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._jobs.port.end(attempt, end, recorded.set_result)
        return await recorded

    def end(self, assignment: Assignment, why: Why, *, tell: bool) -> None:
        """The job is not this client's any more.

        Args:
            tell: the client does not know it.
        """
        assignment.over = why
        assignment.stop_timers()
        job = assignment.job
        if self._jobs.begun.get(job) is assignment:
            del self._jobs.begun[job]
        if self._current.get(job) is assignment:
            del self._current[job]
            self._past[job] = str(_number(assignment)), why
            if len(self._past) > PAST_LIMIT:
                del self._past[next(iter(self._past))]
        if tell:
            self._tell(job, str(_number(assignment)), "over", why)
        if assignment.delivery.id in self._held:
            subscription = assignment.subscription
            if assignment.acked or subscription.auto or subscription in self._closing:
                engine = self._connection.engine
                self._settle(assignment, engine.release if why == "lost" else engine.ack)
            self._mind_deadlines(subscription)

    # -- the end of subscriptions

    def lost(self, subscription: "ClientSubscription") -> None:
        """The session was fenced off: what it held is with others."""
        for assignment in [one for one in self._held.values() if one.subscription is subscription]:
            del self._held[assignment.delivery.id]
            if assignment.attempt is not None and not assignment.over:
                self.end(assignment, "lost", tell=True)
        if self._closing.pop(subscription, None) is not None:  # it was only kept for what it held
            asyncio.get_running_loop().call_soon(self._connection.engine.unsubscribe, subscription.handle)

    def close(self, subscription: "ClientSubscription", done: Done | None = None, *, leaving: bool = False) -> bool:
        """A subscription ends; False: it holds no job, and may end at once.

        Args:
            leaving: the whole connection does. Else the client keeps the jobs that it has acknowledged.
        """
        mine = [one for one in self._held.values() if one.subscription is subscription]
        if not mine:
            return False
        engine = self._connection.engine
        handle = mine[0].handle
        engine.set_credit(handle, 0)
        others = [one for one in handle.held if one not in self._held]
        if others or done is not None:
            engine.release(handle, others, done)
        self._closing[subscription] = leaving
        sending = self._connection.sending
        if sending.busy:  # what it has said of them comes first
            sending.errands.ask(partial(self._let_all_go, subscription), _ignore)
        else:
            self._connection.start_task(self._let_all_go(subscription))
        return True

    async def _let_all_go(self, subscription: "ClientSubscription") -> None:
        leaving = self._closing.get(subscription, False)
        for assignment in [one for one in self._held.values() if one.subscription is subscription]:
            if assignment.over:
                self._settle(assignment, self._connection.engine.ack)
            elif assignment.attempt is not None and (leaving or not assignment.acked):
                await self._close_log(assignment)
                if self._held.get(assignment.delivery.id) is assignment and not assignment.over:
                    self._let_go(assignment)

    def _let_go(self, assignment: Assignment) -> None:
        """To another worker, at no cost; unless the client was done with it, and said nothing."""
        if assignment.concluding:
            return
        assignment.concluding = True
        assert assignment.attempt is not None
        end = End("interrupted", "its worker has gone" if self._connection.lost else "its worker gave it back")
        if assignment.acked and self._connection.said_goodbye:
            end = End("failed", error=UNANSWERED)
        self._jobs.port.end(assignment.attempt, end, partial(self._gone, assignment))

    def _gone(self, assignment: Assignment, state: str | None) -> None:
        engine = self._connection.engine
        if assignment.delivery.id in self._held:
            self._settle(assignment, engine.release if state in (None, "ready") else engine.ack)
        if not assignment.over:
            self.end(assignment, "lost", tell=False)

    # -- telling the client

    def listen(self, identifier: str, encoder: MessageEncoder) -> None:
        """SUBSCRIBE `/job/control`. What it should have heard already it hears now."""
        self.controls[identifier] = encoder
        for assignment in self._held.values():
            if assignment.over and assignment.ending is not None:
                self._tell(assignment.job, str(_number(assignment)), "over", assignment.over)
            elif assignment.ending is not None and assignment.attempt is not None:
                self._tell_to_stop(assignment)

    def _tell_to_stop(self, assignment: Assignment) -> None:
        assert assignment.ending is not None
        grace = self._connection.options.cancel_grace
        self._tell(assignment.job, str(_number(assignment)), "cancel", assignment.ending, grace)

    def _tell(self, job: str, attempt: str, event: str, why: Why, grace: float | None = None) -> None:
        connection = self._connection
        if not self.controls or connection.is_over:
            return
        headers = {"job-id": job, "job-attempt": attempt, "job-event": event, "reason": why}
        headers["content-type"] = "application/json"
        body = {"reason": why} if grace is None else {"reason": why, "grace": grace}
        lines, data = encode_headers(headers), json.dumps(body).encode()
        self._control_count += 1
        # Of the kind that topics' messages have: who acknowledges it is not told that there is nothing to acknowledge.
        name = b"%bc%d" % (connection.topic_prefix, self._control_count)
        connection.write_all([encoder.encode(name, lines, data) for encoder in self.controls.values()])


def _number(assignment: Assignment) -> int:
    assert assignment.attempt is not None
    return assignment.attempt.number


def _why(state: str) -> Why:
    """Why a job in that state is not the worker's any more."""
    if state == "cancelled":
        return "cancelled"
    return "lost" if state in ("running", "ready", "scheduled", "waiting") else "ended"


def _is_id(text: str) -> bool:
    """A UUID as Postgres writes it."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _ignore(_: MsgwebError | str | None) -> None:
    """Nobody waits for it."""
