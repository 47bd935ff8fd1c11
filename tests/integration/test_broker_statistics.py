"""Statistics: what processes count, what SQL counts, and that rolling up changes no sum."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.accounts.models import Namespace
from apps.broker import catalogue, outbox, queue_settings, statistics
from apps.broker.engine import Address, Delivery, Message, Refusal, Subscription
from apps.broker.postgres import PostgresEngine
from apps.broker.selectors import parse
from tests.conformance.engines import Recorder, done, send

pytestmark = pytest.mark.django_db(transaction=True)
N = "statistics.test"


@pytest.fixture
def queue() -> Address:
    Namespace.objects.get_or_create(name=N)
    return Address(N, "queue", f"q-{uuid.uuid4()}")


def total(queue: Address, minutes: int = 5) -> dict[str, int]:
    """The sums of the last minutes."""
    now = datetime.now(UTC)
    points = statistics.series(
        queue.namespace, queue.name, now - timedelta(minutes=minutes), now + timedelta(seconds=20)
    )
    return {name: sum(getattr(point, name) for point in points) for name in statistics.COUNTED}


def test_what_an_engine_did_is_written_down(conninfo, queue):
    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        await send(engine, queue, b"12345", b"12345", b"12345")
        await consumer.count(3)
        engine.ack(subscription, consumer.ids[:1])
        engine.nack(subscription, consumer.ids[1:2])
        await consumer.count(4)
        await done(lambda callback: engine.nack(subscription, consumer.ids[2:3], callback, Refusal(dead_letter=True)))
        headed = Message(queue, b"12345", b"colour:red\n")
        await done(lambda callback: engine.send(headed, callback))
        await consumer.count(5)
        await engine.close()  # writes what was counted last

    asyncio.run(work())
    outbox.send(N, queue.name, "123")
    found = total(queue)
    assert {name: found[name] for name in ("sent", "delivered", "acked", "redelivered", "failed", "dead_lettered")} == {
        "sent": 5,
        "delivered": 5,
        "acked": 1,
        "redelivered": 1,
        "failed": 2,
        "dead_lettered": 1,
    }
    assert (found["sent_bytes"], found["delivered_bytes"]) == (34, 36)


def test_what_sql_counted_is_shown_at_once_and_folded_once(conninfo, queue):
    for _ in range(3):
        outbox.send(N, queue.name, "12345")
    assert (total(queue)["sent"], total(queue)["sent_bytes"]) == (3, 15)
    rows = "SELECT count(*) FROM {} s JOIN msgweb.destination d ON d.id = s.destination WHERE d.name = %s"
    with psycopg.connect(conninfo, autocommit=True) as one, psycopg.connect(conninfo) as two:
        two.execute("SELECT pg_advisory_xact_lock(1297568602, 2)")
        one.execute("SELECT msgweb.fold_tally()")  # another is at it
        assert one.execute(rows.format("msgweb.tally"), [queue.name]).fetchone() == (3,)
        two.commit()
        one.execute("SELECT msgweb.fold_tally()")
        assert one.execute(rows.format("msgweb.tally"), [queue.name]).fetchone() == (0,)
        found = one.execute(rows.format("msgweb.statistic"), [queue.name]).fetchone()
    assert found is not None
    assert found[0] in (1, 2)  # two, if ten seconds were over in between
    assert (total(queue)["sent"], total(queue)["sent_bytes"]) == (3, 15)


def test_topics_count_deliveries(conninfo, queue):
    topic = queue._replace(kind="topic")

    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        consumers = [Recorder(engine), Recorder(engine)]
        for consumer in consumers:
            engine.subscribe(topic, consumer, 10)
        await send(engine, topic, b"x", b"y")
        await send(engine, queue, b"so that the topic has an id")
        await engine.close()

    asyncio.run(work())
    now = datetime.now(UTC)
    points = statistics.series(N, topic.name, now - timedelta(minutes=1), now + timedelta(seconds=20), kind="topic")
    assert (sum(point.sent for point in points), sum(point.delivered for point in points)) == (2, 4)


def of_topic(topic: Address) -> tuple[int, int, int, int]:
    """What was sent, delivered, in messages and bytes, and dropped in the last minute."""
    now = datetime.now(UTC)
    points = statistics.series(N, topic.name, now - timedelta(minutes=1), now + timedelta(seconds=20), kind="topic")
    sums = [[point.sent, point.delivered, point.delivered_bytes, point.dropped] for point in points]
    sent, delivered, delivered_bytes, dropped = (sum(column) for column in zip(*sums, strict=True))
    return sent, delivered, delivered_bytes, dropped


class Slow(Recorder):
    """Drops every second message, as a consumer does whose reader is slow."""

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        super().deliver(subscription, deliveries)
        if len(self.deliveries) % 2 == 0:
            subscription.drop(deliveries)


def test_what_slow_subscribers_of_a_topic_drop_is_counted_though_they_leave_and_named_a_pattern(conninfo, queue):
    topic = queue._replace(kind="topic", name=f"drop.{uuid.uuid4()}")

    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        by_name, by_pattern, by_selector = Slow(engine), Slow(engine), Recorder(engine)
        left = engine.subscribe(topic, by_name, 10)
        engine.subscribe(topic._replace(name="drop.*"), by_pattern, 10)
        engine.subscribe(topic, by_selector, 10, selector=parse("colour = 'red'"))
        await send(engine, topic, b"12", b"12", b"12", b"12")
        engine.unsubscribe(left)
        await send(engine, topic, b"12", b"12")
        await send(engine, queue, b"so that the topic has an id")
        await engine.close()

    asyncio.run(work())
    assert of_topic(topic) == (6, 5, 10, 5)


def test_deliveries_by_a_pattern_are_counted_where_nobody_has_named_the_topic(conninfo, queue):
    topic = queue._replace(kind="topic", name=f"far.{uuid.uuid4()}")

    async def work() -> None:
        here, elsewhere = PostgresEngine(conninfo), PostgresEngine(conninfo)
        await here.start()
        await elsewhere.start()
        consumer = Recorder(here)
        here.subscribe(topic._replace(name="far.#"), consumer, 10)
        await send(elsewhere, topic, b"123", b"123")
        await consumer.count(2)
        here._keeper.statistics.collect()  # as it does every ten seconds; the topic has no id here before
        await send(here, queue, b"so that the topic has one")
        await here.close()
        await elsewhere.close()

    asyncio.run(work())
    assert of_topic(topic) == (2, 2, 6, 0)


def test_gauges_say_what_waits_what_is_held_and_how_old_the_oldest_is_whatever_its_priority(conninfo, queue):
    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        consumer = Recorder(engine)
        engine.subscribe(queue, consumer, 2)
        await send(engine, queue, *[b"%d" % number for number in range(4)])
        await consumer.count(2)
        await send(engine, queue, b"urgent", priority=9)
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            await connection.execute(
                "UPDATE msgweb.message SET enqueued_at = enqueued_at - interval '1 hour'"
                " WHERE priority = 4 AND destination = msgweb.destination_id(%s, 'queue', %s)",
                [N, queue.name],
            )
            await connection.execute("TRUNCATE msgweb.statistic")  # of this moment's samples by others
            await connection.execute("SELECT msgweb.sample_queues()")
        await engine.close()

    asyncio.run(work())
    now = datetime.now(UTC)
    points = statistics.series(N, queue.name, now - timedelta(minutes=1), now + timedelta(seconds=20))
    [point] = [point for point in points if point.ready is not None]
    assert (point.ready, point.in_flight) == (3, 2)
    assert point.oldest_age is not None
    assert 3600 <= point.oldest_age < 7200
    [listed] = [one for one in catalogue.queues(N) if one.name == queue.name]
    assert listed.oldest_age is not None
    assert 3600 <= listed.oldest_age < 7200


def test_what_expired_and_what_a_full_queue_dropped_is_counted(conninfo, queue):
    outbox.send(N, queue.name, "x", ttl=3600)
    queue_settings.change(N, queue.name, {"max_length": 2, "overflow": "drop-head"})
    for _ in range(3):
        outbox.send(N, queue.name, "x")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        outbox.send(N, f"{queue.name}-mortal", "x", ttl=3600)
        connection.execute("UPDATE msgweb.message SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL")
        connection.execute("SELECT msgweb.sweep()")
    found = total(queue)
    assert (found["sent"], found["dead_lettered"]) == (4, 2)
    assert total(queue._replace(name=f"{queue.name}-mortal"))["expired"] == 1


def test_two_that_count_at_the_same_queue_do_not_wait_for_each_other(conninfo, queue):
    """No row is written twice: two open transactions count, and the engine writes down what it counted."""
    outbox.send(N, queue.name, "x")

    async def work() -> None:
        async with (
            await psycopg.AsyncConnection.connect(conninfo) as one,
            await psycopg.AsyncConnection.connect(conninfo) as two,
        ):
            for connection in (one, two):
                await connection.execute("SET LOCAL lock_timeout = '1ms'")
                await connection.execute("SELECT msgweb.send(%s, %s, 'x')", [N, queue.name])
            engine = PostgresEngine(conninfo)
            await engine.start()
            await send(engine, queue, b"x")
            await engine.close()
            cursor = await two.execute(
                "SELECT sum(s.sent) FROM msgweb.statistic s JOIN msgweb.destination d ON d.id = s.destination"
                " WHERE d.name = %s",
                [queue.name],
            )
            assert await cursor.fetchone() == (2,)  # the first, and the engine's
            await one.commit()
            await two.commit()

    asyncio.run(work())
    assert total(queue)["sent"] == 4


def test_gauges_are_sampled_once_by_whoever_comes_first(conninfo, queue):
    for _ in range(3):
        outbox.send(N, queue.name, "x")
    with psycopg.connect(conninfo, autocommit=True) as one, psycopg.connect(conninfo) as two:
        one.execute("TRUNCATE msgweb.statistic")  # of this moment's samples by others
        two.execute("SELECT pg_advisory_xact_lock(1297568602, 0)")
        assert one.execute("SELECT msgweb.sample_queues()").fetchone() == (False,)  # another is at it
        two.commit()
        one.execute("SELECT msgweb.sample_queues()")
        [[samples]] = one.execute(
            "SELECT count(*) FROM msgweb.statistic s JOIN msgweb.destination d ON d.id = s.destination"
            " WHERE d.name = %s AND s.ready = 3",
            [queue.name],
        ).fetchall()
    assert samples == 1


def test_the_list_of_queues_shows_rates(conninfo, queue):
    outbox.send(N, queue.name, "x")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DELETE FROM msgweb.tally")
        for later in (0, 10):  # if ten seconds are over in the meantime, it is the same
            connection.execute(
                "INSERT INTO msgweb.statistic (resolution, at, destination, sent)"
                f" SELECT 10, {statistics.LATEST} + %s * interval '1 second', id, 20"
                " FROM msgweb.destination WHERE name = %s",
                [later, queue.name],
            )
    (found,) = [one for one in catalogue.queues(N) if one.name == queue.name]
    assert found.rates.sent == 2.0


ages = st.integers(0, 500 * 86_400)  # seconds


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ages, st.integers(0, 1000), st.integers(1, 2)), min_size=1, max_size=30))
def test_rolling_up_changes_no_sum_and_leaves_nothing_finer_than_it_should(conninfo, rows):
    moment = datetime(2026, 6, 1, 12, tzinfo=UTC)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE msgweb.statistic")
        for age, sent, destination in rows:
            connection.execute(
                "INSERT INTO msgweb.statistic (resolution, at, destination, sent, ready)"
                " VALUES (10, date_bin('10 seconds', %s, '2000-01-01'), %s, %s, %s)",
                [moment - timedelta(seconds=age), destination, sent, sent],
            )
        kept = sum(sent for age, sent, _ in rows if age < 365 * 86_400)
        for _ in range(2):
            connection.execute("SELECT msgweb.roll_up_statistics(%s)", [moment])
        found = connection.execute("SELECT resolution, at, sent, ready FROM msgweb.statistic").fetchall()
    edge = {sent for age, sent, _ in rows if abs(age - 365 * 86_400) <= 2 * 86_400}
    assert edge or sum(row[2] for row in found) == kept
    for resolution, at, sent, ready in found:
        age = (moment - at).total_seconds()
        assert age <= {10: 3700, 60: 90_100, 3600: 366 * 86_400}[resolution]
        assert ready is not None
        assert ready <= sent


def test_a_process_without_a_database_keeps_its_counts(conninfo, queue):
    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        await done(lambda callback: engine.send(Message(queue, b"x"), callback))
        writer = engine._keeper.statistics
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        await connection.close()
        with pytest.raises(psycopg.OperationalError):
            await writer.write(connection, 1e12)
        await done(lambda callback: engine.send(Message(queue, b"x"), callback))
        await engine.close()

    asyncio.run(work())
    with closing(connections["default"]):
        assert total(queue)["sent"] == 2


def test_counts_whose_writing_was_cancelled_midway_are_written_once(conninfo, queue):
    waits = "SELECT count(*) FROM pg_locks WHERE relation = 'msgweb.statistic'::regclass AND NOT granted"

    async def work() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        await done(lambda callback: engine.send(Message(queue, b"x"), callback))
        writer = engine._keeper.statistics
        async with (
            await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection,
            await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as watch,
            await psycopg.AsyncConnection.connect(conninfo) as blocker,
        ):
            await blocker.execute("LOCK TABLE msgweb.statistic IN ACCESS EXCLUSIVE MODE")
            writing = asyncio.create_task(writer.write(connection, 1e12))
            while (await (await watch.execute(waits)).fetchone()) == (0,):
                pass
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await blocker.rollback()
            await writer.write(connection, 2e12)
        await engine.close()

    asyncio.run(work())
    assert total(queue)["sent"] == 1
