"""Settings, purge, redrive, kept messages: as a person does it, with an engine at work."""

import asyncio
import io
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TypeVar

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from apps.accounts.models import Namespace
from apps.broker import outbox, queue_actions, queue_settings
from apps.broker.engine import Address, Message, Refusal
from apps.broker.postgres import PostgresEngine
from apps.broker.queue_settings import BadSetting, UnknownSetting
from msgweb.errors import BadDestination, Conflict, NotFound
from tests.conformance.engines import DEADLINE, Recorder, done, send, sync

pytestmark = pytest.mark.django_db(transaction=True)
N = "management.test"
T = TypeVar("T")


@pytest.fixture(autouse=True)
def namespace() -> None:
    Namespace.objects.get_or_create(name=N)


def with_engine(conninfo: str, work: Callable[[PostgresEngine], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            await work(engine)
        finally:
            await engine.close()

    asyncio.run(run())


async def in_thread(work: Callable[..., T], *arguments: object, **named: object) -> T:
    """Run synchronous code of Django's in a thread, whose connection is closed afterwards."""

    def run() -> T:
        with closing(connections["default"]):
            return work(*arguments, **named)

    return await asyncio.to_thread(run)


def command(*arguments: str) -> object:
    out = io.StringIO()
    call_command("queues", "--json", *arguments, stdout=out)
    return json.loads(out.getvalue())


def test_settings_are_read_changed_and_reset(queue_name):
    assert queue_settings.change(N, queue_name, {"message_ttl": "5m", "max_length": "10k"}).message_ttl == 300
    after = queue_settings.change(N, queue_name, {"message_ttl": None, "retry_delay": 0, "paused": "on"})
    assert (after.message_ttl, after.max_length, after.retry_delay, after.paused) == (None, 10_000, 0, True)
    assert queue_settings.get(N, queue_name) == after
    with pytest.raises(NotFound):
        queue_settings.get(N, "nobody's")
    with pytest.raises(NotFound):
        queue_settings.change("no.where", "x", {"paused": True})


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"message-tll": 5}, UnknownSetting, "did you mean message_ttl"),
        ({"x": 5}, UnknownSetting, "there are"),
        ({"message_ttl": -1}, BadSetting, "message_ttl"),
        ({"message_ttl": "soon"}, BadSetting, "30s"),
        ({"message_ttl": float("nan")}, BadSetting, "message_ttl"),
        ({"max_length": 0}, BadSetting, "1 or more"),
        ({"max_length": 2.5}, BadSetting, "whole number"),
        ({"max_length": 10**30}, BadSetting, "max_length"),
        ({"max_deliveries": 2**40}, BadSetting, "max_deliveries"),
        ({"overflow": "explode", "max_length": 1}, BadSetting, "refuse or drop-head"),
        ({"overflow": "drop-head"}, BadSetting, "max_length or max_bytes"),
        ({"retry_delay": 10, "retry_delay_max": 5}, BadSetting, "less than"),
        ({"paused": 1}, BadSetting, "true or false"),
        ({"dead_letter_queue": ""}, BadDestination, "name"),
        ({"dead_letter_queue": "$reply.x"}, BadDestination, "server's own"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(queue_name, settings, error, says):
    queue_settings.change(N, queue_name, {"keep_for": 60})
    before = queue_settings.get(N, queue_name)
    with pytest.raises(error, match=says):
        queue_settings.change(N, queue_name, settings)
    assert queue_settings.get(N, queue_name) == before


def test_dead_letters_do_not_go_in_a_circle(queue_name):
    queue_settings.change(N, queue_name, {"dead_letter_queue": "second"})
    with pytest.raises(BadSetting, match="circle"):
        queue_settings.change(N, queue_name, {"dead_letter_queue": queue_name})
    with pytest.raises(BadSetting, match="circle"):
        queue_settings.change(N, "second", {"dead_letter_queue": queue_name})


def test_purge_takes_what_waits_in_portions_and_leaves_what_is_held(conninfo, queue_name):
    queue = Address(N, "queue", queue_name)

    async def work(engine: PostgresEngine) -> None:
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 3)
        await send(engine, queue, *[b"x"] * 20)
        await consumer.count(3)
        await in_thread(fill, conninfo, queue, 12_000)
        for number in range(5):
            outbox_send = in_thread(outbox.send, N, queue_name, f"{number}", delay=60 if number else 0, group="g")
            await outbox_send
        assert await in_thread(queue_actions.purge, N, queue_name) == 12_017 + 5
        await done(lambda callback: engine.ack(subscription, consumer.ids, callback))
        await send(engine, queue, b"after")
        await consumer.count(4)
        assert consumer.bodies[3] == b"after"

    with_engine(conninfo, work)


