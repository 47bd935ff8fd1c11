"""What a login may do, over a real gateway and the real keys; and that a change of it reaches open connections."""

import json
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.contrib.auth import get_user_model
from django.utils import timezone

from apps.accounts.actors import acting_as
from apps.accounts.models import AccessKey, ClientCertificate, Namespace, Permission
from apps.accounts.permissions import Access, Verb
from apps.broker import catalogue
from apps.jobs.outside import Heard
from apps.stomp.gateway import access_watch
from apps.stomp.gateway.ports import Word
from tests.stomp_gateway import SECONDS, RunningGateway, WireClient

pytestmark = pytest.mark.django_db(transaction=True)

HOME = "shop.test"


class Tasks:
    """A `TaskPort` that writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def submit(self, *, task: str, **rest: Any) -> str:
        self.asked.append(task)
        return str(uuid.uuid4())

    def hearing(self, *, job_id: str, **rest: Any) -> "Tasks":
        self.asked.append(job_id)
        return self

    async def hear(self, words: Sequence[Word], **rest: Any) -> list[Heard]:
        return [Heard(True, "running")] * len(words)


class Shop:
    """A key and its passcode, and clients that come with it."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.home = Namespace.objects.create(name=HOME)
        self.key, self.passcode = AccessKey.issue("till", self.home)

    def restrict(self, pattern: str, **verbs: bool) -> Permission:
        """It may do that, and what it was allowed before, and nothing else."""
        with acting_as("ada"):
            AccessKey.objects.filter(pk=self.key.pk).update(restricted=True)
            return Permission.objects.create(key=self.key, pattern=pattern, **verbs)

    def limit(self, **limits: int) -> None:
        AccessKey.objects.filter(pk=self.key.pk).update(**limits)

    def client(self, version: str = "1.2", **headers: Any) -> WireClient:
        """A client that is logged in."""
        client = self.gateway.client()
        self.enter(client, version, **headers)
        client.expect("CONNECTED")
        return client

    def enter(self, client: WireClient, version: str = "1.2", **headers: Any) -> None:
        client.send("CONNECT", accept_version=version, login=self.key.login, passcode=self.passcode, **headers)


@pytest.fixture
def gateway(conninfo: str) -> Iterator[RunningGateway]:
    with RunningGateway(conninfo, tasks=Tasks(), accounts=True) as running:
        yield running


@pytest.fixture
def shop(gateway: RunningGateway) -> Shop:
    return Shop(gateway)


@pytest.fixture
def name() -> str:
    """A word of the test's own: the engine's tables are not emptied between tests."""
    return f"t{uuid.uuid4().hex}"


def is_refused(client: WireClient, command: str, body: bytes = b"", **headers: Any) -> None:
    """A frame with a receipt gets an ERROR, which names the receipt and ends the connection."""
    client.send(command, body, receipt="r-1", **headers)
    error = client.expect_error("access_refused")
    assert error["receipt-id"] == "r-1"
    client.expect_end()


