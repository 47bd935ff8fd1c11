"""Claimed ahead of the credit: quick consumers do not wait for a commit each, and nothing of the order changes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Delivery, Message, Subscription
from apps.broker.postgres import PostgresEngine
from tests.conformance.engines import DEADLINE, Recorder, abandon, done, send

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "ahead.test"


@pytest.fixture
def queue() -> Address:
    Namespace.objects.get_or_create(name=NAMESPACE)
    return Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}")


@asynccontextmanager
async def started(conninfo: str) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(conninfo)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def numbers(first: int, beyond: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, beyond)]


async def with_some_at_hand(engine: PostgresEngine, queue: Address, count: int = 200) -> tuple[Recorder, Subscription]:
    """A consumer of one message at a time that was quick until messages lay at hand; it holds the last one it got."""
    consumer = Recorder(engine)
    subscription = engine.subscribe(queue, consumer, 1)
    for number in range(1, count):
        await consumer.count(number)
        if number > 10 and engine.places.queue(queue).ahead:
            return consumer, subscription
        engine.ack(subscription, consumer.ids[-1:])
    raise AssertionError("nothing was claimed ahead")


def states(conninfo: str, queue: Address) -> dict[bytes, tuple[bool, int]]:
    """Whether each message is held, and its count of deliveries."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT m.body, m.session IS NOT NULL, m.deliveries FROM msgweb.message m"
            " JOIN msgweb.destination d ON d.id = m.destination WHERE d.name = %s",
            [queue.name],
        ).fetchall()
    return {bytes(body): (held, deliveries) for body, held, deliveries in rows}


