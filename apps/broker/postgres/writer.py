"""Group commit: one connection, one transaction at a time; whatever is asked for meanwhile goes into the next one.

There is no timer: an idle process pays one commit of latency, a busy one spreads a commit over hundreds of messages.

When the connection breaks in mid-commit the outcome is asked for after reconnecting (the table `msgweb.batch`), so that
a batch is neither lost nor written twice.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable

import psycopg
from psycopg import pq

from apps.broker.engine import REPLY_PREFIX, Address, Message, MessageId, SessionId
from apps.broker.errors import QueueFull
from apps.broker.postgres import leftovers, packing, resolving, scarcity, topics
from apps.broker.postgres.backlog import Backlog
from apps.broker.postgres.batch import Batch, Claimable
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.host import Host
from apps.broker.postgres.names import read_described
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.pipeline import (
    POOLED,
    POOLED_TEXT,
    ConnectionLost,
    Outcome,
    Pipeline,
    StatementFailed,
    Step,
    first_line,
)
from apps.broker.postgres.pressure import Pressure
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.recovery import RETRY_LAST, Doubt, ask, reconnect
from apps.broker.postgres.scarcity import Scarcity
from apps.broker.postgres.sql import statements
from msgweb.errors import BadMessage, MsgwebError, NotFound, PooledDatabase, SessionLost, Unavailable

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0  # how long a closing process waits for the database
COMPANY = 0.00015  # seconds after a batch in which those who waited for it may go on: the next one has them all then
FEW = 64  # operations; a larger batch costs so much by itself that company saves little
PATIENCE = 0.001  # seconds that acks for which nobody waits may gather before they are written
PROBE = 16  # one in so many batches tries whether messages that were handed over are worth waiting for
PARK_SECONDS = 0.2  # until a destination that an open transaction is making is tried again
TOPIC_BYTES = 16 * 1024 * 1024  # of topic messages that may wait for the other processes; best effort ends there
LOCKED = ("55P03", "40P01")
RETRIED = ("40", "55")  # SQLSTATE classes after which the same batch may well succeed
UNAVAILABLE = ("25", "42", "53", "54", "57", "58")  # the database cannot write now: full, read-only, no permission


class Writer:
    """The one who writes for a process. Belongs to one event loop."""

    def __init__(self, conninfo: str, name: str, host: Host) -> None:
        self._conninfo = conninfo
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._pipeline: Pipeline | None = None
        self._busy = False
        self._scheduled = False
        self._backlog = Backlog()
        self._topics: list[bytes] = []
        self._touched: set[Queue] = set()
        self._stale = False  # the catalogue is to be read again
        self._number = 0
        self._relieved: list[Callable[[], None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._name = name  # as application_name; no other process has it
        self._closing = False
        self._topic_bytes = 0
        self._topics_dropped = 0
        self._recovery: asyncio.Task[None] | None = None
        self._patient: asyncio.TimerHandle | None = None  # until this fires, acks gather
        self._impatient = False
        self._following = False  # a batch has just ended
        self._expected = 0  # so many operations, if all who waited for it go on at once
        self._ended = 0.0
        self._deferred = False  # the batch has let one turn of the loop pass
        self._scarcity = Scarcity(self.wake)
        self._pressure = Pressure()

    # -- what the engine asks for

    @property
    def healthy(self) -> bool:
        """Connected to the database."""
        return self._pipeline is not None

    @property
    def prompt(self) -> bool:
        """Whether what is sent now goes into the next batch, and the database has room for it as far as is known."""
        return self._pipeline is not None and not self._scarcity.felt

    @property
    def stalled(self) -> Collection[Queue]:
        """The queues with something that no batch has carried yet and that found no credit (`Queue.pending`)."""
        return self._backlog.stalled

    @property
    def congested(self) -> bool:
        """More waits than a few batches carry."""
        return self._backlog.congested

    @property
    def settled_batch(self) -> int:
        """The number below which nobody will ask for a batch's outcome."""
        return self._number

    @property
    def backend_pid(self) -> int:
        """Of the connection; 0 while there is none."""
        return self._pipeline.backend_pid if self._pipeline else 0

    async def start(self) -> None:
        """Connect.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            pipeline = await Pipeline.connect(self._conninfo, statements(self._host.companion), self._name)
            try:
                await ask(pipeline, [("after_crash", ())])
                catalogue = await ask(pipeline, self._catalogue())
            except BaseException:
                pipeline.close()
                raise
        except (psycopg.Error, StatementFailed, ConnectionLost) as error:
            if isinstance(error, StatementFailed) and error.sqlstate in POOLED:
                raise PooledDatabase(POOLED_TEXT) from error
            raise Unavailable(f"the database cannot be used: {error}") from error
        self._adopt(pipeline)
        self._relearn(catalogue)
        self.wake()

    async def close(self) -> None:
        """Write what was asked for, then disconnect."""
        if self._pipeline is not None:
            try:
                await asyncio.wait_for(self.settled(), CLOSE_SECONDS)
            except TimeoutError:
                logger.warning("the database does not answer; what it was asked for last is left open")
        self._closing = True
        self._scarcity.close()
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        if self._pipeline:
            self._pipeline.close()
            self._pipeline = None
        self._refuse(self._backlog.clear(), Unavailable("this server is stopping"))

    async def settled(self) -> None:
        """Wait until nothing is pending."""
        while self._busy or not self._backlog.empty or self._topics or self._scheduled:
            self._hurry()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(waiter)
            await waiter

    def add(self, operation: Operation) -> None:
        """Put an operation into the next batch."""
        self._backlog.add(operation)
        if not self._scheduled:
            self.wake()

    def stall(self, queue: Queue, operations: Iterable[Operation]) -> None:
        """These were added to be handed over, and found no credit."""
        self._backlog.stall(queue, operations)

    def give_back(self, ids: list[MessageId], session: int) -> None:
        """Make claimed messages ready again that no consumer has seen."""
        self._backlog.give_back(ids, session)
        if not self._scheduled:
            self.wake()

    def publish(self, message: Message) -> None:
        """Put a topic's message into the next batch, for the other processes."""
        if not self._host.peers:
            return
        packed = topics.pack(message)
        if self._topic_bytes + len(packed) > TOPIC_BYTES:
            self._topics_dropped += 1
            return
        self._topics.append(packed)
        self._topic_bytes += len(packed)
        self.wake()

    def wake(self) -> None:
        """Look soon whether there is something to write or to claim."""
        if not self._scheduled:
            self._scheduled = True
            self._pressure.ask()
            self._loop.call_soon(self._flush)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back once when no longer congested."""
        if self.congested:
            self._relieved.append(callback)
        else:
            self._loop.call_soon(callback)

    # -- a batch's way: gather, resolve names, write, spread the results

    def _flush(self) -> None:
        self._scheduled = False
        if self._busy or self._scarcity.of_all or self._pipeline is None:
            return
        self._host.handover.deliver()  # what a batch says of who holds a message has to be settled before
        if self._backlog.stalled:
            self._host.handover.take_up()
        if self._host.handover.happened:
            # That goes out first: sockets are written with the next turn of the loop, and making a batch takes longer.
            self._host.handover.happened = False
            if not self._deferred:
                self._deferred = True
                self.wake()
                return
        self._deferred = False
        if self._rests():
            self._impatient = self._following = False
            self._pressure.settle(0)
            return
        if self._can_wait():
            self._be_patient()
            return
        now = time.monotonic()
        size = len(self._backlog)
        if 0 < size < self._expected and now - self._ended < COMPANY:
            self.wake()
            return
        if 0 < size < FEW and self._at_leisure() and self._pressure.defers(now, size):
            self.wake()
            return
        self._host.handover.hold_back()
        operations = self._backlog.unparked(self._gather())
        unresolved = [] if self._scarcity.of_sends else self._host.places.unresolved()
        unresolved = [queue for queue in unresolved if queue.address not in self._backlog.parked_names]
        if self._stale:
            self._backlog.put_back(operations)
            self._busy = True
            self._reload()
            return
        if not operations and not self._topics and not unresolved and not any(self._claimable()):
            if self._backlog:
                if not self._scarcity.of_sends:
                    self._be_patient()
                return
            if not self._backlog.empty:
                return
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()
            return
        self._busy = True
        names = resolving.unknown(operations, unresolved, self._host.places.queue)
        if names:
            self._resolve([names], operations, [])
        else:
            self._write(operations)

    def _rests(self) -> bool:
        """Whether a glance shows that there is nothing to do: as after most batches, where nobody consumes."""
        places = self._host.places
        busy = self._backlog or self._topics or self._stale or self._relieved or self._idle or self._patient
        return not (busy or places.consumes or places.unresolved())

    def _can_wait(self) -> bool:
        """Whether all that there is to do is to write acks for which nobody waits. Half of the commits of a steady flow
        are saved by letting them go with the next send or claim."""
        if self._impatient or self._topics or self._stale or not self._backlog.patient:
            return False
        return not (self._host.wanting() or self._host.places.unresolved())

    def _at_leisure(self) -> bool:
        """Whether nothing but senders of a few messages waits for a batch."""
        return not (self._impatient or self._topics or self._stale or self._host.wanting())

    def _be_patient(self) -> None:
        if self._patient is None:
            self._patient = self._loop.call_later(PATIENCE, self._hurry)

    def _hurry(self) -> None:
        """What gathered is written now."""
        if self._patient is not None:
            self._patient.cancel()
            self._patient = None
        self._impatient = True
        self.wake()

    def _gather(self) -> list[Operation]:
        self._impatient = False
        following, self._following = self._following, False
        self._pressure.settle(len(self._backlog))
        if self._patient is not None:
            self._patient.cancel()
            self._patient = None
        heavy = self._backlog.heavy
        operations = self._backlog.take_without_sends() if self._scarcity.of_sends else self._backlog.take()
        if self._relieved and not self.congested:
            relieved, self._relieved = self._relieved, []
            for callback in relieved:
                guarded(callback)
        if following and heavy and not (self._backlog.isolating or self._scarcity.of_sends):
            now, later = leftovers.divide(operations, self._host.places.queue, probe=self._number % PROBE == 0)
            self._backlog.put_back(later)
            self._following = not now
            return now
        return operations

    def _resolve(self, groups: list[list[Queue]], operations: list[Operation], resolved: list[Queue]) -> None:
        """Get the ids of names, a group at a time; then write. A group that fails is halved until the bad name is
        alone."""
        if not groups:
            self._host.places.resolved()
            self._write(self._possible(operations, resolved))
            for queue in resolved:
                if queue.id == -1 or (not queue.owned and queue.address.name.startswith(REPLY_PREFIX)):
                    queue.id = None  # asked for again next time: it may come, or go
                    self._host.places.forget(queue)
            return
        assert self._pipeline is not None
        names = groups.pop()

        def finished(outcome: Outcome) -> None:
            if isinstance(outcome, list):
                resolving.settle(names, outcome)
                resolved.extend(names)
            elif isinstance(outcome, ConnectionLost) or outcome.sqlstate[:2] in UNAVAILABLE:
                self._failed(outcome, operations, None)
                return
            elif len(names) > 1:
                groups.extend((names[len(names) // 2 :], names[: len(names) // 2]))
            elif outcome.sqlstate in LOCKED:
                self._park(names[0].address)
            else:
                logger.warning("no destination %s: %s", names[0].address, first_line(outcome))
                names[0].id = -1
                resolved.extend(names)
            self._resolve(groups, operations, resolved)

        self._pipeline.run(resolving.steps(names, self._host.session), finished)

    def _park(self, address: Address) -> None:
        """An application's open transaction is making this destination: what names it waits, all else goes on."""
        if not self._backlog.parked_names:
            self._loop.call_later(PARK_SECONDS, self._unpark)
        self._backlog.parked_names.add(address)

    def _unpark(self) -> None:
        self._backlog.unpark()
        self.wake()

    def _possible(self, operations: list[Operation], resolved: Iterable[Queue]) -> list[Operation]:
        operations = self._backlog.unparked(operations)
        impossible = {queue.address for queue in resolved if queue.id == -1}
        if not impossible:
            return operations
        possible = []
        for operation in operations:
            wrong = next((m.address for m in operation.sends if m.address in impossible), None)
            if wrong is None:
                possible.append(operation)
            else:
                self._refuse_and_release(operation, NotFound(f"there is no namespace {wrong.namespace!r} for {wrong}"))
        return possible

    def _refuse_and_release(self, operation: Operation, error: MsgwebError) -> None:
        """A unit that is refused as a whole: the messages that it would have acked go back, to be delivered again."""
        self._refuse([operation], error)
        named = operation.named()
        if named:
            self._give_back(named, operation.session)

    def _give_back(self, ids: list[MessageId], session: int) -> None:
        """Release messages of whatever queues."""
        for queue in self._host.places.lower(min(ids)):
            self.touch(queue, min(ids))
        self.add(Operation(releases=ids, session=session))

    def _write(self, operations: list[Operation]) -> None:
        assert self._pipeline is not None
        operations = self._still_held(operations)
        self._number += 1
        packed, self._topics = self._topics, []
        self._topic_bytes = 0
        if self._topics_dropped:
            logger.warning("%d topic messages did not reach the other processes: too many waited", self._topics_dropped)
            self._topics_dropped = 0
        peers = self._host.peers
        for operation in operations if peers else ():
            packed.extend(topics.pack(m) for m in operation.sends if m.address.kind == "topic")
        places, handover = self._host.places, self._host.handover
        consumes = places.consumes
        batch = Batch(
            number=self._number,
            session=self._host.session,
            version=places.version,
            operations=operations,
            payloads=[],
            large_payloads=[],
            announce=peers,
            draw=peers or consumes,
            low=consumes and handover.low,
            seen=handover.seen_id,
            companion=self._host.companion,
        )
        if packed:
            small = [one for one in packed if len(one) <= topics.PACKED_LIMIT]
            batch.payloads += topics.payloads(batch.session, small)
            batch.large_payloads += [one for one in packed if len(one) > topics.PACKED_LIMIT]
        queues = {m.address: places.queue(m.address) for op in operations for m in op.sends}
        batch.touched, self._touched = self._touched, set()
        steps = batch.steps(queues, self._claimable)
        if not steps:  # what was acked before it was written, and what went to ended reply queues
            self._finish(batch, [])
            return
        self._pipeline.run(steps, lambda outcome: self._written(batch, outcome))

    def _claimable(self) -> Claimable:
        """Nothing while something goes back that this batch does not carry: a claim that does not find it would take
        what comes behind it."""
        claimable = self._host.claimable()
        withheld = self._backlog.isolating or self._backlog.returning or self._scarcity.of_claims
        return ([], [], []) if withheld else claimable

    def _still_held(self, operations: list[Operation]) -> list[Operation]:
        """Leave out what concerns messages that an earlier session of ours held: others have them now."""
        session = self._host.session
        stale = [operation for operation in operations if operation.session and operation.session != session]
        if not stale:
            return operations
        self._refuse(stale, SessionLost("this server was taken for dead; the message is with others"))
        return [operation for operation in operations if operation not in stale]

    def _written(self, batch: Batch, outcome: Outcome) -> None:
        if isinstance(outcome, list):
            self._finish(batch, outcome)
        else:
            self._failed(outcome, batch.operations, batch)

    def _finish(self, batch: Batch, results: list[pq.abc.PGresult]) -> None:
        """The batch is committed: receipts first, then deliveries."""
        if batch.scans:
            self._host.hear()  # of what was committed late: it lies behind what a look has found
        spread = batch.read(results)
        if spread:
            self._host.hear()
        if batch.drawn:
            self._host.handover.drew(batch.drawn)
        if batch.inserts:
            self._scarcity.took()
        operations = batch.operations
        if batch.full:
            self._refuse(
                batch.full, QueueFull("the queue is full (its settings max_length, max_bytes); try again later")
            )
            operations = [operation for operation in operations if operation not in batch.full]
        self._report_done(operations)
        stranded: list[MessageId] = []
        unseen: list[MessageId] = []
        if batch.session != self._host.session:  # succeeded meanwhile: what the batch held is with others
            for queue, _ in spread:
                queue.claiming = queue.recalled = False
            self._busy = False
            self.wake()
            return
        for queue, deliveries in spread:
            left = self._host.handover.arrive(queue, deliveries)
            if left:
                (unseen if queue.alone else stranded).extend(left)
                queue.lower(min(left))
                self.touch(queue, min(left))
        for delivery in batch.left:
            stranded.append(delivery.id)
            self._host.places.queue(delivery.address).lower(delivery.id)
            self.touch(self._host.places.queue(delivery.address), delivery.id)
        if unseen:
            self.give_back(unseen, batch.session)
        if stranded:  # others may have taken what comes behind it: it counts as handed out, to somebody who has gone
            self.add(Operation(releases=stranded, session=batch.session))
        if batch.became_ready:
            self._host.became_ready(batch.became_ready)
        if batch.delayed:
            self._host.delayed()
        self._busy = False
        self._expected = sum(operation.done is not None for operation in operations) + len(self._backlog)
        if self._expected > FEW:
            self._expected = 0
        self._ended = time.monotonic()
        self._following = True
        self.wake()  # soon, not now: what the callbacks caused is pending by then, and what sockets hold in this tick

    def _report_done(self, operations: list[Operation]) -> None:
        for operation in operations:
            operation.arrive()
            for binding in operation.binds:
                self._host.places.bound(*binding)
            for namespace, queue in operation.ends:
                self._host.places.unbound(namespace, queue)
            if operation.unit:
                for message in operation.sends:
                    if message.address.kind == "topic":
                        self._host.publish_locally(message)
            done = operation.done
            if done is not None:
                guarded(done, None)

    def _refuse(self, operations: list[Operation], error: MsgwebError) -> None:
        for operation in operations:
            operation.arrive()
            if operation.done is not None:
                guarded(operation.done, error)

    # -- when it fails

    def touch(self, queue: Queue, message_id: int) -> None:
        """Something in this queue becomes ready with the next batch: others are to be told."""
        queue.note(message_id)
        self._touched.add(queue)

    def reload(self) -> None:
        """The catalogue has changed: read it before anything else is written."""
        self._stale = True
        self.wake()

    def _catalogue(self) -> list[Step]:
        return [
            ("catalogue_version", ()),
            ("describe", (packing.int4_array(self._host.places.known_ids()),)),
            ("bindings", ()),
        ]

    def _reload(self) -> None:
        def finished(outcome: Outcome) -> None:
            if not isinstance(outcome, list):
                self._failed(outcome, [], None)
                return
            self._relearn(outcome)
            self._busy = False
            self.wake()

        assert self._pipeline is not None
        self._pipeline.run(self._catalogue(), finished)

    def _relearn(self, results: list[pq.abc.PGresult]) -> None:
        self._stale = False
        version, described, bound = results
        bindings: list[tuple[str, str, str]] = []
        for row in range(bound.ntuples):
            namespace, pattern, name = ((bound.get_value(row, column) or b"").decode() for column in range(3))
            bindings.append((namespace, pattern, name))
        self._host.places.relearn(packing.unpack_int(version.get_value(0, 0)), read_described(described), bindings)
        self._backlog.unstall()  # queues have other settings, and topics send to other queues
        for operation in self._backlog:
            if operation.renew is not None:
                operation.sends = operation.renew()
                self._host.announce_sends(operation)

    def _failed(
        self, error: StatementFailed | ConnectionLost, operations: list[Operation], batch: Batch | None
    ) -> None:
        if self._closing:
            self._refuse(operations, Unavailable("this server is stopping; whether it was written is open"))
            return
        if batch is not None:
            batch.failed()
            self._touched |= batch.touched
        if isinstance(error, ConnectionLost):
            logger.warning("lost the database: %s", first_line(error))
            self._recover(Doubt(operations, batch))
        elif error.sqlstate == "MW001":
            logger.warning("this process was taken for dead; it opens another session")
            self._backlog.put_back(operations)
            self._recover(Doubt([], fenced=SessionId(batch.session) if batch else self._host.session))
        elif error.sqlstate == "MW002":
            self._backlog.put_back(operations)
            self._busy = False
            self.reload()
        elif error.sqlstate in LOCKED and batch is not None and batch.contended and operations:
            self._backlog.put_back(operations)
            if len(operations) > 1:
                self._backlog.isolating = len(operations)
            for message in operations[0].sends if len(operations) == 1 else ():
                self._park(message.address)
            self._busy = False
            self.wake()
        elif error.sqlstate[:2] in RETRIED:
            logger.info("the database asks to retry (%s): %s", error.sqlstate, error)
            self._backlog.put_back(operations)
            self._busy = False
            self.wake()
        elif error.sqlstate in POOLED:
            logger.error("%s: %s", PooledDatabase.code, POOLED_TEXT)
            self._refuse_sends(operations, PooledDatabase(POOLED_TEXT))
            self._recover(Doubt([]), delay=RETRY_LAST)
        elif error.sqlstate[:2] in UNAVAILABLE:
            logger.error("the database refuses to write (%s): %s", error.sqlstate, error)
            self._refuse_sends(operations, Unavailable(f"the database refuses to write ({error.sqlstate}): {error}"))
            if error.sqlstate.startswith(scarcity.SQLSTATES):
                self._scarcity.refused(tried_sends=any(operation.sends for operation in operations))
                self._busy = False
                self.wake()
            else:
                self._recover(Doubt([]), delay=RETRY_LAST)
        elif len(operations) > 1:
            self._backlog.isolating = len(operations)  # one of them is bad: find it, keep the others
            self._backlog.put_back(operations)
            self._busy = False
            self.wake()
        else:
            reason: MsgwebError = BadMessage(f"the database refuses the message ({error.sqlstate}): {error}")
            if error.sqlstate == "MW413":
                reason = QueueFull(str(error))
            for operation in operations:
                self._refuse_and_release(operation, reason)
            self._busy = False
            self.wake()

    def _refuse_sends(self, operations: list[Operation], error: MsgwebError) -> None:
        """Senders learn of it at once, for nothing was written; acks and releases are kept for later."""
        self._backlog.put_back([operation for operation in operations if not operation.sends])
        for operation in operations:
            if operation.sends:
                self._refuse_and_release(operation, error)

    def _adopt(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        pipeline.on_idle_loss = self._idle_loss

    def _idle_loss(self) -> None:
        logger.warning("lost the database while idle")
        self._busy = True
        self._recover(Doubt([]))

    def _recover(self, doubt: Doubt, delay: float = 0) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._recovery = self._loop.create_task(self._reconnect(doubt, delay))

    async def _reconnect(self, doubt: Doubt, delay: float) -> None:
        await asyncio.sleep(delay)
        found = await reconnect(self._conninfo, self._name, self._host, doubt, self._backlog)
        logger.info("the database is back")
        self._host.handover.forget_ids()
        if found.committed:
            self._report_done(doubt.operations)
        else:
            self._backlog.put_back(doubt.operations)
        if found.strays:
            self._give_back(found.strays, self._host.session)
        self._host.became_ready(found.became_ready)
        self._adopt(found.pipeline)
        self._busy = False
        self.wake()
