"""What every engine promises, written against the Engine protocol alone. A second engine has to pass the same."""

import asyncio
import uuid

import psycopg
import pytest
from django.db import connections, transaction

from apps.broker import outbox
from apps.broker.engine import Address, Message, Unit
from apps.broker.postgres import PostgresEngine
from msgweb.errors import BadDestination, BadMessage, NotFound, SessionLost, Unavailable
from tests.conformance.conftest import NAMESPACE, OpenEngine
from tests.conformance.engines import DEADLINE, Recorder, done, send, sync

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("persistent", [True, False])
def test_what_is_sent_is_delivered_once_and_in_order(play, persistent):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        bodies = [b"%d" % number for number in range(300)]
        await send(engine, queue, *bodies[:100], persistent=persistent)
        engine.subscribe(queue, consumer, credit=7)
        await send(engine, queue, *bodies[100:], persistent=persistent)
        await consumer.count(300)
        await sync(engine, queue)
        assert consumer.bodies == bodies
        assert {delivery.deliveries for delivery in consumer.deliveries} == {1}
        late = Recorder(engine)
        await done(lambda callback: engine.subscribe(queue, late, 10, callback))
        await send(engine, queue, b"last", persistent=persistent)
        await late.until(lambda: bool(late.bodies or len(consumer.bodies) > 300))
        assert late.bodies + consumer.bodies[300:] == [b"last"]  # nothing acked came back before it

    play(scenario)


def test_persistent_and_transient_messages_of_one_queue_keep_their_order(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        for number in range(20):
            engine.send(Message(queue, b"%02d" % number, persistent=number % 2 == 0))
        await sync(engine, queue)
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, credit=3)
        await consumer.count(20)
        assert consumer.bodies == sorted(consumer.bodies)

    play(scenario)


def test_higher_priority_goes_first_and_order_holds_within_one(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        for number in range(30):
            engine.send(Message(queue, b"%d-%02d" % (number % 3, number), priority=number % 3))
        await sync(engine, queue)
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, credit=4)
        await consumer.count(30)
        expected = sorted(consumer.bodies, key=lambda body: (-int(body[:1]), body))
        assert consumer.bodies == expected

    play(scenario)


