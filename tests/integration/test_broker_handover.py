"""What a queue's consumers had no credit for when it came is delivered from memory all the same, once they have."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Delivery, Message, Options, Subscription, Unit
from apps.broker.postgres import PostgresEngine, batch
from msgweb.errors import MsgwebError, Unavailable
from tests.conformance.engines import DEADLINE, Recorder, send, sync

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "handover.test"
FENCE = 1297568601  # with a session's id: the lock that each of its batches shares

Scenario = Callable[["Place"], Awaitable[None]]
Play = Callable[[Scenario], None]


class Place:
    """An engine with a queue that nothing waits in, and what it claims.

    Attributes:
        claimed: the bodies of all that came by a claim.
    """

    def __init__(self, conninfo: str, engine: PostgresEngine, claimed: list[bytes]) -> None:
        self.conninfo = conninfo
        self.engine = engine
        self.claimed = claimed
        self.queue, self._other = (Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}") for _ in range(2))
        self.consumer = Recorder(engine)
        self.subscription: Subscription

    async def consume(self, credit: int) -> None:
        """A consumer comes, holds as many messages as it may (0, 1, ...), and the process has ids of its own."""
        self.subscription = self.engine.subscribe(self.queue, self.consumer, credit + 1)  # so claims find too little
        await send(self.engine, self.queue, *[b"%d" % number for number in range(credit)])
        await self.consumer.count(credit)
        queue = self.engine.places.queue(self.queue)
        async with asyncio.timeout(DEADLINE):
            while True:
                await self.until(lambda: not queue.waiting)
                self.engine.set_credit(self.subscription, credit)
                await sync(self.engine, self._other)
                await self.engine._writer.settled()
                if not queue.waiting:
                    break
                self.engine.set_credit(self.subscription, credit + 1)  # a word came between: look once more
        self.claimed.clear()

    @asynccontextmanager
    async def batch_that_waits(self) -> AsyncIterator[None]:
        """A batch is under way, which has nothing to do with the queue; it ends afterwards."""
        async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as bar:
            await bar.execute("SELECT pg_advisory_lock(%s, %s)", [FENCE, self.engine.session])
            self.engine.send(Message(self._other, b"a batch is made of this, and waits"))
            await self.until(lambda: self.engine._writer._busy)
            yield

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0)

    def send(self, *bodies: bytes, priority: int = 4) -> None:
        """Without waiting for it."""
        for body in bodies:
            self.engine.send(Message(self.queue, body, priority=priority))

    def ack(self, *bodies: bytes) -> None:
        ids = [delivery.id for delivery in self.consumer.deliveries if delivery.body in bodies]
        self.engine.ack(self.subscription, ids)

    async def rows(self) -> list[bytes]:
        """The bodies of the messages that are in the database, sorted."""
        async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT m.body FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
                " WHERE d.name = %s ORDER BY m.body",
                [self.queue.name],
            )
            return [bytes(body) for (body,) in await cursor.fetchall()]


@pytest.fixture
def play(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario."""
    Namespace.objects.get_or_create(name=NAMESPACE)
    claimed: list[bytes] = []
    read = batch._claimed

    def note(*arguments: object, **options: object) -> list[Delivery]:
        deliveries = read(*arguments, **options)  # type: ignore[arg-type]
        claimed.extend(delivery.body for delivery in deliveries)
        return deliveries

    monkeypatch.setattr(batch, "_claimed", note)

    async def run(scenario: Scenario) -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            await scenario(Place(conninfo, engine, claimed))
        finally:
            await engine.close()

    return lambda scenario: asyncio.run(run(scenario))


def test_an_ack_brings_the_next_one_of_what_found_no_credit_while_a_batch_is_under_way(play: Play) -> None:
    """And what is acked before its batch is made is never written."""

    async def scenario(place: Place) -> None:
        await place.consume(1)
        async with place.batch_that_waits():
            place.send(b"1", b"2", b"3", b"4")
            for number in range(4):
                place.ack(b"%d" % number)
                await place.consumer.count(number + 2)
            assert place.consumer.bodies == [b"0", b"1", b"2", b"3", b"4"]
            place.ack(b"4")
            place.send(b"5")  # memory serves it as if there had never been a moment without credit
            await place.consumer.count(6)
        await place.engine._writer.settled()
        assert await place.rows() == [b"5"]
        assert place.claimed == []

    play(scenario)


def test_the_first_ones_are_delivered_as_far_as_the_credit_goes_and_the_rest_follows(play: Play) -> None:
    async def scenario(place: Place) -> None:
        await place.consume(2)
        async with place.batch_that_waits():
            place.send(b"2", b"3", b"4", b"5")
            place.ack(b"0", b"1")
            await place.consumer.count(4)
        await place.engine._writer.settled()
        assert place.consumer.bodies == [b"0", b"1", b"2", b"3"]
        assert await place.rows() == [b"2", b"3", b"4", b"5"]
        place.consumer.acks = True
        place.ack(b"2", b"3")
        await place.consumer.count(6)
        assert place.consumer.bodies == [b"%d" % number for number in range(6)]
        assert place.claimed == [b"4", b"5"]
        place.send(b"6", b"7", b"8", b"9")
        await place.consumer.count(10)
        assert place.claimed == [b"4", b"5"], "the queue is served from memory again"

    play(scenario)