def test_a_quick_consumer_of_one_message_at_a_time_costs_less_than_a_commit_each(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine:
            await send(engine, queue, *numbers(0, 1_000))
            before = engine._writer.settled_batch
            consumer = Recorder(engine, acks=True)
            engine.subscribe(queue, consumer, 1)
            await consumer.count(1_000)
            assert consumer.bodies == numbers(0, 1_000)
            assert all(delivery.deliveries == 1 for delivery in consumer.deliveries)
            assert engine._writer.settled_batch - before < 500

    asyncio.run(scenario())


def test_what_nobody_takes_goes_back_as_if_it_had_never_been_claimed(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine:
            await send(engine, queue, *numbers(0, 200))
            consumer, _ = await with_some_at_hand(engine, queue)
            async with asyncio.timeout(DEADLINE):
                while engine.places.queue(queue).ahead:
                    await asyncio.sleep(0.01)
            await done(lambda callback: engine.send(Message(queue, b"last"), callback))
            waiting = states(conninfo, queue)
            assert {body for body, (held, _) in waiting.items() if held} == {consumer.bodies[-1]}
            assert {count for held, count in waiting.values() if not held} == {0}

    asyncio.run(scenario())


def test_a_refused_message_comes_before_what_lies_at_hand(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine:
            await send(engine, queue, *numbers(0, 200))
            consumer, subscription = await with_some_at_hand(engine, queue)
            refused = consumer.bodies[-1]
            came = len(consumer.deliveries)
            engine.nack(subscription, consumer.ids[-1:])
            await consumer.count(came + 1)
            assert consumer.bodies[-1] == refused and consumer.deliveries[-1].deliveries == 2
            consumer.acks = True
            engine.ack(subscription, consumer.ids[-1:])
            await consumer.count(201)
            assert consumer.bodies[:came] + consumer.bodies[came + 1 :] == numbers(0, 200)

    asyncio.run(scenario())


@pytest.mark.parametrize("from_elsewhere", [False, True])
def test_a_higher_priority_comes_before_what_lies_at_hand(conninfo, queue, from_elsewhere):
    async def scenario() -> None:
        async with started(conninfo) as engine, started(conninfo) as other:
            await send(engine, queue, *numbers(0, 200))
            consumer, subscription = await with_some_at_hand(engine, queue)
            await send(other if from_elsewhere else engine, queue, b"urgent", priority=9)
            async with asyncio.timeout(DEADLINE):
                while engine.places.queue(queue).ahead:  # until the other's word has come
                    await asyncio.sleep(0)
            came = len(consumer.deliveries)
            engine.ack(subscription, consumer.ids[-1:])
            await consumer.count(came + 1)
            assert consumer.bodies[-1] == b"urgent"

    asyncio.run(scenario())


def test_who_comes_second_gets_nothing_before_what_lay_at_hand(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine, started(conninfo) as other:
            await send(engine, queue, *numbers(0, 200))
            consumer, subscription = await with_some_at_hand(engine, queue)
            came: list[bytes] = []

            class Witness(Recorder):
                def deliver(self, subscription: Subscription, deliveries: list[Delivery]) -> None:
                    came.extend(delivery.body for delivery in deliveries)
                    super().deliver(subscription, deliveries)

            second = Witness(other)
            other.subscribe(queue, second, 3)
            await second.count(3)
            assert came == numbers(len(consumer.bodies), len(consumer.bodies) + 3)
            assert not engine.places.queue(queue).alone
            engine.ack(subscription, consumer.ids[-1:])
            await consumer.count(len(consumer.bodies) + 1)
            assert consumer.bodies[-1] == b"%d" % (len(consumer.bodies) + 2)

    asyncio.run(scenario())


def test_a_process_that_is_alone_and_does_not_answer_is_waited_for_briefly(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as engine, started(conninfo) as frozen:
            await send(engine, queue, b"a")
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute(
                    "SELECT msgweb.join_queue(msgweb.destination_id(%s, 'queue', %s), %s, false)",
                    [NAMESPACE, queue.name, frozen.session],
                )
            consumer = Recorder(engine)
            engine.subscribe(queue, consumer, 1)
            await consumer.count(1)

    asyncio.run(scenario())


def test_a_crash_loses_nothing_of_what_lay_at_hand_and_marks_it(conninfo, queue):
    async def scenario() -> None:
        async with started(conninfo) as heir:
            engine = PostgresEngine(conninfo)
            await engine.start()
            await send(engine, queue, *numbers(0, 200))
            consumer, _ = await with_some_at_hand(engine, queue)
            at_hand = len(engine.places.queue(queue).ahead)
            await abandon(engine, conninfo)
            rest = Recorder(heir, acks=True)
            heir.subscribe(queue, rest, 500)
            first = len(consumer.bodies) - 1  # its last one was not acked
            await rest.until(lambda: set(rest.bodies) >= set(numbers(first, 200)))
            again = [delivery for delivery in rest.deliveries if delivery.deliveries > 1]
            assert len(again) >= at_hand and rest.bodies == sorted(rest.bodies, key=int)

    asyncio.run(scenario())


def test_a_crash_counts_as_no_failure_and_dead_letters_nothing_whoever_had_it(conninfo, queue):
    """Neither what lay at hand, which nobody was given, nor what a consumer held when its server died."""

    async def scenario() -> None:
        async with started(conninfo) as heir:
            await send(heir, queue, *numbers(0, 60))
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("UPDATE msgweb.destination SET max_deliveries = 1 WHERE name = %s", [queue.name])
            acked: set[bytes] = set()
            for _ in range(3):
                engine = PostgresEngine(conninfo)
                await engine.start()
                consumer, _ = await with_some_at_hand(engine, queue, 15)
                acked |= set(consumer.bodies[:-1])
                await abandon(engine, conninfo)
            rest, letters = Recorder(heir, acks=True), Recorder(heir)
            heir.subscribe(queue, rest, 500)
            heir.subscribe(queue._replace(name=f"DLQ.{queue.name}"), letters, 500)
            await rest.until(lambda: set(rest.bodies) >= set(numbers(0, 60)) - acked)
            await done(lambda callback: heir.send(Message(queue._replace(name="sync"), b""), callback))
            assert letters.bodies == []
            assert any(delivery.deliveries > 1 for delivery in rest.deliveries)

    asyncio.run(scenario())
