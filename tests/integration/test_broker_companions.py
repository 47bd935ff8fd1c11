"""A statement that goes along with claims."""

import asyncio
import uuid
from collections.abc import Callable, Sequence

import psycopg
import pytest

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Asking, Companion, Delivery, Message, Options, SessionId, Subscription
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
        self.asked = self.left_out = 0
        self.asking: Callable[[], None] = lambda: None  # done when it is asked
        self._many = many
        self.all = asyncio.Event()

    def ask(self, session: SessionId) -> Asking | None:
        self.asked += 1
        self.sessions.add(session)
        self.asking()
        return None if self.word is None else ([self.word], self.done)

    def without(self) -> None:
        self.left_out += 1

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


def refuse() -> None:
    raise RuntimeError("an error of the companion's own")


def overtake(conninfo: str, queue: Address, consumer: Consumer) -> None:
    """While the first claim is under way, hear that something was made ready before all that it brings."""
    if consumer.asked == 1:
        with psycopg.connect(conninfo, autocommit=True) as other:
            other.execute(
                "SELECT pg_notify('msgweb_ready', d.id || ':1p4') FROM msgweb.destination d"
                " WHERE (d.namespace, d.name) = (%s, %s)",
                [queue.namespace, queue.name],
            )


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
        if change == "refusing":
            consumer.asking = refuse
        if change == "overtaken":
            consumer.asking = lambda: overtake(conninfo, queue, consumer)
        engine.accompany(Companion(PARTS, ["word"], consumer.ask, consumer.without))
        await sender.start()
        await engine.start()
        try:
            sent = asyncio.Event()
            for number in range(many):
                done_with = (lambda _: sent.set()) if number == many - 1 else None
                options = Options(group=f"group {number}") if change == "grouped" else None
                sender.send(
                    Message(queue, b"body", b"number:%d\n" % number, persistent=True, options=options), done_with
                )
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
    assert_told_before_delivered(consumer)
    assert (consumer.sessions, consumer.words) == ({session}, {b"along"})


def test_what_goes_back_undelivered_is_told_of_again(conninfo):
    consumer, _ = claim(conninfo, 3, "overtaken")
    assert sum(what == "companion" for what, _ in consumer.heard) > 3
    assert_told_before_delivered(consumer)


def assert_told_before_delivered(consumer: Consumer) -> None:
    """What has gone back before it was delivered, since the engine heard of something before it, is told of again."""
    told = [identifier for what, identifier in consumer.heard if what == "companion"]
    delivered = [identifier for what, identifier in consumer.heard if what == "delivered"]
    for identifier in delivered:
        assert consumer.heard.index(("companion", identifier)) < consumer.heard.index(("delivered", identifier))
    headers = dict(zip(told, consumer.headers, strict=True))
    assert [headers[identifier] for identifier in delivered] == [b"number:0\n", b"number:1\n", b"number:2\n"]


def test_it_may_have_nothing_to_ask(conninfo):
    consumer, _ = claim(conninfo, 3, "silent")
    assert [what for what, _ in consumer.heard] == ["delivered"] * 3


def test_it_does_not_go_along_with_claims_of_groups_and_hears_so(conninfo):
    consumer, _ = claim(conninfo, 3, "grouped")
    assert [what for what, _ in consumer.heard] == ["delivered"] * 3
    assert consumer.left_out > 0


def test_an_error_of_whoever_is_asked_keeps_nobody_from_the_messages(conninfo, caplog):
    consumer, _ = claim(conninfo, 3, "refusing")
    assert [what for what, _ in consumer.heard] == ["delivered"] * 3
    assert "what goes along with claims failed" in caplog.text


def test_an_error_of_whoever_hears_of_it_keeps_nobody_from_the_messages(conninfo, caplog):
    consumer, _ = claim(conninfo, 3, "failing")
    assert sum(what == "delivered" for what, _ in consumer.heard) == 3
    assert "a callback failed" in caplog.text