def refused_at_last(client: WireClient, command: str, **headers: Any) -> None:
    """A frame that works until a change has arrived; then an ERROR."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        client.send(command, receipt="x", **headers)
        frame = client.read()
        if frame.command == "ERROR":
            assert frame["code"] == "access_refused", frame
            client.expect_end()
            return
        assert frame.command == "RECEIPT", frame
    pytest.fail("the change did not arrive")


# -- what is allowed


def test_a_key_that_is_not_restricted_does_everything_in_its_namespace(shop: Shop, name: str) -> None:
    client = shop.client()
    client.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}", ack="client")
    client.confirmed("SEND", b"x", destination=f"/queue/{name}")
    assert client.expect("MESSAGE").body == b"x"
    client.confirmed("SUBSCRIBE", id="2", destination=f"/topic/{name}.#")


def test_a_restricted_key_sends_where_it_may(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}.*", send=True)
    client = shop.client()
    for _ in range(3):
        client.confirmed("SEND", b"x", destination=f"/queue/{name}.new")
    client.confirmed("SEND", b"x", destination=f"/amq/queue/{name}.new")
    is_refused(client, "SEND", b"x", destination=f"/queue/{name}")


@pytest.mark.parametrize(
    "destination",
    [
        *("/queue/{}", "{}", "/amq/queue/{}", "/exchange/amq.direct/{}", "/topic/{}.new", "/task/{}.new", "/job/{}"),
        "/queue/{}.new,/queue/{}",
    ],
)
def test_what_a_restricted_key_was_not_given_is_refused(shop: Shop, name: str, destination: str) -> None:
    shop.restrict(f"queue/{name}.*", send=True)
    is_refused(shop.client(), "SEND", b"{}", destination=destination.replace("{}", name))


@pytest.mark.parametrize(
    "headers",
    [
        {"destination": "/queue/{}"},
        {"destination": "/queue/{}.new", "browser": "true"},
        {"destination": "/queue/{}.new", "ack": "client"},
        {"destination": "/topic/{}.new"},
        {"destination": "/topic/{}.#"},
        {"destination": "/topic/{}.new", "durable": "true", "auto-delete": "false"},
        {"destination": "/queue/Consumer.A.VirtualTopic.{}"},
    ],
)
def test_what_a_key_may_not_receive_from_is_refused(shop: Shop, name: str, headers: dict[str, str]) -> None:
    shop.restrict(f"queue/{name}.*", send=True, manage=True)
    shop.restrict(f"topic/{name}.new.*", receive=True)
    is_refused(shop.client(), "SUBSCRIBE", id="1", **{key: value.replace("{}", name) for key, value in headers.items()})


def test_a_refused_subscription_leaves_nothing_behind_on_1_0(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}.new", receive=True)
    client = shop.client("1.0")
    for _ in range(3):
        client.send("SUBSCRIBE", id="1", destination=f"/queue/{name}")
        client.expect_error("access_refused")
    client.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}.new")


def test_permissions_cost_nothing_for_a_message(shop: Shop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    allows = Access.allows

    def counted(access: Access, verb: Verb, namespace: str, destination: str) -> bool:
        judged.append(f"{verb} {destination}")
        return allows(access, verb, namespace, destination)

    monkeypatch.setattr(Access, "allows", counted)
    shop.restrict(f"queue/{name}", send=True, receive=True)
    client = shop.client()
    client.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}")
    frame = f"SEND\ndestination:/queue/{name}\n\nx\0".encode()
    client.write(frame * 500)
    for _ in range(500):
        client.expect("MESSAGE")
    assert judged == [f"receive queue/{name}", f"send queue/{name}"]


def test_a_key_receives_what_it_may(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}", receive=True, send=True)
    shop.restrict(f"topic/{name}.#", receive=True)
    client = shop.client()
    client.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}")
    client.confirmed("SUBSCRIBE", id="2", destination=f"/topic/{name}.*")
    durable = {"durable": "true", "auto-delete": "false"}
    client.confirmed("SUBSCRIBE", id="3", destination=f"/topic/{name}.x", **durable)
    client.confirmed("UNSUBSCRIBE", id="3", **durable)
    client.confirmed("SEND", b"x", destination=f"/queue/{name}")
    assert client.expect("MESSAGE").body == b"x"


def test_an_answer_goes_where_the_asker_may_send_or_to_its_own_reply_queue(shop: Shop, name: str) -> None:
    shop.restrict(f"task/{name}.*", send=True)
    client = shop.client()
    for reply_to in ("/temp-queue/answers", "/reply-queue/of-somebody"):
        client.confirmed("SEND", b"{}", destination=f"/task/{name}.go", **{"reply-to": reply_to})
    is_refused(client, "SEND", b"{}", destination=f"/task/{name}.go", **{"reply-to": f"/queue/{name}"})


def test_who_was_told_a_reply_queue_may_answer_there(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}", send=True, receive=True)
    asker, answerer = shop.client(), shop.client()
    answerer.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}")
    asker.confirmed("SEND", b"?", destination=f"/queue/{name}", **{"reply-to": "/temp-queue/a"})
    reply_to = answerer.expect("MESSAGE")["reply-to"]
    answerer.confirmed("SEND", b"!", destination=reply_to)
    assert asker.expect("MESSAGE").body == b"!"


def test_dead_letters_go_where_one_may_send(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}.*", send=True)
    dead = {"x-dead-letter-exchange": "", "x-message-ttl": "1"}
    client = shop.client()
    client.confirmed("SEND", destination=f"/queue/{name}.a", **dead, **{"x-dead-letter-routing-key": f"{name}.dead"})
    is_refused(client, "SEND", destination=f"/queue/{name}.b", **dead, **{"x-dead-letter-routing-key": name})


def test_a_transaction_refuses_what_is_refused_outside_of_it(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}.new", send=True)
    client = shop.client()
    client.confirmed("BEGIN", transaction="t")
    client.send("SEND", b"x", destination=f"/queue/{name}.new", transaction="t")
    is_refused(client, "SEND", b"x", destination=f"/queue/{name}", transaction="t")


# -- log-in


def test_a_person_logs_in_by_name_and_password(shop: Shop, name: str) -> None:
    user = get_user_model().objects.create_user("ada", password="right: with a colon")
    Permission.objects.create(user=user, namespace=shop.home, pattern=f"queue/{name}", send=True)
    client = shop.gateway.client()
    client.send("CONNECT", accept_version="1.2", login="ada", passcode="right: with a colon")
    client.expect("CONNECTED")
    client.confirmed("SEND", b"x", destination=f"/queue/{name}")
    is_refused(client, "SEND", b"x", destination=f"/queue/{name}.other")


def test_a_client_certificate_is_a_log_in_until_its_name_is_taken_away(conninfo: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, server = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    listener = f"stomps://127.0.0.1:0?certificate={server}&key={server}&client-ca={ca}"

    def shown(gateway: RunningGateway, *names: str, common_name: str | None = None) -> WireClient:
        context = ssl.create_default_context(cafile=str(ca))
        authority.issue_cert(*names, common_name=common_name).configure_cert(context)
        client = gateway.client()
        client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
        client.send("CONNECT", accept_version="1.2")
        return client

    with RunningGateway(conninfo, listeners=(listener,), accounts=True) as gateway:
        shop = Shop(gateway)
        certificate = ClientCertificate.objects.create(name="shop-7.example", key=shop.key)
        clients = [
            shown(gateway, "other.example", "shop-7.example"),
            shown(gateway, "other.example", common_name="shop-7.example"),
        ]
        for client in clients:
            client.expect("CONNECTED")
            client.confirmed("SEND", destination="/topic/x")
        shown(gateway, "shop-8.example").expect_error("access_refused")
        certificate.delete()
        for client in clients:
            client.expect_error("access_refused")
            client.expect_end()


def test_who_shows_nothing_may_do_what_the_login_of_the_listener_may(conninfo: str, name: str) -> None:
    home = Namespace.objects.create(name=HOME)
    key, _ = AccessKey.issue("whoever is here", home)
    AccessKey.objects.update(restricted=True)
    Permission.objects.create(key=key, pattern=f"queue/{name}", send=True)
    with RunningGateway(conninfo, listeners=(f"stomp://127.0.0.1:0?anonymous={key.login}",), accounts=True) as gateway:
        client = gateway.client()
        client.send("CONNECT", accept_version="1.2")
        client.expect("CONNECTED")
        client.confirmed("SEND", destination=f"/queue/{name}")
        is_refused(client, "SEND", destination=f"/queue/{name}.other")
        guesser = gateway.client()
        guesser.send("CONNECT", accept_version="1.2", login=key.login, passcode="guess")
        guesser.expect_error("access_refused")


def test_without_a_login_nobody_comes_in_elsewhere(shop: Shop) -> None:
    for headers in ({}, {"login": "", "passcode": ""}, {"login": shop.key.login}):
        client = shop.gateway.client()
        client.send("CONNECT", accept_version="1.2", **headers)
        client.expect_error("access_refused")


def test_who_guesses_is_slowed_and_a_log_in_from_elsewhere_is_not(shop: Shop) -> None:
    def guess() -> float:
        client = shop.gateway.client()
        began = time.monotonic()
        client.send("CONNECT", accept_version="1.2", login=shop.key.login, passcode="guess")
        client.expect_error("access_refused")
        return time.monotonic() - began

    for _ in range(5):
        guess()
    slowest = guess()
    assert slowest >= 0.4, "it waits longer and longer"
    elsewhere = socket.create_connection(("127.0.0.1", shop.gateway.port), SECONDS, source_address=("127.0.0.2", 0))
    with elsewhere:
        head = f"CONNECT\naccept-version:1.2\nlogin:{shop.key.login}\npasscode:{shop.passcode}\n\n\0"
        elsewhere.sendall(head.encode())
        assert elsewhere.recv(9) == b"CONNECTED"
    assert shop.gateway.authenticator.failures.failed == 6
    assert shop.gateway.authenticator.failures.slowed >= 2


# -- changes


def test_a_permission_that_is_taken_is_missing_on_open_connections(shop: Shop, name: str) -> None:
    kept = shop.restrict(f"queue/{name}.a", send=True)
    taken = shop.restrict(f"queue/{name}.b", send=True)
    first, second = shop.client(), shop.client()
    for client in (first, second):
        client.confirmed("SEND", b"x", destination=f"/queue/{name}.a")
        client.confirmed("SEND", b"x", destination=f"/queue/{name}.b")
    taken.delete()
    refused_at_last(first, "SEND", destination=f"/queue/{name}.b")
    second.confirmed("SEND", b"x", destination=f"/queue/{name}.a")
    kept.delete()
    refused_at_last(second, "SEND", destination=f"/queue/{name}.a")


def test_a_permission_that_is_given_is_there_on_open_connections(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}.a", send=True)
    client = shop.client("1.0")  # where an ERROR ends nothing
    shop.restrict(f"queue/{name}.b", send=True)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        client.send("SEND", destination=f"/queue/{name}.b", receipt="x")
        if client.read().command == "RECEIPT":
            return
    pytest.fail("the change did not arrive")


def test_who_receives_from_what_it_may_no_longer_is_ended_and_what_it_held_goes_back(shop: Shop, name: str) -> None:
    permission = shop.restrict(f"queue/{name}", receive=True)
    shop.restrict(f"queue/{name}.other", receive=True)
    ended, going_on = shop.client(), shop.client()
    ended.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}", ack="client")
    going_on.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}.other", ack="client")
    free, passcode = AccessKey.issue("free", shop.home)
    other = shop.gateway.client()
    other.send("CONNECT", accept_version="1.2", login=free.login, passcode=passcode)
    other.expect("CONNECTED")
    other.confirmed("SEND", b"x", destination=f"/queue/{name}")
    assert ended.expect("MESSAGE").body == b"x"
    permission.delete()
    ended.expect_error("access_refused")
    ended.expect_end()
    other.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}", ack="client")
    assert other.expect("MESSAGE").body == b"x"
    going_on.confirmed("UNSUBSCRIBE", id="1")


def test_what_a_transaction_has_gathered_is_not_sent_once_it_may_not_be(shop: Shop, name: str) -> None:
    permission = shop.restrict(f"queue/{name}", send=True)
    shop.restrict(f"queue/{name}.other", send=True)
    ended, going_on = shop.client(), shop.client()
    for client, queue in ((ended, name), (going_on, f"{name}.other")):
        client.confirmed("BEGIN", transaction="t")
        client.send("SEND", b"x", destination=f"/queue/{queue}", transaction="t")
        client.confirmed("SEND", destination=f"/queue/{queue}")
    permission.delete()
    ended.expect_error("access_refused")
    ended.expect_end()
    going_on.confirmed("COMMIT", transaction="t")
    waiting = {queue.name: queue.ready for queue in catalogue.queues(HOME) if queue.name.startswith(name)}
    assert waiting == {name: 1, f"{name}.other": 2}


@pytest.mark.needs("php")
def test_pecl_is_told_what_it_may_not_do_and_goes_on(shop: Shop, name: str) -> None:
    shop.restrict(f"queue/{name}", send=True)
    script = """<?php
        $stomp = new Stomp("tcp://127.0.0.1:$argv[1]", $argv[2], $argv[3]);
        $stomp->setReadTimeout(10);
        $say = [$stomp->send("/queue/$argv[4]", 'x', ['receipt' => '1'])];
        $say[] = $stomp->send("/queue/$argv[4].other", 'x', ['receipt' => '2']);
        $say[] = $stomp->error();
        $say[] = $stomp->send("/queue/$argv[4]", 'x', ['receipt' => '3']);
        echo json_encode($say);
    """
    ended = subprocess.run(
        ["php", "--", str(shop.gateway.port), shop.key.login, shop.passcode, name],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sent, refused, error, again = json.loads(ended.stdout)
    assert (sent, refused, again) == (True, False, True)
    assert f"may not send to /queue/{name}.other" in error


@pytest.mark.parametrize("end", ["revoked", "renewed", "namespace"])
def test_a_key_that_is_gone_ends_its_connections_and_no_others(shop: Shop, end: str) -> None:
    client = shop.client()
    free, passcode = AccessKey.issue("free", shop.home)
    other = shop.gateway.client()
    other.send("CONNECT", accept_version="1.2", login=free.login, passcode=passcode)
    other.expect("CONNECTED")
    match end:
        case "revoked":
            AccessKey.objects.filter(pk=shop.key.pk).update(revoked_at=timezone.now())
        case "renewed":
            shop.key.renew_passcode()
            shop.key.save()
        case "namespace":
            shop.key.default_namespace = Namespace.objects.create(name="shop.elsewhere")
            shop.key.save()
    client.expect_error("access_refused")
    client.expect_end()
    other.confirmed("SUBSCRIBE", id="1", destination="/queue/x")
    if end != "namespace":
        again = shop.gateway.client()
        shop.enter(again)
        again.expect_error("access_refused")


def test_a_key_that_expires_ends_its_connections_though_nobody_says_so(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_watch.AccessWatch.__init__, "__defaults__", (0.1, lambda: None))
    with RunningGateway(conninfo, accounts=True) as gateway:
        shop = Shop(gateway)
        client = shop.client()
        AccessKey.objects.update(expires_at=timezone.now() + timedelta(seconds=1))
        client.expect_error("access_refused")
        client.expect_end()


@pytest.mark.parametrize("end", ["password", "inactive", "deleted"])
def test_a_person_who_is_gone_is_gone_from_open_connections(shop: Shop, end: str) -> None:
    user = get_user_model().objects.create_user("ada", password="right")
    Permission.objects.create(user=user, namespace=shop.home, pattern="**", send=True)
    client = shop.gateway.client()
    client.send("CONNECT", accept_version="1.2", login="ada", passcode="right")
    client.expect("CONNECTED")
    match end:
        case "password":
            user.set_password("other")
            user.save()
        case "inactive":
            user.is_active = False
            user.save()
        case "deleted":
            user.delete()
    client.expect_error("access_refused")
    client.expect_end()
    again = shop.gateway.client()
    again.send("CONNECT", accept_version="1.2", login="ada", passcode="right")
    again.expect_error("access_refused")


# -- limits


def test_a_key_has_no_more_connections_than_its_limit(shop: Shop) -> None:
    shop.limit(max_connections=2)
    first, second = shop.client(), shop.client()
    third = shop.gateway.client()
    shop.enter(third)
    third.expect_error("limit_exceeded")
    third.expect_end()
    first.send("DISCONNECT", receipt="bye")
    first.expect("RECEIPT")
    first.expect_end()
    shop.client().confirmed("SEND", destination="/topic/x")
    second.confirmed("SEND", destination="/topic/x")


def test_subscriptions_are_counted_over_all_connections_and_given_back(shop: Shop, name: str) -> None:
    shop.limit(max_subscriptions=2)
    first, second = shop.client("1.0"), shop.client("1.0")
    first.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}")
    second.confirmed("SUBSCRIBE", id="1", destination=f"/topic/{name}")
    second.send("SUBSCRIBE", id="2", destination=f"/queue/{name}")
    second.expect_error("limit_exceeded")
    first.confirmed("UNSUBSCRIBE", id="1")
    second.confirmed("SUBSCRIBE", id="2", destination=f"/queue/{name}")


def test_a_key_holds_no_more_messages_than_its_limit(shop: Shop, name: str) -> None:
    shop.limit(max_unacked=3)
    client = shop.client("1.0")
    for number in range(10):
        client.confirmed("SEND", b"%d" % number, destination=f"/queue/{name}")
    client.confirmed(
        "SUBSCRIBE", id="1", destination=f"/queue/{name}", ack="client-individual", **{"prefetch-count": 100}
    )
    held = [client.expect("MESSAGE") for _ in range(3)]
    assert client.silent(0.2)
    client.send("SUBSCRIBE", id="2", destination=f"/queue/{name}", ack="client")
    client.expect_error("limit_exceeded")
    client.confirmed("ACK", **{"message-id": held[0]["message-id"], "subscription": "1"})
    assert client.expect("MESSAGE").body == b"3"


def test_who_sends_too_much_is_slowed_and_loses_nothing(shop: Shop, name: str) -> None:
    shop.limit(max_sends_per_second=200)
    client = shop.client()
    frames = b"".join(b"SEND\ndestination:/queue/%b\n\n%d\0" % (name.encode(), number) for number in range(400))
    began = time.monotonic()
    for piece in (frames[at : at + 4096] for at in range(0, len(frames), 4096)):
        client.write(piece)
    for number in (400, 401):  # what comes at once is read at once: only then the socket is read no more
        client.confirmed("SEND", b"%d" % number, destination=f"/queue/{name}")
    assert time.monotonic() - began >= 0.9, "401 messages, of which 200 may come at once"
    shop.limit(max_sends_per_second=1_000_000)
    client.confirmed("SUBSCRIBE", id="1", destination=f"/queue/{name}", ack="auto")
    assert [client.expect("MESSAGE").body for _ in range(402)] == [b"%d" % number for number in range(402)]
