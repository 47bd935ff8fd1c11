"""A key's limits hold for all gateway processes together."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from apps.accounts.models import AccessKey, Namespace
from apps.broker.engine import Message
from apps.stomp.gateway import sharing
from tests.installation import Installation, until
from tests.stomp_gateway import SECONDS, RunningGateway, WireClient

pytestmark = pytest.mark.django_db(transaction=True)


class Shop:
    """A key, and clients that come with it to one gateway or another."""

    def __init__(self) -> None:
        self.key, self.passcode = AccessKey.issue("till", Namespace.objects.create(name="shop.test"))

    def limit(self, **limits: int) -> None:
        AccessKey.objects.filter(pk=self.key.pk).update(**limits)

    def client(self, gateway: RunningGateway) -> WireClient:
        client = gateway.client()
        client.send("CONNECT", accept_version="1.0", login=self.key.login, passcode=self.passcode)
        client.expect("CONNECTED")
        return client

    def refused(self, gateway: RunningGateway) -> bool:
        """Whether one more connection is, for the limit."""
        client = gateway.client()
        client.send("CONNECT", accept_version="1.0", login=self.key.login, passcode=self.passcode)
        frame = client.read()
        if frame.command == "ERROR":
            assert frame["code"] == "limit_exceeded"
            return True
        client.send("DISCONNECT", receipt="bye")
        client.expect("RECEIPT")
        client.expect_end()
        return False


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def first(conninfo: str) -> Iterator[RunningGateway]:
    with RunningGateway(conninfo, accounts=True) as gateway:
        yield gateway


def test_connections_are_counted_over_all_processes_and_given_back(
    conninfo: str, first: RunningGateway, shop: Shop
) -> None:
    shop.limit(max_connections=2)
    one = shop.client(first)
    with RunningGateway(conninfo, accounts=True) as second:
        two = shop.client(second)
        for gateway in (first, second):
            until(lambda gateway=gateway: shop.refused(gateway), SECONDS, "the limit is known to be reached")
        one.send("DISCONNECT", receipt="bye")
        one.expect("RECEIPT")
        until(lambda: not shop.refused(second), SECONDS, "there is room again")
        shop.limit(max_connections=1)
        until(lambda: shop.refused(first), SECONDS, "the other's connection is all that there may be")
        two.confirmed("SEND", destination="/topic/x")
    until(lambda: not shop.refused(first), SECONDS, "a gateway that was stopped uses nothing")


def test_subscriptions_and_what_they_hold_too(conninfo: str, first: RunningGateway, shop: Shop) -> None:
    shop.limit(max_subscriptions=3, max_unacked=15)
    with RunningGateway(conninfo, accounts=True) as second:
        watched = shop.client(second)  # its key's use is kept as long as it is there
        here = shop.client(first)
        for number in (1, 2):
            here.confirmed("SUBSCRIBE", id=number, destination=f"/queue/q{number}", ack="client", prefetch_count=6)
        holder = ("key", shop.key.pk)

        def heard() -> bool:
            return second.gateway.usages.elsewhere(holder)[:3] == (1, 2, 12)

        until(heard, SECONDS, "the other process has told")
        for number in range(9):
            watched.confirmed("SEND", b"%d" % number, destination="/queue/q3")
        watched.confirmed("SUBSCRIBE", id="1", destination="/queue/q3", ack="client", prefetch_count=6)
        assert [watched.expect("MESSAGE").body for _ in range(3)] == [b"0", b"1", b"2"]
        assert watched.silent(0.2), "15 less 12 are 3"
        watched.send("SUBSCRIBE", id="2", destination="/queue/q4", ack="auto")
        watched.expect_error("limit_exceeded")


def test_who_says_nothing_any_more_uses_nothing(conninfo: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that was killed."""
    monkeypatch.setattr(sharing, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(sharing, "BEAT_SECONDS", 0.2)
    shop.limit(max_connections=1)
    with RunningGateway(conninfo, accounts=True) as first, RunningGateway(conninfo, accounts=True) as second:
        shop.client(second)
        until(lambda: shop.refused(first), SECONDS, "the limit is known to be reached")

        async def fall_silent() -> None:
            second.gateway.sharing._publish = lambda used, asks=False: None  # type: ignore[method-assign]

        second.run(fall_silent)
        until(lambda: not shop.refused(first), SECONDS, "what is silent for long has ended")


@pytest.mark.parametrize(
    "word",
    [
        b"\xff",
        b"[]",
        b'{"process": "x"}',
        b'{"process": "x", "used": {"key": [1]}}',
        b'{"process": "x", "used": {"key:1": [1, 2, "many"]}}',
        b'{"process": "x", "used": {"key:1": [1, 2, 3, 4, 5, 6]}}',
        b'{"process": "x", "used": {"key:1": [-1]}}',
        b'{"process": "x", "used": {"key:1": 7}}',
    ],
)
def test_a_word_that_means_nothing_is_left_alone(
    first: RunningGateway, shop: Shop, word: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shop.limit(max_connections=2)

    async def say() -> None:
        handed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        first.engine.send(Message(sharing.TOPIC, word), handed.set_result)
        good = {"process": "y", "used": {f"key:{shop.key.pk}": [1, 0, 0, 0.5, 1]}}
        first.engine.send(Message(sharing.TOPIC, json.dumps(good).encode()))
        await handed

    first.run(say)
    shop.client(first)
    until(lambda: shop.refused(first), SECONDS, "the good word after it counts")
    assert "not understood" in caplog.text


def test_the_processes_of_one_gateway_share_a_keys_limit(installation: Installation) -> None:
    installation.start("stomp", arguments=("--processes", "2"))
    login, passcode = (installation.credentials["stomp"][name] for name in ("login", "passcode"))
    installation.query("UPDATE accounts_accesskey SET max_connections = 4 WHERE login = %s", (login,))
    clients: list[WireClient] = []

    def enter() -> WireClient | None:
        client = WireClient(installation.stomp.port)
        clients.append(client)
        client.send("CONNECT", accept_version="1.2", login=login, passcode=passcode)
        if client.read().command == "CONNECTED":
            return client
        return None

    def refused() -> bool:
        client = enter()
        if client is not None:
            client.send("DISCONNECT", receipt="bye")
            client.expect("RECEIPT")
            client.close()
        return client is None

    try:
        for _ in range(4):
            assert enter() is not None
        until(lambda: all(refused() for _ in range(20)), SECONDS, "whichever process is asked refuses a fifth")
    finally:
        for client in clients:
            client.close()