def fill(conninfo: str, queue: Address, count: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO msgweb.message (destination, persistent, headers, body)"
            " SELECT msgweb.queue_id(%s, %s), true, '', 'x' FROM generate_series(1, %s)",
            [queue.namespace, queue.name, count],
        )


def test_dead_letters_go_back_where_they_came_from_in_their_order(conninfo, queue_name):
    queue = Address(N, "queue", queue_name)
    letters = f"DLQ.{queue_name}"

    async def work(engine: PostgresEngine) -> None:
        consumer = Recorder(engine)
        subscription = engine.subscribe(queue, consumer, 10)
        for number in range(5):
            engine.send(Message(queue, b"%d" % number, b"n:%d\n" % number, persistent=True))
        await consumer.count(5)
        reject = Refusal(dead_letter=True)
        await done(lambda callback: engine.nack(subscription, consumer.ids, callback, reject))
        waiting = await in_thread(queue_actions.browse, N, letters)
        assert [one.body for one in waiting] == [b"0", b"1", b"2", b"3", b"4"]
        assert waiting[0].headers["dead-letter-from"] == str(queue)
        one = await in_thread(queue_actions.redrive, N, letters, ids=[waiting[3].id])
        none = await in_thread(queue_actions.redrive, N, letters, reason="expired")
        some = await in_thread(queue_actions.redrive, N, letters, most=2)
        rest = await in_thread(queue_actions.redrive, N, letters, to="elsewhere")
        assert (one, none, some, rest) == (1, 0, 2, 2)
        await consumer.count(8)
        again = consumer.deliveries[5:]
        assert [(delivery.body, delivery.deliveries, delivery.headers) for delivery in again] == [
            (b"3", 1, b"n:3\n"),
            (b"0", 1, b"n:0\n"),
            (b"1", 1, b"n:1\n"),
        ]
        elsewhere = Recorder(engine)
        engine.subscribe(queue._replace(name="elsewhere"), elsewhere, 10)
        await elsewhere.count(2)
        assert elsewhere.bodies == [b"2", b"4"]
        outbox_id = await in_thread(outbox.send, N, letters, "sent there by hand")
        assert await in_thread(queue_actions.redrive, N, letters) == 0
        assert [one.id for one in await in_thread(queue_actions.browse, N, letters)] == [outbox_id]

    with_engine(conninfo, work)


def test_kept_messages_are_listed_searched_trimmed_and_replayed(conninfo, queue_name):
    queue = Address(N, "queue", queue_name)
    queue_settings.change(N, queue_name, {"keep_for": "1h"})

    async def work(engine: PostgresEngine) -> None:
        consumer = Recorder(engine, acks=True)
        engine.subscribe(queue, consumer, 10)
        await sync(engine, queue)
        for number in range(5):
            headers = b"correlation-id:c\\c%d\ncolour:%b\n" % (number, b"red" if number % 2 else b"blue")
            engine.send(Message(queue, b"%d" % number, headers, persistent=True))
        await consumer.count(5)
        await sync(engine, queue)

        def bodies(**search: object) -> list[bytes]:
            return [message.body for message in queue_actions.kept(N, queue_name, **search)]  # type: ignore[arg-type]

        def look() -> None:
            assert bodies() == [b"4", b"3", b"2", b"1", b"0"]
            assert bodies(header=("colour", "red")) == [b"3", b"1"]
            assert bodies(correlation_id="c:2") == [b"2"]
            (third,) = queue_actions.kept(N, queue_name, correlation_id="c:2")
            assert bodies(before=third.id) == [b"1", b"0"]
            assert bodies(since=third.acked_at, until=third.acked_at) == []
            queue_settings.change(N, queue_name, {"keep_messages": 3})
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("SELECT msgweb.tidy_queues()")
            assert bodies() == [b"4", b"3", b"2"]
            with pytest.raises(NotFound):
                queue_actions.replay(N, queue_name, [third.id, 1])
            assert list(queue_actions.replay(N, queue_name, [third.id])) == [third.id]

        await in_thread(look)
        await consumer.count(6)
        assert consumer.bodies[5] == b"2"
        assert b"replayed-from:" in consumer.deliveries[5].headers
        assert consumer.deliveries[5].deliveries == 1

    with_engine(conninfo, work)


