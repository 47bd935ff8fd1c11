"""A busy event loop: small batches wait for each other, but not for long."""

import asyncio
import time
import uuid
from collections.abc import Callable

import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message
from apps.broker.postgres import PostgresEngine, pressure
from msgweb.errors import MsgwebError
from tests.conformance.engines import DEADLINE

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "pressure.test"


class Occupation:
    """Something else that each turn of the loop has to do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.going = True
        self._turn()

    def _turn(self) -> None:
        until = time.perf_counter() + 2 * pressure.TURN
        while time.perf_counter() < until:
            pass
        if self.going:
            self._loop.call_soon(self._turn)


async def send_in_turns(
    engine: PostgresEngine, queue: Address, count: int
) -> list["asyncio.Future[MsgwebError | None]"]:
    """Messages of one turn of the loop each."""
    sent = []
    for number in range(count):
        sent.append(asyncio.get_running_loop().create_future())
        engine.send(Message(queue, b"%d" % number), sent[-1].set_result)
        await asyncio.sleep(0)
    return sent


@pytest.fixture
def queue() -> Address:
    Namespace.objects.get_or_create(name=NAMESPACE)
    return Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}")


def batches_of(
    conninfo: str, queue: Address, most: float, monkeypatch: pytest.MonkeyPatch, stop: Callable[[Occupation], None]
) -> int:
    """How many batches carried three messages that came one a turn of a busy loop."""

    async def main() -> int:
        engine = PostgresEngine(conninfo)
        await engine.start()
        try:
            async with asyncio.timeout(DEADLINE):
                await (await send_in_turns(engine, queue, 1))[0]  # the queue is known from now on
                await engine._writer.settled()
                monkeypatch.setattr(pressure, "MOST", most)
                before = engine._writer.settled_batch
                occupation = Occupation()
                sent = await send_in_turns(engine, queue, 3)
                stop(occupation)
                assert await asyncio.gather(*sent) == [None, None, None]
                occupation.going = False
                return engine._writer.settled_batch - before
        finally:
            await engine.close()

    return asyncio.run(main())


def test_what_comes_while_the_loop_is_busy_is_one_batch(
    conninfo: str, queue: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rest(occupation: Occupation) -> None:
        occupation.going = False

    assert batches_of(conninfo, queue, 1000.0, monkeypatch, rest) == 1


def test_a_loop_that_is_busy_for_ever_keeps_no_batch_from_its_commit(
    conninfo: str, queue: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batches_of(conninfo, queue, pressure.MOST, monkeypatch, lambda occupation: None) >= 1