def test_priority_holds_within_a_batch_that_is_handed_over(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        await done(lambda callback: engine.subscribe(queue, consumer, 2, callback))
        await sync(engine, queue)
        for body, priority in [(b"low", 1), (b"high", 9), (b"middle", 5)]:
            engine.send(Message(queue, body, priority=priority))
        await consumer.count(2)
        await sync(engine, queue)
        assert consumer.bodies == [b"high", b"middle"]

    play(scenario)


def test_no_more_than_the_credit_is_held(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=3)
        await send(engine, queue, *[b"%d" % n for n in range(10)])
        await consumer.count(3)
        await sync(engine, queue)
        assert len(consumer.bodies) == 3
        engine.ack(subscription, consumer.ids[:1])
        await consumer.count(4)
        await sync(engine, queue)
        assert len(consumer.bodies) == 4
        engine.set_credit(subscription, 6)
        await consumer.count(7)
        engine.set_credit(subscription, 0)
        engine.ack(subscription, list(subscription.held))
        await sync(engine, queue)
        assert len(consumer.bodies) == 7

    play(scenario)


def test_competing_consumers_share_and_none_gets_what_another_holds(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        one, two = await open_engine(), await open_engine()
        consumers = [Recorder(one, acks=True), Recorder(one, acks=True), Recorder(two, acks=True)]
        for consumer in consumers:
            consumer.engine.subscribe(queue, consumer, credit=5)
        bodies = [b"%d" % number for number in range(500)]
        await send(one, queue, *bodies[:250])
        await send(two, queue, *bodies[250:])
        while sum(len(consumer.bodies) for consumer in consumers) < 500:
            before = len(consumers[0].bodies)
            try:
                async with asyncio.timeout(0.2):
                    await consumers[0].count(before + 1)
            except TimeoutError:
                await sync(one, queue)
        assert sorted(b for c in consumers for b in c.bodies) == sorted(bodies)
        assert all(consumer.bodies for consumer in consumers)

    play(scenario)


def test_a_nacked_message_comes_back_in_its_own_place_and_says_so(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=2)
        await send(engine, queue, b"first", b"second", b"third")
        await consumer.count(2)
        engine.nack(subscription, consumer.ids[:1])
        await consumer.count(3)
        again = consumer.deliveries[2]
        assert (again.body, again.deliveries, again.id) == (b"first", 2, consumer.ids[0])

    play(scenario)


def test_a_released_message_goes_in_its_own_place_to_whoever_has_credit(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second = Recorder(engine), Recorder(other)
        subscription = engine.subscribe(queue, first, credit=3)
        await send(engine, queue, b"a", b"b", b"c")
        await first.count(3)
        engine.set_credit(subscription, 1)
        engine.release(subscription, first.ids[1:])
        other.subscribe(queue, second, credit=10)
        await second.count(2)
        assert second.bodies == [b"b", b"c"]
        assert list(subscription.held) == first.ids[:1]
        with pytest.raises(NotFound):
            await done(lambda callback: engine.release(subscription, first.ids[1:], callback))

    play(scenario)


def test_unsubscribe_releases_what_was_held(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second = Recorder(engine), Recorder(other)
        subscription = engine.subscribe(queue, first, credit=10)
        await send(engine, queue, b"a", b"b")
        await first.count(2)
        other.subscribe(queue, second, credit=10)
        await done(lambda callback: engine.unsubscribe(subscription, callback))
        await second.count(2)
        assert second.bodies == [b"a", b"b"]
        assert {delivery.deliveries for delivery in second.deliveries} == {2}
        await send(engine, queue, b"c")
        await second.count(3)
        assert len(first.bodies) == 2

    play(scenario)


def test_a_closed_engine_releases_what_it_held(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second = Recorder(engine), Recorder(other)
        engine.subscribe(queue, first, credit=10)
        await send(engine, queue, b"a", b"b")
        await first.count(2)
        await engine.close()
        other.subscribe(queue, second, credit=10)
        await second.count(2)
        assert {delivery.deliveries for delivery in second.deliveries} == {2}

    play(scenario)


def test_acking_what_is_not_held_is_refused(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=1)
        await send(engine, queue, b"a")
        await consumer.count(1)
        await done(lambda callback: engine.ack(subscription, consumer.ids, callback))
        with pytest.raises(NotFound):
            await done(lambda callback: engine.ack(subscription, consumer.ids, callback))

    play(scenario)


def test_a_unit_takes_effect_as_a_whole(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=10)
        await send(engine, queue, b"a")
        await consumer.count(1)
        missing = Unit(sends=[Message(queue, b"never")], acks=[(subscription, [*consumer.ids, consumer.ids[0] + 999])])
        with pytest.raises(NotFound):
            await done(lambda callback: engine.transact(missing, callback))
        assert list(subscription.held) == consumer.ids
        unknown = Unit(sends=[Message(queue, b"never"), Message(Address("no.where", "queue", "x"), b"")])
        with pytest.raises(NotFound):
            await done(lambda callback: engine.transact(unknown, callback))
        topic = queue._replace(kind="topic")
        listener = Recorder(engine)
        engine.subscribe(topic, listener, 10)
        good = Unit(sends=[Message(queue, b"b"), Message(topic, b"t")], acks=[(subscription, consumer.ids)])
        await done(lambda callback: engine.transact(good, callback))
        await consumer.count(2)
        assert consumer.bodies == [b"a", b"b"]
        assert listener.bodies == [b"t"]

    play(scenario)


def test_a_refused_unit_gives_back_what_it_would_have_acked(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=1)
        await send(engine, queue, b"a")
        await consumer.count(1)
        unit = Unit(sends=[Message(Address("no.where", "queue", "x"), b"")], acks=[(subscription, consumer.ids)])
        with pytest.raises(NotFound):
            await done(lambda callback: engine.transact(unit, callback))
        await consumer.count(2)
        assert [delivery.deliveries for delivery in consumer.deliveries] == [1, 2]
        with pytest.raises(NotFound):  # named twice: refused, and nothing is let go
            await done(lambda callback: engine.ack(subscription, [consumer.ids[1]] * 2, callback))
        await done(lambda callback: engine.ack(subscription, consumer.ids[1:], callback))

    play(scenario)


def test_an_open_transaction_that_makes_a_destination_holds_up_that_one_alone(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        other = queue._replace(name="other")
        consumer = Recorder(engine, acks=True)
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            await connection.execute("SELECT msgweb.send(%s, %s, 'theirs')", [queue.namespace, queue.name])
            outcome: list[object] = []
            for body in (b"1", b"2"):
                engine.send(Message(queue, body, persistent=True), outcome.append)
            await send(engine, other, b"goes through")
            assert outcome == []
            await connection.commit()
        await sync(engine, other)
        engine.subscribe(queue, consumer, 10)
        await consumer.count(3)
        assert [body for body in consumer.bodies if body != b"theirs"] == [b"1", b"2"]

    play(scenario)


def test_a_consumer_that_raises_stops_nobody_else(play, caplog):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        bad, good = Recorder(engine), Recorder(engine, acks=True)
        bad.deliver = None  # type: ignore[assignment, method-assign]
        subscription = engine.subscribe(queue, bad, 1)
        await send(engine, queue, b"a")
        await sync(engine, queue)
        engine.unsubscribe(subscription)
        engine.subscribe(queue, good, 10)
        await good.count(1)
        assert good.bodies == [b"a"]

    play(scenario)
    assert "a callback failed" in caplog.text


def test_a_bad_message_is_refused_alone(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        outcomes: dict[bytes, object] = {}
        for body, priority in [(b"good", 4), (b"bad", 12), (b"also good", 4)]:
            message = Message(queue, body, persistent=True, priority=priority)
            engine.send(message, lambda error, body=body: outcomes.__setitem__(body, error))
        await sync(engine, queue)
        assert isinstance(outcomes.pop(b"bad"), BadMessage)
        assert outcomes == {b"good": None, b"also good": None}
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await consumer.count(2)
        assert consumer.bodies == [b"good", b"also good"]

    play(scenario)


def test_an_unknown_namespace_is_refused(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        with pytest.raises(NotFound):
            await send(engine, Address("no.where", "queue", "x"), b"")
        consumer = Recorder(engine)
        with pytest.raises(NotFound):
            await done(lambda cb: engine.subscribe(Address("no.where", "queue", "x"), consumer, 1, cb))
        await send(engine, queue, b"the engine lives on")

    play(scenario)


@pytest.mark.parametrize("size", [10, 5_000, 100_000])
def test_topics_reach_every_subscriber_in_every_process(play, size):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        one, two = await open_engine(), await open_engine()
        topic = queue._replace(kind="topic")
        consumers = [Recorder(one), Recorder(one), Recorder(two)]
        for consumer in consumers:
            await done(lambda callback, c=consumer: c.engine.subscribe(topic, c, 100, callback))
        await send(one, topic, b"1" * size)
        for consumer in consumers:
            await consumer.count(1)
        await send(two, topic, b"2" * size)
        for consumer in consumers:
            await consumer.count(2)
            assert consumer.bodies == [b"1" * size, b"2" * size]

    play(scenario)


def test_a_reply_queue_works_across_processes_and_ends_with_its_owner(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        asker, answerer = await open_engine(), await open_engine()
        name = str(uuid.uuid4())
        replies = asker.open_reply_queue(NAMESPACE, name)
        consumer = Recorder(asker, acks=True)
        await done(lambda callback: asker.subscribe(replies, consumer, 10, callback))
        await send(answerer, replies, b"answer")
        await consumer.count(1)
        asker.close_reply_queue(replies)
        await sync(asker, queue)
        await send(answerer, replies, b"to nobody")  # dropped, and done
        assert consumer.bodies == [b"answer"]

    play(scenario)


def test_a_session_that_others_buried_is_fenced_and_succeeded(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second = Recorder(engine), Recorder(other)
        subscription = engine.subscribe(queue, first, credit=1)
        await send(engine, queue, b"a", b"b")
        await first.count(1)
        engine.set_credit(subscription, 0)
        before = engine.session
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            await connection.execute("SELECT msgweb.bury_sessions(ARRAY[%s::int])", [before])
        other.subscribe(queue, second, credit=10)
        await second.count(2)
        assert second.bodies == [b"a", b"b"]
        with pytest.raises((SessionLost, NotFound)):  # whichever noticed first: the fence or the lease
            await done(lambda callback: engine.ack(subscription, first.ids, callback))
        await first.until(lambda: first.lost_count == 1)
        assert engine.session != before
        await send(engine, queue, b"c")

    play(scenario)


def test_a_process_that_froze_within_a_transaction_holds_nothing_up(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await send(engine, queue, b"a")
        frozen = psycopg.conninfo.make_conninfo(conninfo, application_name="msgweb gateway writer frozen")
        async with (
            await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as setting,
            await psycopg.AsyncConnection.connect(frozen) as connection,
        ):
            cursor = await setting.execute(
                "INSERT INTO msgweb.session (kind, host, pid, process, seen_at, expires_at)"
                " VALUES ('gateway', 'h', 1, 'frozen', now(), now() + interval '1 hour') RETURNING id"
            )
            [session] = await cursor.fetchone() or []
            await setting.execute("UPDATE msgweb.message SET session = %s, deliveries = 1", [session])
            await connection.execute("SELECT pg_advisory_xact_lock_shared(1297568601, %s)", [session])
            await setting.execute(
                "UPDATE msgweb.session SET seen_at = now() - interval '2 ms', expires_at = now() - interval '1 ms'"
                " WHERE id = %s",
                [session],
            )
            consumer = Recorder(engine)
            engine.subscribe(queue, consumer, 10)
            await consumer.count(1)
            assert consumer.deliveries[0].deliveries == 2
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")

    play(scenario)


def test_a_broken_connection_loses_and_repeats_nothing(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, credit=50)
        errors: list[object] = []
        finished = asyncio.Event()
        total = 3_000

        def sent(error: object) -> None:
            errors.append(error)
            if len(errors) == total:
                finished.set()

        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            for number in range(total):
                engine.send(Message(queue, b"%d" % number, persistent=True), sent)
                if number % 500 == 250:
                    await consumer.count(number // 2)
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'msgweb%%' AND datname = current_database()"
                    )
        async with asyncio.timeout(30):
            await finished.wait()
        assert set(errors) == {None}
        await consumer.until(lambda: len(set(consumer.bodies)) == total)
        fresh = [delivery.body for delivery in consumer.deliveries if delivery.deliveries == 1]
        assert len(fresh) == len(set(fresh))  # a repeat would say so
        assert consumer.lost_count == 0

    play(scenario)


def test_an_engine_that_cannot_start_leaves_no_connection_behind(conninfo):
    async def scenario() -> None:
        elsewhere = psycopg.conninfo.make_conninfo(conninfo, dbname="postgres")  # there, but without our schema
        async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as connection:
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await PostgresEngine(elsewhere).start()
            async with asyncio.timeout(DEADLINE):  # a backend ends a moment after its client has gone
                left: object = None
                while left != (0,):
                    cursor = await connection.execute(
                        "SELECT count(*) FROM pg_stat_activity"
                        " WHERE datname = 'postgres' AND application_name LIKE 'msgweb %'"
                    )
                    left = await cursor.fetchone()

    asyncio.run(scenario())


def test_outbox_sends_in_the_callers_transaction(play, conninfo):
    def enqueue(queue: Address) -> None:
        with transaction.atomic():
            outbox.send(NAMESPACE, str(queue), "kept", headers={"colour": "a:b"}, content_type="text/plain")
        with transaction.atomic():
            outbox.send(NAMESPACE, str(queue), "rolled back")
            transaction.set_rollback(True)
        outbox.send(NAMESPACE, str(queue), "last")
        with pytest.raises(BadDestination):
            outbox.send(NAMESPACE, "/exchange/x", "")
        with pytest.raises(NotFound):
            outbox.send("no.where", "x", "")
        with pytest.raises(BadMessage):
            outbox.send(NAMESPACE, "x", "", priority=12)
        assert outbox.send(NAMESPACE, "/reply-queue/nobody", "") is None
        connections.close_all()  # this thread's own

    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        await done(lambda callback: engine.subscribe(queue, consumer, 10, callback))
        await asyncio.to_thread(enqueue, queue)
        await consumer.count(2)
        assert consumer.bodies == [b"kept", b"last"]
        assert consumer.deliveries[0].headers in (
            b"colour:a\\cb\ncontent-type:text/plain\n",
            b"content-type:text/plain\ncolour:a\\cb\n",
        )

    play(scenario)


def test_a_flood_in_one_turn_of_the_loop_is_handed_over_up_to_the_credit_and_the_rest_follows(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        await done(lambda callback: engine.subscribe(queue, consumer, 50, callback))
        await sync(engine, queue)
        engine.send(Message(queue._replace(name="sync"), b""))  # the batch that is next is asked for already
        for number in range(251):
            engine.send(Message(queue, b"%03d" % number, persistent=True))
        await consumer.count(251)
        assert consumer.bodies == [b"%03d" % number for number in range(251)]

    play(scenario)