def test_a_busy_queue_comes_back_to_memory_after_a_moment_without_credit(play: Play) -> None:
    """The sender is always ahead: there is never a moment without anything on its way."""

    async def scenario(place: Place) -> None:
        await place.consume(10)
        place.send(*[b"%d" % number for number in range(10, 20)])
        await place.until(lambda: not place.engine._writer._backlog)
        sent = 20

        def back() -> bool:
            """Whether the last hundred did not go by way of the database."""
            latest = int(place.claimed[-1]) if place.claimed else 0
            return int(place.consumer.deliveries[-1].body) >= latest + 100

        def fill(error: MsgwebError | None) -> None:
            nonlocal sent
            assert error is None
            if not back():
                place.engine.send(Message(place.queue, b"%d" % sent), fill)
                sent += 1

        for _ in range(20):
            fill(None)
        place.consumer.acks = True
        place.ack(*[b"%d" % number for number in range(10)])
        await place.until(back)
        await place.consumer.count(sent)
        assert place.consumer.bodies == [b"%d" % number for number in range(sent)]

    play(scenario)


def test_the_higher_priority_goes_first(play: Play) -> None:
    async def scenario(place: Place) -> None:
        await place.consume(2)
        async with place.batch_that_waits():
            place.send(b"4")
            place.send(b"2", priority=9)
            place.send(b"5")
            place.send(b"3", priority=9)
            place.send(b"6", priority=2)
            place.consumer.acks = True
            place.ack(b"0", b"1")
            await place.consumer.count(7)
        assert place.consumer.bodies == [b"%d" % number for number in range(7)]
        assert place.claimed == []

    play(scenario)


@pytest.mark.parametrize("what", ["options", "unit"])
def test_what_is_never_handed_over_is_not_passed_over_either(play: Play, what: str) -> None:
    async def scenario(place: Place) -> None:
        await place.consume(2)
        async with place.batch_that_waits():
            place.send(b"2")
            special = Message(place.queue, b"3", options=Options(ttl=1000.0) if what == "options" else None)
            if what == "options":
                place.engine.send(special)
            else:
                place.engine.transact(Unit(sends=[special]))
            place.send(b"4", priority=9)
            place.ack(b"0", b"1")
            await place.consumer.count(3)
        await place.consumer.count(4)
        assert sorted(place.consumer.bodies[2:]) == [b"2", b"4"]
        place.ack(b"2", b"4")
        await place.consumer.count(5)
        assert place.claimed[:2] == [b"4", b"3"]

    play(scenario)


def test_what_was_in_a_batch_that_failed_waits_until_it_is_written(play: Play) -> None:
    """And so does what comes behind it."""

    async def scenario(place: Place) -> None:
        await place.consume(1)
        place.send(b"1")
        await place.until(lambda: not place.engine._writer._backlog and place.engine._writer._busy)
        place.send(b"2")
        with psycopg.connect(place.conninfo, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [place.engine._writer.backend_pid])
        place.ack(b"0")
        await place.consumer.count(2)
        place.ack(b"1")
        await place.consumer.count(3)
        assert place.consumer.bodies == [b"0", b"1", b"2"]
        assert place.claimed[:1] == [b"1"]

    play(scenario)


def test_after_a_refusal_for_want_of_room_nothing_is_delivered_before_something_was_written(play: Play) -> None:
    """Else a sender that tries again and again would have its message delivered again and again."""

    async def scenario(place: Place) -> None:
        await place.consume(1)
        place.consumer.acks = True
        place.ack(b"0")
        await place.engine._writer.settled()
        refusals = asyncio.Queue[MsgwebError]()

        def send_again(error: MsgwebError | None) -> None:
            if error is not None:
                refusals.put_nowait(error)
                place.engine.send(Message(place.queue, b"1"), send_again)

        with psycopg.connect(place.conninfo, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION msgweb.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$"
            )
            connection.execute(
                "CREATE TRIGGER disk_full BEFORE INSERT ON msgweb.message"
                " FOR EACH ROW EXECUTE FUNCTION msgweb.disk_full()"
            )
            try:
                with pytest.raises(Unavailable):
                    await send(place.engine, place._other, b"nobody consumes this")
                place.engine.send(Message(place.queue, b"1"), send_again)
                async with asyncio.timeout(DEADLINE):
                    for _ in range(2):
                        assert isinstance(await refusals.get(), Unavailable)
                assert place.consumer.bodies == [b"0"]
            finally:
                connection.execute("DROP TRIGGER disk_full ON msgweb.message")
                connection.execute("DROP FUNCTION msgweb.disk_full()")
        await place.consumer.count(2)
        assert place.consumer.bodies == [b"0", b"1"]

    play(scenario)


def test_a_large_one_that_comes_while_acks_gathered_waits_for_one_more_batch(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that waits for its receipts sends right when the acks of what it sent before are due to be written."""
    large = b"x" * 4096
    written: list[bytes] = []
    insert = batch.Batch._insert

    def note(self: batch.Batch, sent: list[batch.Sent], session: bytes) -> None:
        written.extend(one.message.body for one in sent)
        insert(self, sent, session)

    monkeypatch.setattr(batch.Batch, "_insert", note)

    async def scenario(place: Place) -> None:
        await place.consume(1)
        writer = place.engine._writer
        went_on = False

        def go_on(error: MsgwebError | None) -> None:
            nonlocal went_on
            assert error is None
            went_on = True
            place.ack(b"0")
            place.send(large)
            writer._hurry()

        place.engine.send(Message(place._other, b"this batch ends"), go_on)
        await place.until(lambda: went_on and not writer._busy)
        await place.until(lambda: writer._busy)
        assert place.consumer.bodies[-1] == large
        place.ack(large)
        await writer.settled()
        assert large not in written

    play(scenario)
