"""A batch: the operations that one transaction carries, as statements to run and results to spread."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from psycopg import pq

from apps.broker.engine import Address, Asking, Companion, Delivery, Message, MessageId, Options, SessionId
from apps.broker.postgres import packing
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.names import Ready
from apps.broker.postgres.operations import PERSISTENT, SPECIAL, TRANSIENT, UNNUMBERED, Operation
from apps.broker.postgres.pipeline import Step
from apps.broker.postgres.queues import LANES, NOTHING, Queue
from apps.broker.postgres.scans import Scan

logger = logging.getLogger(__name__)

WAKE_LIMIT = 220  # queues a notification: 35 bytes each at the most, and a notification holds 7,999
SCAN_LIMIT = 500  # messages that a selector looks at in one batch
CLAIM_COLUMNS = 8  # then comes a group, or what a companion says, which has more columns than one
_LANES = packing.int2_array(LANES)
_NO_OPTIONS = Options()

#: Claims and how many, selectors that look or claim, queues of whose consumers others are to hear, or are to be heard.
Claimable = tuple[list[tuple[Queue, int]], list[tuple[Queue, Scan]], list[Queue]]
Results = Sequence[pq.abc.PGresult]


@dataclass(slots=True)
class Sent:
    """A message of a batch on its way into a queue."""

    queue: Queue
    message: Message
    operation: Operation


@dataclass(slots=True, eq=False)
class Batch:
    """Operations, claims and topic payloads of one transaction. Made anew for each attempt to write it.

    Attributes:
        version: the state of the catalogue that it was made from.
        announce: whether other processes want to hear of what became ready.
        draw: whether this process hands messages over, and so needs ids that come after what the batch writes; low: it
            needs some at any rate.
        seen: an id that was drawn before: whatever is inserted now comes after it.
        companion: what goes along with its claims.
        touched: destinations in which something may become ready for others.
        full: the operations whose message its queue did not take.
        inserts: it writes messages.
        contended: it takes locks that others may hold for long; it waits for them briefly.
        drawn: the first of the ids that were drawn; 0: none were.
        became_ready: what became ready besides.
        left: claimed messages that their consumer cannot take any more.
        delayed: something may have become due earlier than anything before.
    """

    number: int
    session: int
    version: int
    operations: list[Operation]
    payloads: list[bytes]
    large_payloads: list[bytes]
    announce: bool
    draw: bool
    low: bool
    seen: int = 0
    companion: Companion | None = None
    touched: set[Queue] = field(default_factory=set)
    claims: list[tuple[Queue, int]] = field(default_factory=list)
    scans: list[tuple[Queue, Scan]] = field(default_factory=list)
    full: list[Operation] = field(default_factory=list)
    inserts: bool = False
    contended: bool = False
    drawn: int = 0
    became_ready: list[Ready] = field(default_factory=list)
    delayed: bool = False
    sent_here: dict[Queue, int] = field(default_factory=dict)  # messages that were not handed over
    began_waiting: dict[Queue, bool] = field(default_factory=dict)  # whether something waited before these
    _announced: list[tuple[Queue, int]] = field(default_factory=list)
    left: list[Delivery] = field(default_factory=list)
    _chosen: list[tuple[Scan, list[MessageId]]] = field(default_factory=list)
    _unhanded: bool = False
    _held: bool = False  # some of what it sends was handed over
    _sent: list[tuple[Queue, int]] = field(default_factory=list)
    _spread: list[tuple[Queue, list[Delivery]]] = field(default_factory=list)
    _alone: tuple[bytes, ...] = ()  # the message that it begins with, if that is one by itself: see `write_one`
    _steps: list[Step] = field(default_factory=list)
    _readers: list[tuple[int, Callable[[pq.abc.PGresult], None]]] = field(default_factory=list)

    def steps(self, queues: dict[Address, Queue], claimable: Callable[[], Claimable]) -> list[Step]:
        """The statements, in order: sends, acks and releases, claims, wake-ups. Empty if there is nothing to write.

        Args:
            queues: every queue of a message in the batch, resolved; an id of 0 drops its messages (a reply queue
                that has ended).
            claimable: from which queues to claim, and how many, and for which selectors to look; asked once the
                sends are known.
        """
        session = packing.int4(self.session)
        if not (len(self.operations) == 1 and self._one(self.operations[0], queues)):
            self._write(queues, session)
        self.claims, self.scans, ranked = claimable()
        relaxed = bool(self._steps or self._alone) and not (self.claims or self.scans)
        for operation in self.operations:
            relaxed = relaxed and not operation.lasting
        for queue, limit in self.claims:
            self._claim(queue, limit, session)
        for queue, scan in self.scans:
            self._scan(queue, scan, session)
        for queue in ranked:
            self._rank(queue, session)
        if self.announce:
            self._announce()
        if not (self._steps or self._alone):
            return []
        if self.low or (self.draw and self._unhanded):
            self._step("draw", reader=self._draw)
        fence = packing.boolean(relaxed), packing.boolean(self.contended)
        entry = session, packing.int8(self.number), packing.int8(self.version)
        opening: list[Step] = [("fence", (session, *fence)), ("enter_batch", entry)]
        if self._alone:
            opening = [("write_one", (*entry, *fence, *self._alone))]
        self._readers = [(place + len(opening), reader) for place, reader in self._readers]
        return opening + self._steps

    def read(self, results: Results) -> list[tuple[Queue, list[Delivery]]]:
        """What the session holds since the commit, in order for each queue. Sets `queue.waiting`, `full` and
        `became_ready` by what the results say."""
        for queue, size in self._sent:
            queue.counts.sent += 1
            queue.counts.sent_bytes += size
        for place, reader in self._readers:
            reader(results[place])
        return self._spread

    def _step(
        self, name: str, *parameters: bytes | None, reader: Callable[[pq.abc.PGresult], None] | None = None
    ) -> None:
        if reader is not None:
            self._readers.append((len(self._steps), reader))
        self._steps.append((name, parameters))

    def _one(self, operation: Operation, queues: dict[Address, Queue]) -> bool:
        """What `_write` comes to where all is one message for a queue that wants nothing special, at a third of its
        cost; False: it is something else."""
        if not operation.plain or operation.handed:
            return False
        message = operation.sends[0]
        queue = queues[message.address]
        if message.options is not None or queue.special or queue.subscriptions or not queue.id:
            return False
        self._sent.append((queue, len(message.body) + len(message.headers)))
        self.began_waiting[queue] = True
        queue.note(self.seen + 1, message.priority)
        self.touched.add(queue)
        self.sent_here[queue] = 1
        self._unhanded = True
        self.inserts = True
        self._begin_with(queue, message, UNNUMBERED, handed=False, held=False)
        return True

    def _begin_with(self, queue: Queue, message: Message, number: MessageId, *, handed: bool, held: bool) -> None:
        """The batch begins with this message: see `write_one`."""
        self._alone = (
            packing.boolean(message.persistent),
            packing.int8(number),
            packing.int4(queue.id or 0),
            packing.int2(message.priority),
            packing.boolean(handed),
            packing.boolean(held),
            message.headers,
            message.body,
        )

    def _write(self, queues: dict[Address, Queue], session: bytes) -> None:
        """Sends, acks, releases and whatever else the operations are."""
        acks: tuple[list[MessageId], list[MessageId], list[MessageId]] = ([], [], [])
        released: list[MessageId] = []
        recalled: list[MessageId] = []
        rejected: list[tuple[MessageId, float, bool]] = []
        plain, special = self._sends(queues)
        settled = self._settled(plain) if self._held else set()
        for operation in self.operations:
            if operation.plain:
                continue
            for message_id, kind in operation.acks:
                if message_id not in settled:
                    acks[kind].append(message_id)
            released.extend(operation.releases)
            recalled.extend(operation.recalls)
            rejected.extend(operation.rejects)
            for queue_id in operation.closes:
                self._step("close_reply_queue", packing.int4(queue_id), session)
            for queue_id in operation.leaves:
                self._step("leave_exclusive", packing.int4(queue_id), session)
            for queue in operation.exclusives:
                self._step("be_exclusive", packing.int4(queue.id or 0))
            for names in operation.binds:
                self._step("bind", *(name.encode() for name in names))
            for ended in operation.ends:
                self._step("unsubscribe_durable", *(name.encode() for name in ended))
            self.contended = self.contended or bool(operation.binds or operation.ends)
        if settled:
            plain = [sent for sent in plain if sent.operation.handed not in settled]
        if plain:
            self._insert(plain, session)
        once = [sent for sent in special if not _repeats(sent.message)]
        if once:
            self._enqueue(once)
        for sent in special:
            if _repeats(sent.message):
                self._add_schedule(sent)
        for kind, name in ((PERSISTENT, "ack_persistent"), (TRANSIENT, "ack_transient")):
            if acks[kind]:
                self._step(name, packing.int8_array(acks[kind]), session)
        if acks[SPECIAL]:
            self._step("ack_special", packing.int8_array(acks[SPECIAL]), session, reader=self._advanced)
            self.contended = True
        if released:
            self._step("release", packing.int8_array(released), session)
        if recalled:
            self._step("recall", packing.int8_array(recalled), session)
        for operation in self.operations:
            if operation.plain:
                continue
            for queue in operation.shares:  # after what was recalled
                self._step("share_queue", packing.int4(queue.id or 0), session)
            for queue in operation.ranks:
                queue.ranks.told = queue.rank()
                self._step("set_rank", packing.int4(queue.id or 0), session, *map(packing.int4, queue.ranks.told))
                self._read_ranks(queue, session)
            if operation.parts:
                self._step("part_queues", packing.int4_array(operation.parts), session)
        if rejected:
            ids, delays, at_once = zip(*rejected, strict=True)
            arrays = packing.int8_array(ids), session, packing.float8_array(delays), packing.bool_array(at_once)
            self._step("reject", *arrays, reader=self._ready)
            self.delayed = True
            self.contended = True

    # -- sends

    def _sends(self, queues: dict[Address, Queue]) -> tuple[list[Sent], list[Sent]]:
        """The messages for a plain insert, and those that need more. A queue's go all the same way: their order."""
        plain: list[Sent] = []
        special: set[Queue] = set()
        sent_here = self.sent_here
        for operation in self.operations:
            for message in operation.sends:
                if message.address.kind != "queue":
                    continue
                queue = queues[message.address]
                if not queue.id:
                    continue
                self._sent.append((queue, len(message.body) + len(message.headers)))
                if message.options is not None or queue.special:
                    special.add(queue)
                if operation.holder:
                    self._held = True
                else:
                    self.began_waiting.setdefault(queue, queue.stocked or not queue.subscriptions)
                    if queue.subscriptions:
                        queue.waiting = True
                        queue.expect()
                    queue.note(operation.handed or self.seen + 1, message.priority)
                    self.touched.add(queue)
                    sent_here[queue] = sent_here.get(queue, 0) + 1
                    self._unhanded = self._unhanded or not operation.handed
                plain.append(Sent(queue, message, operation))
        if not special:
            return plain, []
        return (
            [sent for sent in plain if sent.queue not in special or sent.operation.handed],
            [sent for sent in plain if sent.queue in special and not sent.operation.handed],
        )

    def _settled(self, plain: list[Sent]) -> set[MessageId]:
        """Messages that were handed over and acked before they were written: they need not be."""
        handed = {sent.operation.handed for sent in plain if sent.operation.holder}
        acked = {message_id for operation in self.operations for message_id, _ in operation.acks}
        waited: dict[Queue, list[bool]] = {}
        for sent in plain:
            if sent.operation.passed:
                waited.setdefault(sent.queue, []).append(sent.operation.handed in acked)
        for queue, settled in waited.items():
            queue.settling += (sum(settled) / len(settled) - queue.settling) / 4
        return handed & acked

    def _insert(self, sent: list[Sent], session: bytes) -> None:
        self.inserts = True
        operations = [one.operation for one in sent]
        held = [op.holder == self.session for op in operations]
        for one, is_held in zip(sent, held, strict=True):
            if one.operation.holder and not is_held:
                one.queue.lower(one.operation.handed)
                one.queue.note(one.operation.handed, one.message.priority)
                self.touched.add(one.queue)
        if len(sent) == 1 and not self._steps:
            one, operation = sent[0], operations[0]
            self._begin_with(one.queue, one.message, operation.handed, handed=operation.holder != 0, held=held[0])
            return
        self._step(
            "insert_messages",
            packing.int8_array([op.handed for op in operations]),
            packing.int4_array([one.queue.id or 0 for one in sent]),
            packing.int2_array([one.message.priority for one in sent]),
            packing.bool_array([one.message.persistent for one in sent]),
            packing.bool_array([op.holder != 0 for op in operations]),
            packing.bool_array(held),
            packing.bytes_array(packing.BYTEA, [one.message.headers for one in sent]),
            packing.bytes_array(packing.BYTEA, [one.message.body for one in sent]),
            session,
        )

    def _enqueue(self, sent: list[Sent]) -> None:
        self.inserts = True
        options = [one.message.options or _NO_OPTIONS for one in sent]
        for one, option in zip(sent, options, strict=True):
            if option.group is not None:
                one.queue.expect_groups()

        def read(result: pq.abc.PGresult) -> None:
            for row, one in enumerate(sent):
                outcome = result.get_value(row, 1)
                if outcome == b"full":
                    self.full.append(one.operation)
                self.delayed = self.delayed or outcome == b"delayed"
                self.became_ready.extend(Ready(one) for one in packing.unpack_int4_array(result.get_value(row, 2)))

        self._step(
            "enqueue_messages",
            packing.int4_array([one.queue.id or 0 for one in sent]),
            packing.int2_array([one.message.priority for one in sent]),
            packing.bool_array([one.message.persistent for one in sent]),
            packing.bytes_array(packing.BYTEA, [one.message.headers for one in sent]),
            packing.bytes_array(packing.BYTEA, [one.message.body for one in sent]),
            packing.float8_array([option.ttl or 0.0 for option in options]),
            packing.float8_array([option.delay for option in options]),
            packing.text_array([option.group or "" for option in options]),
            packing.text_array([option.deduplication or "" for option in options]),
            packing.bool_array([one.operation.unit for one in sent]),
            reader=read,
        )
        self.contended = True

    def _add_schedule(self, sent: Sent) -> None:
        message, options = sent.message, sent.message.options
        assert options is not None
        assert options.repeat is not None
        repeat = options.repeat
        self._step(
            "add_schedule",
            packing.int4(sent.queue.id or 0),
            None if repeat.cron is None else repeat.cron.encode(),
            repeat.timezone.encode(),
            None if repeat.period is None else packing.float8(repeat.period),
            None if repeat.count is None else packing.int8(repeat.count),
            packing.int4(message.priority),
            packing.boolean(message.persistent),
            None if options.ttl is None else packing.float8(options.ttl),
            None if options.group is None else options.group.encode(),
            message.headers,
            message.body,
            packing.float8(options.delay),
        )
        self.delayed = True

    # -- claims

    def _claim(self, queue: Queue, limit: int, session: bytes) -> None:
        identifier = packing.int4(queue.id or 0)
        if not queue.joined:
            self._join(queue, session)
            return
        if queue.exclusive and not queue.active:

            def taken(result: pq.abc.PGresult) -> None:
                queue.active = result.get_value(0, 0) == b"\x01"
                queue.waiting = queue.waiting or queue.active

            queue.waiting = False  # who has it says so when it goes
            self._step("take_exclusive", identifier, session, reader=taken)
            return
        queue.waiting = False  # a wake-up that comes while the claim is under way sets it again
        queue.claiming = True
        queue.heard = NOTHING
        begun = time.monotonic()
        along = self._ask(queue)

        def claimed(result: pq.abc.PGresult) -> None:
            if along is not None:
                guarded(along[1], _along(result))
            queue.looked_at = begun
            queue.spare = result.ntuples < limit
            if result.ntuples >= limit:
                queue.waiting = True
            if not result.ntuples:
                queue.claiming = queue.recalled = False
            else:
                self._spread.append((queue, _claimed(queue, result, raise_floors=not queue.grouped)))

        if queue.grouped:
            self._step("claim_groups", identifier, packing.int4(limit), session, reader=claimed)
        else:
            floors = packing.int8_array(queue.floors.start(begun))
            name, more = ("claim", ()) if along is None else ("claim_along", along[0])
            self._step(name, identifier, packing.int4(limit), session, _LANES, floors, *more, reader=claimed)

    def _ask(self, queue: Queue) -> Asking | None:
        """What goes along with this claim."""
        if self.companion is None:
            return None
        try:
            if not queue.grouped:
                return self.companion.ask(SessionId(self.session))
            self.companion.without()
        except Exception:  # the claim comes first
            logger.exception("what goes along with claims failed")
        return None

    def _join(self, queue: Queue, session: bytes) -> None:
        shares = queue.shares
        rank = queue.rank()

        def joined(result: pq.abc.PGresult) -> None:
            queue.joining = False
            answer = result.get_value(0, 0)
            if answer == b"wait":
                queue.wait_for_share()
                return
            queue.joined = queue.waiting = True
            queue.ranks.told = rank
            queue.asked_at = None
            queue.alone = answer == b"alone" and queue.shares == shares

        queue.waiting = False  # who is alone says when it shares
        queue.joining = True
        identifier, by_force = packing.int4(queue.id or 0), packing.boolean(queue.impatient)
        self._step("join_queue", identifier, session, by_force, *map(packing.int4, rank), reader=joined)
        self._read_ranks(queue, session)
        self.contended = True

    def _read_ranks(self, queue: Queue, session: bytes) -> None:
        def read(result: pq.abc.PGresult) -> None:
            value = result.get_value
            queue.ranks.learn(
                (
                    packing.unpack_int(value(row, 0)),
                    packing.unpack_int(value(row, 1)),
                    packing.unpack_int(value(row, 2)),
                )
                for row in range(result.ntuples)
            )
            queue.waiting = True

        self._step("ranks", packing.int4(queue.id or 0), session, reader=read)

    def _rank(self, queue: Queue, session: bytes) -> None:
        if queue.ranks.stale:
            self._read_ranks(queue, session)
            return
        bid = queue.bid()
        if bid is None:
            return

        def said(_: pq.abc.PGresult) -> None:
            queue.ranks.said = bid

        self._step("bid", packing.int4(queue.id or 0), session, packing.int4(bid), reader=said)

    def _scan(self, queue: Queue, scan: Scan, session: bytes) -> None:
        chosen = scan.claim()
        self._chosen.append((scan, chosen))
        identifier = packing.int4(queue.id or 0)
        if chosen:

            def claimed(result: pq.abc.PGresult) -> None:
                deliveries = _claimed(queue, result, raise_floors=False)
                scan.miss(set(chosen).difference(delivery.id for delivery in deliveries))
                self.left.extend(queue.hand_chosen(scan, deliveries))

            ids = packing.int8_array(chosen)
            if queue.grouped:
                self._step("claim_chosen_groups", identifier, ids, session, reader=claimed)
            else:
                self._step("claim_chosen", ids, session, reader=claimed)
        if scan.waiting and scan.room() > len(chosen):
            scan.waiting = False
            statement = "browse_groups" if queue.grouped else "browse"
            floors = packing.int8_array(scan.floors.start(time.monotonic(), far=scan.far))
            reader = partial(self._browsed, queue, scan)
            self._step(statement, identifier, packing.int4(SCAN_LIMIT), _LANES, floors, reader=reader)

    def _browsed(self, queue: Queue, scan: Scan, result: pq.abc.PGresult) -> None:
        value = result.get_value
        grouped = result.nfields > 6
        far, scan.far = scan.far, result.ntuples >= SCAN_LIMIT
        scan.waiting = scan.waiting or scan.far
        for row in range(result.ntuples):
            place = packing.unpack_int(value(row, 4))
            settled = value(row, 5) == b"\x01"
            scan.far = scan.far and settled
            if scan.room() <= 0 or scan.floors.reaches(place) or (far and not settled):
                scan.waiting = True
                break
            lane = packing.unpack_int(value(row, 1))
            scan.floors.lift(lane, place)
            if not grouped or value(row, 6) == b"\x01":
                group = (value(row, 7) or b"").decode() if grouped else ""
                identifier = MessageId(packing.unpack_int(value(row, 0)))
                queue.look_at(scan, identifier, lane, value(row, 2) == b"\x01", value(row, 3) or b"", group)

    def failed(self) -> None:
        """It was not committed: what it would have claimed is still there."""
        for queue, _ in self.claims:
            queue.waiting = True
            queue.claiming = queue.joining = queue.recalled = False
        for scan, chosen in self._chosen:
            scan.give_up(chosen)
        for queue, first in self._announced:
            queue.note(first)
            self.touched.add(queue)

    def _ready(self, result: pq.abc.PGresult) -> None:
        self.became_ready.extend(Ready(one) for one in packing.unpack_int4_array(result.get_value(0, 0)))

    def _advanced(self, result: pq.abc.PGresult) -> None:
        for row in range(result.ntuples):
            queue, first = (packing.unpack_int(result.get_value(row, column)) for column in range(2))
            self.became_ready.append(Ready(queue, first, grouped=True))

    def _draw(self, result: pq.abc.PGresult) -> None:
        self.drawn = packing.unpack_int(result.get_value(0, 0))

    # -- for the other processes

    def _announce(self) -> None:
        enough = {queue for queue, limit in self.claims if limit >= self.sent_here.get(queue, 0)}
        lines = []
        for queue in self.touched:
            first, priority = queue.announce()
            if not queue.id or first == NOTHING:
                continue
            self._announced.append((queue, first))
            if queue in enough and not self.began_waiting.get(queue, True):
                continue  # all that this batch brings is claimed by it
            lines.append(f"{queue.id}:{first}{'g' if queue.grouped else ''}p{priority}")
        for begin in range(0, len(lines), WAKE_LIMIT):
            self._step("wake", ",".join(lines[begin : begin + WAKE_LIMIT]).encode())
        for payload in self.payloads:
            self._step("publish", payload)
        own = str(self.session).encode()
        for payload in self.large_payloads:
            self._step("publish_large", own, payload)


def _repeats(message: Message) -> bool:
    return message.options is not None and message.options.repeat is not None


def _along(result: pq.abc.PGresult) -> list[list[bytes | None]]:
    """What a companion says of the claimed messages."""
    columns = range(CLAIM_COLUMNS, result.nfields)
    rows = ([result.get_value(row, column) for column in columns] for row in range(result.ntuples))
    return [row for row in rows if row[0] is not None]


def _claimed(queue: Queue, result: pq.abc.PGresult, raise_floors: bool) -> list[Delivery]:
    value = result.get_value
    deliveries = []
    for row in range(result.ntuples):
        message_id = MessageId(packing.unpack_int(value(row, 0)))
        lane, place = packing.unpack_int(value(row, 1)), packing.unpack_int(value(row, 7))
        if raise_floors:
            queue.floors.lift(lane, place)
        deliveries.append(
            Delivery(
                message_id,
                queue.address,
                value(row, 4) or b"",
                value(row, 5) or b"",
                value(row, 2) == b"\x01",
                packing.unpack_int(value(row, 3)),
                (value(row, 8) or b"").decode() or None if result.nfields == CLAIM_COLUMNS + 1 else None,
                lane,
                value(row, 6) == b"\x01",
                place,
            )
        )
    return deliveries
