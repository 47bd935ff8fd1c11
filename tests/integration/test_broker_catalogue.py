"""The catalogue's figures of real engines and messages."""

import asyncio

import pytest
from django.db import connections

from apps.accounts.models import Namespace
from apps.broker import catalogue, outbox
from apps.broker.engine import Address
from apps.broker.postgres import PostgresEngine
from tests.conformance.engines import DEADLINE, Recorder

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "catalogue.test"


def test_a_process_counts_as_serving_once_it_has_said_so_and_until_it_ends(conninfo):
    def serving() -> int:
        try:
            return catalogue.sessions_serving("gateway")
        finally:
            connections.close_all()

    async def scenario() -> None:
        before = await asyncio.to_thread(serving)
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            assert await asyncio.to_thread(serving) == before
            engine.serve()
            async with asyncio.timeout(DEADLINE):
                while await asyncio.to_thread(serving) != before + 1:
                    pass
        finally:
            await engine.close()
        assert await asyncio.to_thread(serving) == before

    asyncio.run(scenario())


def test_a_queue_shows_what_waits_what_is_held_and_who_consumes(conninfo):
    Namespace.objects.create(name=NAMESPACE)
    for body in ("a", "b", "c"):
        outbox.send(NAMESPACE, "orders", body)

    def info() -> catalogue.QueueInfo:
        try:
            [queue] = [queue for queue in catalogue.queues(NAMESPACE) if queue.name == "orders"]
            return queue
        finally:
            connections.close_all()

    async def scenario() -> None:
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            consumer = Recorder(engine)
            engine.subscribe(Address(NAMESPACE, "queue", "orders"), consumer, 2)
            await consumer.count(2)
            async with asyncio.timeout(DEADLINE):
                while (queue := await asyncio.to_thread(info)).consumers != 1:
                    pass
            assert (queue.ready, queue.in_flight) == (1, 2)
            assert queue.oldest_age is not None
            assert queue.oldest_age >= 0
        finally:
            await engine.close()
        queue = await asyncio.to_thread(info)
        assert (queue.ready, queue.in_flight, queue.consumers) == (3, 0, 0)

    asyncio.run(scenario())
