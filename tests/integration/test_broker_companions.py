"""A statement that goes along with claims."""

import asyncio
import uuid
from collections.abc import Sequence

import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Asking, Companion, Delivery, Message, SessionId, Subscription
from apps.broker.postgres import PostgresEngine

pytestmark = pytest.mark.django_db(transaction=True)

PARTS = "along AS (SELECT id, deliveries, headers, %(word)s::text, %(session)s FROM taken)"
Rows = Sequence[Sequence[bytes | None]]


class Consumer:
    """Notes what it hears, in order, together with what the companion heard."""

    def __init__(self, many: int) -> None:
        self.heard: list[tuple[str, int]] = []
        self.sessions: set[int] = set()
        self.headers: list[bytes | None] = []
        self.words: set[bytes | None] = set()
        self.word: bytes | None = b"along"
        self.error: Exception | None = None
        self._many = many
        self.all = asyncio.Event()

    def ask(self, session: SessionId) -> Asking | None:
        self.sessions.add(session)
        return None if self.word is None else ([self.word], self.done)

    def done(self, rows: Rows) -> None:
        for identifier, deliveries, headers, word, session in rows:
            assert deliveries == (1).to_bytes(4, "big")
            self.sessions.add(int.from_bytes(session or b"", "big"))
            self.heard.append(("companion", int.from_bytes(identifier or b"", "big")))
            self.headers.append(headers)
            self.words.add(word)
        if self.error is not None:
            raise self.error

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        self.heard += [("delivered", delivery.id) for delivery in deliveries]
        if sum(what == "delivered" for what, _ in self.heard) == self._many:
            self.all.set()

    def lost(self, subscription: Subscription) -> None:
        raise AssertionError("it is not lost")


def claim(conninfo: str, many: int, change: str = "") -> tuple[Consumer, int]:
    """Have an engine claim some messages that another one has sent."""
    namespace = Namespace.objects.get_or_create(name="companions.test")[0].name
    queue = Address(namespace, "queue", f"q-{uuid.uuid4()}")

    async def main() -> tuple[Consumer, int]:
        sender, engine = PostgresEngine(conninfo), PostgresEngine(conninfo)
        consumer = Consumer(many)
        if change == "silent":
            consumer.word = None
        if change == "failing":
            consumer.error = RuntimeError("an error of the companion's own")
        engine.accompany(Companion(PARTS, ["word"], consumer.ask))
        await sender.start()
        await engine.start()
        try:
            sent = asyncio.Event()
            for number in range(many):
                done_with = (lambda _: sent.set()) if number == many - 1 else None
                sender.send(Message(queue, b"body", b"number:%d\n" % number, persistent=True), done_with)
            await sent.wait()
            engine.subscribe(queue, consumer, many)
            async with asyncio.timeout(30):
                await consumer.all.wait()
            return consumer, engine.session
        finally:
            await engine.close()
            await sender.close()

    return asyncio.run(main())


def test_it_runs_in_the_claims_transaction_and_is_heard_before_what_was_claimed_is_delivered(conninfo):
    consumer, session = claim(conninfo, 3)
    told = [identifier for what, identifier in consumer.heard if what == "companion"]
    delivered = [identifier for what, identifier in consumer.heard if what == "delivered"]
    assert told == delivered
    assert consumer.heard.index(("companion", delivered[0])) < consumer.heard.index(("delivered", delivered[0]))
    assert consumer.headers == [b"number:0\n", b"number:1\n", b"number:2\n"]
    assert (consumer.sessions, consumer.words) == ({session}, {b"along"})


def test_it_may_have_nothing_to_ask(conninfo):
    consumer, _ = claim(conninfo, 3, "silent")
    assert [what for what, _ in consumer.heard] == ["delivered"] * 3


def test_an_error_of_whoever_hears_of_it_keeps_nobody_from_the_messages(conninfo, caplog):
    consumer, _ = claim(conninfo, 3, "failing")
    assert sum(what == "delivered" for what, _ in consumer.heard) == 3
    assert "a callback failed" in caplog.text
