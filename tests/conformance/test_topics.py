"""Topics beyond exact names: patterns, selectors, and queues that get what is sent to a topic."""

import asyncio
from contextlib import closing

import pytest
from django.db import connections

from apps.broker import outbox
from apps.broker.engine import Address, Message, Unit
from apps.broker.headers import decode_headers
from apps.broker.selectors import parse
from msgweb.errors import BadDestination
from tests.conformance.conftest import NAMESPACE, OpenEngine
from tests.conformance.engines import Recorder, done, send, sync

pytestmark = pytest.mark.django_db(transaction=True)


def topic(queue: Address, name: str) -> Address:
    """A topic that nobody else has."""
    return queue._replace(kind="topic", name=f"{queue.name}.{name}")


def test_patterns_reach_subscribers_in_every_process(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        one, two = await open_engine(), await open_engine()
        exact, star, rest = Recorder(one), Recorder(one), Recorder(two)
        one.subscribe(topic(queue, "price.tea"), exact, 10)
        one.subscribe(topic(queue, "price.*"), star, 10)
        everything = two.subscribe(topic(queue, "#"), rest, 10)
        await sync(two, queue)
        for name in ("price.tea", "price.tea.oolong", "news", "price.coffee"):
            await send(one, topic(queue, name), name.encode())
        await rest.count(4)
        assert exact.bodies == [b"price.tea"]
        assert star.bodies == [b"price.tea", b"price.coffee"]
        assert rest.bodies == [b"price.tea", b"price.tea.oolong", b"news", b"price.coffee"]
        assert rest.deliveries[1].address == topic(queue, "price.tea.oolong")
        two.unsubscribe(everything)
        await send(two, topic(queue, "price.last"), b"last")
        await star.count(3)
        assert len(rest.bodies) == 4
        with pytest.raises(BadDestination):
            one.send(Message(topic(queue, "price.*"), b""))

    play(scenario)


def test_a_selector_of_a_topics_subscriber(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        red, everything = Recorder(engine), Recorder(engine)
        engine.subscribe(topic(queue, "t"), red, 10, selector=parse("colour = 'red'"))
        engine.subscribe(topic(queue, "t"), everything, 10)
        for colour in (b"red", b"blue", b"red"):
            engine.send(Message(topic(queue, "t"), colour, b"colour:%b\n" % colour))
        await everything.count(3)
        assert red.bodies == [b"red", b"red"]

    play(scenario)


def test_a_bound_queue_gets_what_is_sent_to_the_topic_whoever_sends_it(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine, other = await open_engine(), await open_engine()
        await done(lambda callback: engine.bind(topic(queue, "orders.#"), queue, callback))
        await done(lambda callback: engine.bind(topic(queue, "orders.#"), queue, callback))  # twice is once
        await send(engine, topic(queue, "orders.new"), b"engine", persistent=True)
        unit = Unit(sends=[Message(topic(queue, "orders"), b"unit", persistent=True)])
        await done(lambda callback: engine.transact(unit, callback))
        await sync(other, queue)  # a batch: from now on it knows the binding
        await send(other, topic(queue, "orders.old"), b"another process", persistent=True)
        await send(engine, topic(queue, "news"), b"not this")

        def in_sql() -> None:
            with closing(connections["default"]):
                outbox.send(NAMESPACE, str(topic(queue, "orders.sql")), "sql")

        await asyncio.to_thread(in_sql)
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        await consumer.count(4)
        assert consumer.bodies == [b"engine", b"unit", b"another process", b"sql"]
        headers = decode_headers(consumer.deliveries[3].headers)
        assert headers["destination"] == str(topic(queue, "orders.sql"))
        engine.ack(subscription, consumer.ids)
        await send(engine, topic(queue, "orders.now"), b"at once", persistent=True)
        await consumer.count(5)

    play(scenario)


def test_a_durable_subscription_that_ended_gets_nothing_more(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        await done(lambda callback: engine.bind(topic(queue, "t"), queue, callback))
        await send(engine, topic(queue, "t"), b"before")
        await done(lambda callback: engine.end_durable(queue, callback))
        await sync(engine, queue)
        await send(engine, topic(queue, "t"), b"after")
        consumer = Recorder(engine)
        engine.subscribe(queue, consumer, 10)
        await send(engine, queue, b"to the queue itself")
        await consumer.count(1)
        assert consumer.bodies == [b"to the queue itself"]

    play(scenario)


def test_virtual_topics(play):
    async def scenario(open_engine: OpenEngine, queue: Address) -> None:
        engine = await open_engine()
        name = f"VirtualTopic.{queue.name}"
        consumers = {"A": Recorder(engine, acks=True), "B": Recorder(engine, acks=True)}
        for who, consumer in consumers.items():
            address = queue._replace(name=f"Consumer.{who}.{name}")
            await done(lambda callback, a=address, c=consumer: engine.subscribe(a, c, 10, callback))
        await sync(engine, queue)
        await send(engine, queue._replace(kind="topic", name=name), b"1", b"2")
        for consumer in consumers.values():
            await consumer.count(2)
            assert consumer.bodies == [b"1", b"2"]

    play(scenario)