def test_a_queue_that_is_used_is_deleted_by_force_alone(conninfo, queue_name):
    outbox.send(N, queue_name, "x")
    with pytest.raises(Conflict, match="messages"):
        queue_actions.delete(N, queue_name)
    assert queue_actions.delete(N, queue_name, force=True) == 1
    with pytest.raises(NotFound):
        queue_actions.purge(N, queue_name)


def test_an_unused_queue_goes_and_a_used_one_stays(conninfo, queue_name):
    for name in (queue_name, f"{queue_name}-used"):
        queue_settings.change(N, name, {"expires_after": 60})
        outbox.send(N, name, "x")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT msgweb.tidy_queues()")
        assert set(queue_actions.names(N)) >= {queue_name, f"{queue_name}-used"}
        connection.execute(
            "UPDATE msgweb.destination SET used_at = now() - interval '2 minutes' WHERE name LIKE %s",
            [f"{queue_name}%"],
        )
        outbox.send(N, f"{queue_name}-used", "x")
        connection.execute("SELECT msgweb.tidy_queues()")
    assert queue_name not in set(queue_actions.names(N))
    assert f"{queue_name}-used" in set(queue_actions.names(N))


def test_a_queue_that_somebody_consumes_is_used_though_nothing_comes(conninfo, queue_name):
    queue_settings.change(N, queue_name, {"expires_after": 60})

    async def work(engine: PostgresEngine) -> None:
        subscription = engine.subscribe(Address(N, "queue", queue_name), Recorder(engine), 1)
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:

            async def see_consumers(number: int) -> None:
                async with asyncio.timeout(DEADLINE):
                    while (await (await connection.execute(CONSUMERS, [queue_name])).fetchone()) != (number,):
                        pass

            async def tidy(unused: str) -> bool:
                await connection.execute(
                    "UPDATE msgweb.destination SET used_at = used_at - %s::interval WHERE name = %s",
                    [unused, queue_name],
                )
                await connection.execute("SELECT msgweb.tidy_queues()")
                return queue_name in await in_thread(lambda: set(queue_actions.names(N)))

            await see_consumers(1)
            assert await tidy("2 minutes")
            engine.unsubscribe(subscription)
            engine.tell()
            await see_consumers(0)
            assert await tidy("30 seconds")  # its time began when the consumer was seen last
            assert not await tidy("2 minutes")

    with_engine(conninfo, work)


CONSUMERS = """
SELECT count(*) FROM msgweb.session s, msgweb.destination d WHERE d.name = %s AND s.details->'consumers' ? d.id::text
"""


def test_the_command(queue_name):
    assert command("set", N, queue_name, "message_ttl=5m", "keep_for=1d")["message_ttl"] == 300  # type: ignore[index]
    outbox.send(N, queue_name, "hello", headers={"colour": "red"})
    assert command("browse", N, queue_name)[0]["body"] == "hello"  # type: ignore[index]
    assert command("pause", N, queue_name)["paused"] is True  # type: ignore[index]
    assert command("resume", N, queue_name)["paused"] is False  # type: ignore[index]
    assert command("purge", N, queue_name) == {"removed": 1}
    assert command("unset", N, queue_name, "message_ttl")["message_ttl"] is None  # type: ignore[index]
    assert [row["name"] for row in command("list", N) if row["name"] == queue_name] == [queue_name]  # type: ignore[attr-defined]
    assert command("kept", N, queue_name, "--header", "colour=red") == []
    with pytest.raises(CommandError, match=r"unknown_setting: .*did you mean keep_for"):
        command("set", N, queue_name, "keep-fro=1d")
    with pytest.raises(CommandError, match="not_found"):
        command("redrive", N, "nobody's")
    assert command("delete", N, queue_name) == {"removed": 0}
    out = io.StringIO()
    call_command("queues", "list", N, stdout=out)


@pytest.fixture
def queue_name() -> str:
    return f"q-{uuid.uuid4()}"
