"""What a queue promises beyond order and competing consumers: time, groups, limits, failure, exclusiveness, keeping."""

import asyncio
import time
from contextlib import closing

import psycopg
import pytest
from django.db import connections, transaction

from apps.broker import outbox
from apps.broker.engine import Address, Engine, Message, Options, Refusal, Repeat, Unit
from apps.broker.headers import decode_headers
from apps.broker.postgres import PostgresEngine
from msgweb.errors import LimitExceeded, NotFound
from tests.conformance.conftest import NAMESPACE, OpenEngine
from tests.conformance.engines import DEADLINE, Recorder, abandon, done, send, sync

pytestmark = pytest.mark.django_db(transaction=True)


async def send_with(engine: Engine, queue: Address, body: bytes, priority: int = 4, **options: object) -> None:
    """Send a message with options, and wait until that is done."""
    message = Message(queue, body, persistent=True, priority=priority, options=Options(**options))  # type: ignore[arg-type]
    await done(lambda callback: engine.send(message, callback))


def dead(queue: Address) -> Address:
    """Where its dead letters go by default."""
    return queue._replace(name=f"DLQ.{queue.name}")


# -- time


def test_an_expired_message_is_never_delivered_and_others_are(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        for number in range(6):
            if number % 2:
                await send_with(engine, queue, b"%d" % number, ttl=0.05)
            else:
                await send(engine, queue, b"%d" % number)
        await send_with(engine, queue, b"long", ttl=3600)
        await asyncio.sleep(0.06)  # what is waited for is the clock itself
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await consumer.count(4)
        assert consumer.bodies == [b"0", b"2", b"4", b"long"]

    play(scenario)


def test_the_queues_ttl_is_the_default_and_the_upper_bound(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, message_ttl=0.05, on_expiry="dead-letter")
        await send(engine, queue, b"default")
        await send_with(engine, queue, b"longer", ttl=3600)
        letters = Recorder(engine)
        engine.subscribe(dead(queue), letters, 10)
        await letters.count(2)
        assert sorted(letters.bodies) == [b"default", b"longer"]
        headers = decode_headers(letters.deliveries[0].headers)
        assert headers["dead-letter-reason"] == "expired"
        assert headers["dead-letter-from"] == str(queue)
        assert headers["dead-letter-deliveries"] == "0"
        assert letters.deliveries[0].deliveries == 1

    play(scenario)


def test_a_delayed_message_comes_when_it_is_due_and_in_the_order_of_that(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        begun = time.monotonic()
        await send_with(engine, queue, b"second", delay=0.4)
        await send_with(engine, queue, b"first", delay=0.2)
        await send(engine, queue, b"now")
        await consumer.count(2)
        assert time.monotonic() - begun >= 0.2
        await consumer.count(3)
        assert time.monotonic() - begun >= 0.4
        assert consumer.bodies == [b"now", b"first", b"second"]

    play(scenario)


def test_a_delayed_message_of_a_process_that_has_gone_comes_all_the_same(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        await send_with(engine, queue, b"late", delay=0.3)
        await engine.close()
        consumer = Recorder(other, acks=True)
        other.subscribe(queue, consumer, 10)
        await consumer.count(1)

    play(scenario)


def test_a_repeated_message_comes_as_often_as_was_asked_for(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        begun = time.monotonic()
        await send_with(engine, queue, b"again", delay=0.2, repeat=Repeat(period=1.0, count=3))
        await consumer.count(3)
        assert time.monotonic() - begun >= 2.2
        await sync(engine, queue)
        assert consumer.bodies == [b"again"] * 3
        assert "schedule-id" in decode_headers(consumer.deliveries[0].headers)

    play(scenario)


def test_a_message_of_a_cron_expression_comes_at_its_times_though_its_sender_has_gone(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        consumer = Recorder(other, acks=True)
        other.subscribe(queue, consumer, 10)
        await send_with(engine, queue, b"tick", priority=7, repeat=Repeat(cron="0 0 1 1 *", timezone="Europe/Berlin"))
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            for number in range(2):
                moved = await connection.execute(  # to a New Year's Eve at midnight, Berlin's
                    "UPDATE msgweb.schedule SET next_at = '2025-12-31 23:00Z', seeking = false"
                    " WHERE destination = msgweb.destination_id(%s, 'queue', %s)",
                    [queue.namespace, queue.name],
                )
                assert moved.rowcount == 1
                await consumer.count(number + 1)
                await engine.close()
        assert consumer.bodies == [b"tick"] * 2
        assert {delivery.priority for delivery in consumer.deliveries} == {7}
        headers = [decode_headers(delivery.headers) for delivery in consumer.deliveries]
        assert {one["scheduled-for"] for one in headers} == {"2025-12-31T23:00:00.000Z"}
        assert len({one["schedule-id"] for one in headers}) == 1

    play(scenario)


# -- groups


def test_messages_of_a_group_come_one_at_a_time_and_in_order(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        for number in range(4):
            await send_with(engine, queue, b"a%d" % number, group="a", priority=4 + number)
            await send_with(engine, queue, b"b%d" % number, group="b")
        await consumer.count(2)
        assert sorted(consumer.bodies) == [b"a0", b"b0"]
        for number in range(1, 4):
            latest = [delivery.id for delivery in consumer.deliveries[-2:]]
            await done(lambda callback, ids=latest: engine.ack(subscription, ids, callback))
            await consumer.count(2 * number + 2)
            await sync(engine, queue)
            assert sorted(consumer.bodies[2 * number :]) == [b"a%d" % number, b"b%d" % number]

    play(scenario)


def test_a_transaction_and_what_follows_it_at_once_stay_in_order(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        grouped = [
            Message(queue, b"%d" % number, persistent=True, options=Options(group=f"g{number % 2}"))
            for number in range(12)
        ]
        for number in range(0, 12, 3):  # all in one turn of the loop, and so in one batch
            engine.send(grouped[number])
            engine.transact(Unit(grouped[number + 1 : number + 3]))
        await sync(engine, queue)
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await consumer.count(12)
        for group in range(2):
            numbers = [int(body) for body in consumer.bodies if int(body) % 2 == group]
            assert numbers == sorted(numbers)

    play(scenario)


def test_a_group_waits_while_its_head_is_retried_and_others_go_on(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        for body, group in [(b"a0", "a"), (b"a1", "a"), (b"b0", "b"), (b"b1", "b")]:
            await send_with(engine, queue, body, group=group)
        subscription = engine.subscribe(queue, consumer, 10)
        await consumer.count(2)
        by_body = {delivery.body: delivery.id for delivery in consumer.deliveries}
        engine.nack(subscription, [by_body[b"a0"]], refusal=Refusal(delay=0.5))
        engine.ack(subscription, [by_body[b"b0"]])
        await consumer.count(3)
        assert consumer.bodies[2] == b"b1"
        await consumer.count(4)
        assert (consumer.bodies[3], consumer.deliveries[3].deliveries) == (b"a0", 2)
        await sync(engine, queue)
        assert len(consumer.bodies) == 4
        engine.ack(subscription, consumer.ids[3:4])
        await consumer.count(5)
        assert consumer.bodies[4] == b"a1"

    play(scenario)


def test_groups_do_not_overlap_between_processes(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engines = [await open_engine(), await open_engine()]
        working: set[str] = set()
        seen: list[bytes] = []
        finished = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Worker(Recorder):
            def deliver(self, subscription, deliveries):
                for delivery in deliveries:
                    assert delivery.group is not None
                    assert delivery.group not in working, "two messages of a group at once"
                    working.add(delivery.group)
                    seen.append(delivery.body)
                    loop.call_later(0.002, self.finish, subscription, delivery)

            def finish(self, subscription, delivery):
                working.discard(delivery.group)
                self.engine.ack(subscription, [delivery.id])
                if len(seen) == 120:
                    finished.set()

        for number in range(120):
            message = Message(queue, b"%d %03d" % (number % 5, number), options=Options(group=f"g{number % 5}"))
            engines[number % 2].send(message)
            if number % 2:
                await sync(engines[1], queue)
            else:
                await sync(engines[0], queue)
        for engine in (*engines, *engines):
            engine.subscribe(queue, Worker(engine), 4)
        async with asyncio.timeout(30):
            await finished.wait()
        for group in range(5):
            of_group = [body for body in seen if body.startswith(b"%d " % group)]
            assert of_group == sorted(of_group)
            assert len(of_group) == 24

    play(scenario)


def test_a_group_stays_with_its_consumer(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumers = [Recorder(engine, acks=True), Recorder(engine, acks=True)]
        for consumer in consumers:
            engine.subscribe(queue, consumer, 5)
        for number in range(20):
            await send_with(engine, queue, b"%d" % number, group="only")
            await sync(engine, queue)
        total = lambda: sum(len(consumer.bodies) for consumer in consumers)  # noqa: E731
        await consumers[0].until(lambda: total() == 20 or bool(consumers[1].bodies))
        await consumers[1].until(lambda: total() == 20 or not consumers[1].bodies)
        assert sorted(len(consumer.bodies) for consumer in consumers) == [0, 20]

    play(scenario)


def test_a_dead_consumers_group_goes_on_in_order_elsewhere(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second = Recorder(engine), Recorder(other, acks=True)
        for number in range(3):
            await send_with(engine, queue, b"%d" % number, group="a")
        subscription = engine.subscribe(queue, first, 10)
        await first.count(1)
        other.subscribe(queue, second, 10)
        engine.unsubscribe(subscription, failed=True)
        await second.count(3)
        assert second.bodies == [b"0", b"1", b"2"]
        assert [delivery.deliveries for delivery in second.deliveries] == [2, 1, 1]

    play(scenario)


# -- deduplication


def test_a_second_message_with_the_same_key_is_dropped_within_the_window_across_processes(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        await send_with(engine, queue, b"1", deduplication="k")
        await send_with(engine, queue, b"2", deduplication="k")
        await send_with(other, queue, b"3", deduplication="k")
        await send_with(engine, queue, b"4", deduplication="other")
        await send_with(engine, queue._replace(name=queue.name + "-b"), b"5", deduplication="k")
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await consumer.count(2)
        await sync(engine, queue)
        await send_with(engine, queue, b"6", deduplication="k")  # consumed long ago, still within the window
        await asyncio.to_thread(configure, queue, deduplication=0.05)
        await send_with(engine, queue, b"7", deduplication="short")
        await asyncio.sleep(0.06)
        await send_with(engine, queue, b"8", deduplication="short")
        await consumer.count(4)
        assert consumer.bodies == [b"1", b"4", b"7", b"8"]

    play(scenario)


def test_a_key_is_remembered_though_all_who_knew_it_have_gone(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await send_with(engine, queue, b"1", deduplication="k")
        await engine.close()
        other = await open_engine()
        await send_with(other, queue, b"2", deduplication="k")
        consumer = Recorder(other, acks=True)
        other.subscribe(queue, consumer, 10)
        await send_with(other, queue, b"3", deduplication="new")
        await consumer.count(2)
        assert consumer.bodies == [b"1", b"3"]

    play(scenario)


# -- limits


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_length=3)
        await send(engine, queue, b"1", b"2", b"3")
        with pytest.raises(LimitExceeded) as refused:
            await send(engine, queue, b"4")
        assert refused.value.code == "queue_full"
        unit = Unit(sends=[Message(queue._replace(name="elsewhere"), b"no"), Message(queue, b"no")])
        with pytest.raises(LimitExceeded):
            await done(lambda callback: engine.transact(unit, callback))
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 1)
        await consumer.count(1)
        await send(engine, queue, b"5")
        with pytest.raises(LimitExceeded):
            await send(engine, queue, b"6")
        engine.set_credit(subscription, 10)
        await consumer.count(4)
        assert consumer.bodies == [b"1", b"2", b"3", b"5"]
        elsewhere = Recorder(engine)
        engine.subscribe(queue._replace(name="elsewhere"), elsewhere, 10)
        await send(engine, queue._replace(name="elsewhere"), b"yes")
        await elsewhere.count(1)
        assert elsewhere.bodies == [b"yes"]

    play(scenario)


def test_a_limit_in_bytes(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_bytes=1000)
        await send(engine, queue, b"x" * 600)
        with pytest.raises(LimitExceeded):
            await send(engine, queue, b"x" * 600)
        await send(engine, queue, b"x" * 300)

    play(scenario)


def test_a_limit_in_bytes_may_drop_from_the_head(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_bytes=1000, overflow="drop-head")
        for body in (b"1" * 400, b"2" * 400, b"3" * 700):
            await send(engine, queue, body)
        consumer, letters = Recorder(engine, acks=True), Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        engine.subscribe(dead(queue), letters, 10)
        await consumer.count(1)
        await letters.count(2)
        assert consumer.bodies == [b"3" * 700]
        assert letters.bodies == [b"1" * 400, b"2" * 400]

    play(scenario)


def test_a_queue_may_drop_from_its_head(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_length=3, overflow="drop-head")
        await send(engine, queue, b"1", b"2", b"3", b"4", b"5")
        consumer, letters = Recorder(engine, acks=True), Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        engine.subscribe(dead(queue), letters, 10)
        await consumer.count(3)
        assert consumer.bodies == [b"3", b"4", b"5"]
        await letters.count(2)
        assert letters.bodies == [b"1", b"2"]
        assert decode_headers(letters.deliveries[0].headers)["dead-letter-reason"] == "overflow"

    play(scenario)


# -- failure


def test_what_is_released_counts_as_no_failure(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_deliveries=1)
        await send(engine, queue, b"patient")
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, credit=1)
        for count in range(1, 4):
            await consumer.count(count)
            assert consumer.deliveries[-1].deliveries == count
            engine.release(subscription, consumer.ids[-1:])
        await consumer.count(4)

    play(scenario)


def test_max_deliveries_and_back_off_then_the_dead_letters_say_why(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_deliveries=3, retry_delay=0.1)
        consumer, letters = Recorder(engine), Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        engine.subscribe(dead(queue), letters, 10)
        engine.send(Message(queue, b"poison", b"colour:red\n", persistent=True))
        begun = time.monotonic()
        for attempt in range(1, 4):
            await consumer.count(attempt)
            assert consumer.deliveries[-1].deliveries == attempt
            await done(lambda callback: engine.nack(subscription, consumer.ids[-1:], callback))
        await letters.count(1)
        assert time.monotonic() - begun >= 0.3  # 0.1, then 0.2
        letter = letters.deliveries[0]
        assert letter.body == b"poison"
        headers = decode_headers(letter.headers)
        assert headers["dead-letter-reason"] == "max-deliveries"
        assert headers["dead-letter-from"] == str(queue)
        assert headers["dead-letter-deliveries"] == "3"
        assert headers["dead-letter-message-id"] == str(consumer.ids[0])
        assert headers["dead-letter-at"].startswith("20")
        assert headers["colour"] == "red"
        assert len(consumer.bodies) == 3

    play(scenario)


def test_a_consumers_death_counts_for_what_it_worked_on_alone(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_deliveries=2)
        await send(engine, queue, b"poison", b"good")
        for _ in range(2):
            consumer = Recorder(engine)
            subscription = engine.subscribe(queue, consumer, 10)
            await consumer.count(2)
            await done(lambda callback, s=subscription: engine.unsubscribe(s, callback, failed=True))
        last = Recorder(engine)
        engine.subscribe(queue, last, 10)
        await last.count(1)
        letters = Recorder(engine)
        engine.subscribe(dead(queue), letters, 10)
        await letters.count(1)
        assert (last.bodies, letters.bodies) == ([b"good"], [b"poison"])
        assert last.deliveries[0].deliveries == 3

    play(scenario)


def test_a_nack_may_ask_for_a_delay_or_for_the_dead_letters(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer, letters = Recorder(engine), Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        engine.subscribe(dead(queue), letters, 10)
        await send(engine, queue, b"later", b"never")
        await consumer.count(2)
        begun = time.monotonic()
        engine.nack(subscription, consumer.ids[:1], refusal=Refusal(delay=0.3))
        engine.nack(subscription, consumer.ids[1:2], refusal=Refusal(dead_letter=True))
        await letters.count(1)
        assert decode_headers(letters.deliveries[0].headers)["dead-letter-reason"] == "rejected"
        await consumer.count(3)
        assert time.monotonic() - begun >= 0.3
        again = consumer.deliveries[2]
        assert (again.body, again.deliveries, again.id) == (b"later", 2, consumer.ids[0])

    play(scenario)


# -- who consumes


def test_the_nacks_of_a_unit_take_effect_with_its_sends_and_acks_or_not_at_all(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, max_deliveries=2)
        consumer, letters = Recorder(engine), Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 2)
        engine.subscribe(dead(queue), letters, 10)
        await send(engine, queue, b"acked", b"nacked")
        await consumer.count(2)
        nowhere = Message(queue._replace(namespace="no.where"), b"")
        acked, nacked = consumer.ids
        refused = Unit([nowhere], acks=[(subscription, [acked])], nacks=[(subscription, [nacked], Refusal())])
        with pytest.raises(NotFound):
            await done(lambda callback: engine.transact(refused, callback))
        await consumer.count(4)  # both come again, and nothing counts as failed
        again = Message(queue._replace(name=f"{queue.name}-next"), b"sent", persistent=True)
        taken = Unit([again], acks=[(subscription, [acked])], nacks=[(subscription, [nacked], Refusal())])
        await done(lambda callback: engine.transact(taken, callback))
        await consumer.count(5)
        assert consumer.bodies[4:] == [b"nacked"]
        next_one = Recorder(engine)
        engine.subscribe(again.address, next_one, 1)
        await next_one.count(1)
        await done(lambda callback: engine.nack(subscription, [nacked], callback))
        await letters.count(1)  # the second failure
        assert letters.bodies == [b"nacked"]

    play(scenario)


def test_an_exclusive_queue_has_one_consumer_and_the_next_takes_over(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        first, second, third = Recorder(engine, acks=True), Recorder(engine, acks=True), Recorder(other, acks=True)
        one = engine.subscribe(queue, first, 5, exclusive=True)
        await send(engine, queue, *[b"%d" % n for n in range(10)])
        await first.count(10)
        two = engine.subscribe(queue, second, 5)
        other.subscribe(queue, third, 5)
        await send(other, queue, b"still")
        await first.count(11)
        await done(lambda callback: engine.unsubscribe(one, callback))
        await send(other, queue, b"next")
        await second.count(1)
        await done(lambda callback: engine.unsubscribe(two, callback))
        await send(engine, queue, b"last")
        await third.count(1)
        assert (second.bodies, third.bodies) == ([b"next"], [b"last"])

    play(scenario)


def test_consumers_of_higher_priority_come_first(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        low, high = Recorder(engine), Recorder(engine)
        engine.subscribe(queue, low, 10)
        await done(lambda callback: engine.subscribe(queue, high, 2, callback, priority=5))
        await send(engine, queue, b"1", b"2", b"3")
        await low.count(1)
        assert (high.bodies, low.bodies) == ([b"1", b"2"], [b"3"])

    play(scenario)


def test_consumers_of_higher_priority_come_first_whichever_process_they_are_at(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        near, far = await open_engine(), await open_engine()
        low, high = Recorder(near), Recorder(far)
        await done(lambda callback: near.subscribe(queue, low, 100, callback))
        await send(near, queue, b"before")
        await low.count(1)
        one = far.subscribe(queue, high, 3, priority=5)
        await near_knows(near, queue, 5)
        for number in range(5):  # two more than the higher one has credit for
            await send(near if number % 2 else far, queue, b"%d" % number)
        await high.count(3)
        await low.count(3)
        assert (sorted(high.bodies), sorted(low.bodies)) == ([b"0", b"1", b"2"], [b"3", b"4", b"before"])
        await done(lambda callback: far.ack(one, high.ids, callback))
        await near_knows(near, queue, 5)
        await send(near, queue, b"5")
        await high.count(4)
        await done(lambda callback: far.unsubscribe(one, callback))  # what it holds is released
        await low.count(4)
        await send(far, queue, b"6")
        await low.count(5)
        assert low.bodies[3:] == [b"5", b"6"]

    play(scenario)


async def near_knows(engine: Engine, queue: Address, bar: int) -> None:
    """Wait until the process leaves what comes to consumers elsewhere that have this priority."""
    assert isinstance(engine, PostgresEngine)
    async with asyncio.timeout(DEADLINE):
        while engine.places.queue(queue).ranks.bar != bar:
            await sync(engine, queue)


def test_a_dead_process_is_not_waited_for_whatever_its_consumers_priority(play, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        near, far = await open_engine(), await open_engine()
        low, high = Recorder(near), Recorder(far)
        near.subscribe(queue, low, 10)
        far.subscribe(queue, high, 10, priority=9)
        await near_knows(near, queue, 9)
        await send(near, queue, b"1")
        await high.count(1)
        assert isinstance(far, PostgresEngine)
        await abandon(far, conninfo)
        await low.count(1)
        await send(near, queue, b"2")
        await low.count(2)
        assert [delivery.deliveries for delivery in low.deliveries] == [2, 1]

    play(scenario)


def test_three_processes_serve_in_the_order_of_their_consumers_priorities(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engines = [await open_engine() for _ in range(3)]
        consumers = [Recorder(engine) for engine in engines]
        for priority, engine in enumerate(engines):
            engine.subscribe(queue, consumers[priority], 2, priority=priority)
        await near_knows(engines[0], queue, 2)
        await near_knows(engines[1], queue, 2)
        for number in range(6):
            await send(engines[number % 3], queue, b"%d" % number)
            await consumers[2 - number // 2].count(number % 2 + 1)
        assert [consumer.bodies for consumer in consumers] == [[b"4", b"5"], [b"2", b"3"], [b"0", b"1"]]

    play(scenario)


def test_who_has_credit_by_its_word_and_leaves_a_message_lying_is_not_waited_for(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        near, far = await open_engine(), await open_engine()
        low, high = Recorder(near, acks=True), Recorder(far, acks=True)
        near.subscribe(queue, low, 10)
        far.subscribe(queue, high, 10, priority=1)
        await near_knows(near, queue, 1)
        assert isinstance(far, PostgresEngine)
        await far._writer.settled()  # a claim that is under way would take it
        flush = far._writer._flush
        far._writer._flush = lambda: None  # as if its program were stuck, while its lease is renewed
        await send(near, queue, b"stuck")
        await low.count(1)
        far._writer._flush = flush
        far._writer._scheduled = False
        far._writer.wake()
        await near_knows(near, queue, 1)
        await send(near, queue, b"goes on")
        await high.count(1)
        assert (low.bodies, high.bodies) == ([b"stuck"], [b"goes on"])

    play(scenario)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_exclusive_consumer_of_higher_priority_takes_over_when_the_other_has_done_what_it_holds(play, elsewhere):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        other = await open_engine() if elsewhere else engine
        first, second = Recorder(engine), Recorder(other)
        one = engine.subscribe(queue, first, 1, exclusive=True)
        bodies = [b"%d" % n for n in range(40)]
        await send(engine, queue, *bodies)
        await first.count(1)
        two = other.subscribe(queue, second, 1, priority=1)
        await sync(other, queue)
        await sync(engine, queue)
        assert second.bodies == []  # while the first one works
        acked = 0
        async with asyncio.timeout(DEADLINE):
            while not second.deliveries:
                # The word of the second one may be on its way to another process, which goes on until it is heard.
                assert elsewhere or len(first.ids) == 1
                for message in first.ids[acked:]:
                    await done(lambda callback, message=message: engine.ack(one, [message], callback))
                    acked += 1
                await second.sleep()
        assert acked == len(first.bodies) < len(bodies)
        await done(lambda callback: other.unsubscribe(two, callback))
        await first.count(acked + 1)
        assert (first.bodies, second.bodies) == (bodies[: acked + 1], [bodies[acked]])

    play(scenario)


def test_a_paused_queue_takes_messages_and_delivers_none_until_it_is_resumed(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await send(engine, queue, b"before")
        await consumer.count(1)
        await asyncio.to_thread(configure, queue, paused=True)
        await sync(engine, queue)  # a batch: from now on this process knows
        await send(engine, queue, b"during")
        await sync(engine, queue)
        assert consumer.bodies == [b"before"]
        await asyncio.to_thread(configure, queue, paused=False)
        await consumer.count(2)

    play(scenario)


class Coloured:
    """The simplest selector."""

    def __init__(self, colour: str) -> None:
        self.colour = colour

    def matches(self, headers):
        return headers.get("colour") == self.colour


def test_a_selector_gets_what_it_matches_in_order_and_leaves_the_rest(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        red, blue, rest = Recorder(engine, acks=True), Recorder(other, acks=True), Recorder(other)
        colours = [b"red", b"blue", b"green"]

        def paint(number: int) -> Message:
            return Message(queue, b"%04d" % number, b"colour:%b\n" % colours[number % 3], persistent=True)

        for number in range(1500):
            engine.send(paint(number))
        await sync(engine, queue)
        engine.subscribe(queue, red, 7, selector=Coloured("red"))
        other.subscribe(queue, blue, 7, selector=Coloured("blue"))
        await red.count(500)
        await blue.count(500)
        for number in range(1500, 1530):
            other.send(paint(number))
        await red.count(510)
        await blue.count(510)
        assert red.bodies == [b"%04d" % number for number in range(0, 1530, 3)]
        assert blue.bodies == [b"%04d" % number for number in range(1, 1530, 3)]
        other.subscribe(queue, rest, 1000)
        await rest.count(510)
        assert rest.bodies == [b"%04d" % number for number in range(2, 1530, 3)]

    play(scenario)


def test_a_released_message_comes_back_to_who_has_the_selector_for_it(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        red, again = Recorder(engine), Recorder(engine)
        for colour in (b"red", b"green", b"red"):
            engine.send(Message(queue, colour, b"colour:%b\n" % colour))
        first = engine.subscribe(queue, red, 10, selector=Coloured("red"))
        await red.count(2)
        await done(lambda callback: engine.nack(first, red.ids[:1], callback))
        await red.count(3)
        assert (red.ids[2], red.deliveries[2].deliveries) == (red.ids[0], 2)
        await done(lambda callback: engine.unsubscribe(first, callback))
        engine.subscribe(queue, again, 10, selector=Coloured("red"))
        await again.count(2)
        assert again.ids == red.ids[:2]

    play(scenario)


# -- groups and selectors


def coloured(queue: Address, colour: str, body: bytes, group: str | None = "g", priority: int = 4) -> Message:
    """A message that the selector `Coloured` looks at."""
    options = Options(group=group) if group else None
    return Message(queue, body, b"colour:%b\n" % colour.encode(), persistent=True, priority=priority, options=options)


async def send_all(engine: Engine, *messages: Message) -> None:
    """Send them, and wait until that is done."""
    for message in messages:
        engine.send(message)
    await sync(engine, messages[-1].address)


def test_a_selector_gets_a_groups_messages_one_at_a_time_and_in_order(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        red = Recorder(engine)
        subscription = engine.subscribe(queue, red, 10, selector=Coloured("red"))
        for number in range(3):
            for group in "ab":
                await send_all(other, coloured(queue, "red", b"%b%d" % (group.encode(), number), group, 4 + number))
        for number in range(3):
            await red.count(2 * number + 2)
            await sync(engine, queue)
            assert sorted(red.bodies[2 * number :]) == [b"a%d" % number, b"b%d" % number]
            latest = red.ids[-2:]
            await done(lambda callback, ids=latest: engine.ack(subscription, ids, callback))

    play(scenario)


def test_a_group_whose_first_message_nobody_selects_waits_and_others_go_on(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        red, blue = Recorder(engine, acks=True), Recorder(other, acks=True)
        engine.subscribe(queue, red, 10, selector=Coloured("red"))
        await send_all(
            engine,
            coloured(queue, "blue", b"a0", "a"),
            coloured(queue, "red", b"a1", "a"),
            coloured(queue, "blue", b"a2", "a"),
            coloured(queue, "red", b"b0", "b"),
            coloured(queue, "red", b"b1", "b"),
            coloured(queue, "red", b"alone", None),
        )
        await red.count(3)
        await sync(engine, queue)
        assert sorted(red.bodies) == [b"alone", b"b0", b"b1"]
        assert red.bodies.index(b"b0") < red.bodies.index(b"b1")
        other.subscribe(queue, blue, 10, selector=Coloured("blue"))
        await blue.count(2)
        await red.count(4)
        assert (blue.bodies, red.bodies[3]) == ([b"a0", b"a2"], b"a1")

    play(scenario)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_group_goes_from_consumer_to_consumer_as_their_selectors_have_it(play, elsewhere):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        other = await open_engine() if elsewhere else engine
        seen: list[bytes] = []

        class Working(Recorder):
            def deliver(self, subscription, deliveries):
                seen.extend(delivery.body for delivery in deliveries)
                super().deliver(subscription, deliveries)

        red, blue = Working(engine, acks=True), Working(other, acks=True)
        engine.subscribe(queue, red, 10, selector=Coloured("red"))
        other.subscribe(queue, blue, 10, selector=Coloured("blue"))
        colours = ["red", "red", "blue", "red", "blue", "blue"] * 10
        await send_all(engine, *[coloured(queue, colour, b"%03d" % n) for n, colour in enumerate(colours)])
        await red.count(30)
        await blue.count(30)
        assert seen == [b"%03d" % number for number in range(60)]

    play(scenario)


def test_a_group_stays_with_the_consumer_that_selects_it_though_others_have_credit(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        first, second, rest = (Recorder(engine, acks=True) for _ in range(3))
        engine.subscribe(queue, first, 5, selector=Coloured("red"))
        await send_all(engine, coloured(queue, "red", b"0"))
        await first.count(1)
        engine.subscribe(queue, second, 5, selector=Coloured("red"))
        engine.subscribe(queue, rest, 5)
        for number in range(1, 20):
            await send_all(engine, coloured(queue, "red", b"%d" % number))
        await first.count(20)
        await send_all(engine, coloured(queue, "blue", b"blue"))
        await rest.count(1)
        assert (second.bodies, rest.bodies) == ([], [b"blue"])

    play(scenario)


def test_a_refused_message_of_a_group_comes_again_to_who_selects_it_before_its_successors(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        red, again = Recorder(engine), Recorder(other, acks=True)
        subscription = engine.subscribe(queue, red, 10, selector=Coloured("red"))
        await send_all(engine, coloured(queue, "red", b"0"), coloured(queue, "red", b"1"))
        await red.count(1)
        await done(lambda callback: engine.nack(subscription, red.ids, callback, Refusal(delay=0.2)))
        await red.count(2)
        assert (red.bodies, red.deliveries[1].deliveries) == ([b"0", b"0"], 2)
        other.subscribe(queue, again, 10, selector=Coloured("red"))
        await done(lambda callback: engine.unsubscribe(subscription, callback, failed=True))
        await again.count(2)
        assert again.bodies == [b"0", b"1"]

    play(scenario)


# -- keeping


def test_a_queue_may_keep_what_was_acked(play, configure, conninfo):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await asyncio.to_thread(configure, queue, keep_for=3600)
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        engine.send(Message(queue, b"a", b"correlation-id:c\\c1\n", persistent=True))
        await send(engine, queue, b"b")
        await consumer.count(2)
        await done(lambda callback: engine.ack(subscription, consumer.ids[:1], callback))
        kept = await asyncio.to_thread(
            rows, conninfo, "SELECT id, body, correlation_id FROM msgweb.kept_message", queue
        )
        assert kept == [(consumer.ids[0], b"a", "c\\c1")]

    play(scenario)


def rows(conninfo, query, queue):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = connection.execute(
            query + " WHERE destination = msgweb.destination_id(%s, 'queue', %s)", [queue.namespace, queue.name]
        )
        return found.fetchall()


# -- in the sender's own transaction


def test_sql_and_django_send_with_every_option_in_their_own_transaction(play, configure):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        begun = time.monotonic()

        def commit() -> None:
            with closing(connections["default"]), transaction.atomic():
                outbox.send(NAMESPACE, str(queue), "g0", group="g", ttl=60)
                outbox.send(NAMESPACE, str(queue), "g1", group="g")
                outbox.send(NAMESPACE, str(queue), "late", delay=0.3)
                assert outbox.send(NAMESPACE, str(queue), "once", deduplication="k") is not None
                assert outbox.send(NAMESPACE, str(queue), "twice", deduplication="k") is None

        await asyncio.to_thread(commit)
        await consumer.count(2)
        assert sorted(consumer.bodies) == [b"g0", b"once"]
        engine.ack(subscription, consumer.ids[:2])
        await consumer.count(4)
        assert time.monotonic() - begun >= 0.3
        assert sorted(consumer.bodies[2:]) == [b"g1", b"late"]

    play(scenario)
