"""What people ask of gateways: who is connected, what they say, to end one; and figures and health over HTTP."""

import asyncio
import json
import queue as queues
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from apps.broker.engine import Address, Delivery, Message, Subscription
from apps.stomp.gateway.supervision import NAMESPACE, QUESTIONS
from apps.stomp.gateway.tracing import PER_SECOND, PIECE_LIMIT, shown
from msgweb.home import Listen
from tests.stomp_gateway import SECONDS, RunningGateway, WireClient, queue, stomp_database

__all__ = ["queue", "stomp_database"]  # fixtures


class Asker:
    """Asks a gateway over its own engine, and hears the answers. A `Consumer`."""

    def __init__(self, running: RunningGateway) -> None:
        self._running = running
        self._answers: queues.Queue[dict[str, Any]] = queues.Queue()
        self.topic = f"answer.{uuid.uuid4().hex}"

        async def subscribe() -> None:
            running.engine.subscribe(Address(NAMESPACE, "topic", self.topic), self, 1000)

        running.run(subscribe)

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._answers.put(json.loads(delivery.body))

    def lost(self, subscription: Subscription) -> None:
        raise AssertionError("a topic's subscription was lost")

    def ask(self, question: object) -> None:
        body = question if isinstance(question, bytes) else json.dumps(question).encode()

        async def send() -> None:
            handed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self._running.engine.send(Message(QUESTIONS, body), handed.set_result)
            await handed

        self._running.run(send)

    def answer(self) -> dict[str, Any]:
        return self._answers.get(timeout=SECONDS)


@pytest.fixture
def running(stomp_database: str) -> Iterator[RunningGateway]:
    with RunningGateway(stomp_database) as running:

        async def start() -> None:
            running.gateway.supervision.start()

        running.run(start)
        yield running


@pytest.fixture
def asker(running: RunningGateway) -> Asker:
    return Asker(running)


def test_the_connections_of_a_gateway(running: RunningGateway, asker: Asker, queue: str) -> None:
    client = running.client()
    session = client.connect()["session"]
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    client.expect("MESSAGE")
    running.client()  # it has said nothing yet
    asker.ask({"ask": "connections", "reply": asker.topic})
    answer = asker.answer()
    assert answer["session"] == running.engine.session
    shown_here = {one["name"]: one for one in answer["connections"]}
    assert set(shown_here) <= {session, ""} and answer["count"] == len(answer["connections"])
    found = shown_here[session]
    assert (found["login"], found["version"], found["sent"], found["delivered"]) == ("guest", "1.2", 1, 1)
    assert (found["subscriptions"], found["unacked"], found["paused"], found["clogged"]) == (1, 1, [], False)
    assert found["peer"].startswith("127.0.0.1:") and found["listener"].startswith("stomp://")


@pytest.mark.parametrize("by", ["login", "connection"])
def test_a_trace_shows_what_is_said_and_no_secret(running: RunningGateway, asker: Asker, by: str) -> None:
    client = running.client()
    session = client.connect()["session"]
    subject = {"login": "guest"} if by == "login" else {"connection": session}
    asker.ask({"ask": "trace", "reply": asker.topic, "seconds": 60, **subject})
    client.confirmed("SEND", b"hello", destination="/topic/x", passcode="a:secret")
    said, heard = asker.answer(), asker.answer()
    assert (said["direction"], said["connection"], heard["direction"]) == ("in", session, "out")
    assert "SEND\n" in said["text"] and "hello^@" in said["text"] and "passcode:***" in said["text"]
    assert "secret" not in said["text"]
    assert heard["text"].startswith("RECEIPT\n")
    if by == "login":  # who comes later is traced as well
        later = running.client()
        name = later.connect()["session"]
        assert asker.answer()["connection"] == name
    asker.ask({"ask": "trace", "reply": asker.topic, "seconds": 0, **subject})
    client.confirmed("SEND", b"unseen", destination="/topic/x")
    asker.ask({"ask": "connections", "reply": asker.topic})
    assert "connections" in asker.answer()  # and no piece before it


def test_a_trace_that_would_flood_is_counted_instead(running: RunningGateway, asker: Asker) -> None:
    client = running.connected()
    asker.ask({"ask": "trace", "reply": asker.topic, "seconds": 60, "login": "guest"})
    pieces: list[dict[str, Any]] = []
    while not any("missed" in piece for piece in pieces):
        for _ in range(PER_SECOND):  # each with its receipt: two pieces
            client.confirmed("SEND", b"", destination="/topic/x")
        while not asker._answers.empty():
            pieces.append(asker.answer())
    assert all(piece["missed"] > 0 for piece in pieces if "missed" in piece)


def test_long_pieces_are_cut() -> None:
    assert len(shown(b"x" * 100_000)) <= PIECE_LIMIT + 2
    assert shown(b"CONNECT\nPassCode : abc\nlogin:me\n\n\0") == "CONNECT\nPassCode:***\nlogin:me\n\n^@"


def test_a_connection_is_ended_from_the_console(running: RunningGateway, asker: Asker) -> None:
    client, other = running.client(), running.connected()
    session = client.connect()["session"]
    asker.ask({"ask": "end", "connection": session})
    client.expect_error("ended_by_operator")
    client.expect_end()
    other.confirmed("SEND", b"", destination="/topic/x")


def test_an_empty_name_ends_nobody(running: RunningGateway, asker: Asker) -> None:
    stranger = running.client()
    asker.ask({"ask": "end", "connection": ""})
    asker.ask({"ask": "connections", "reply": asker.topic})
    asker.answer()
    stranger.connect()


@pytest.mark.parametrize("question", [b"{", b"[]", b'"x"', {"ask": "what?"}, {"ask": "connections"}, {"ask": "trace"}])
def test_questions_that_make_no_sense_do_no_harm(running: RunningGateway, asker: Asker, question: object) -> None:
    asker.ask(question)
    asker.ask({"ask": "connections", "reply": asker.topic})
    assert asker.answer()["count"] == 0


# -- status


def get(port: int, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_health_and_figures_of_a_gateway(running: RunningGateway, queue: str) -> None:
    port = running.run(lambda: running.gateway.show_status(Listen("127.0.0.1", 0)))
    assert get(port, "/healthz") == (200, "application/json", '{"status": "ok"}')
    status, _, text = get(port, "/readyz")
    assert status == 200 and json.loads(text)["parts"] == {"database": True, "accepting": True}
    assert get(port, "/nothing")[0] == 404
    client, wrong = running.connected(), running.connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    client.expect("MESSAGE")
    wrong.send("SEND", b"", destination="/nowhere/x")
    wrong.expect_error("bad_destination")
    wrong.expect_end()
    wrong.close()
    while "connections_ended_total" not in (text := get(port, "/metrics")[2]):
        pass  # the gateway has not seen the end of it yet
    lines = text.splitlines()
    assert get(port, "/metrics")[1].startswith("text/plain")
    for line in (
        "msgweb_gateway_up 1.0",
        'msgweb_gateway_connections{listener="stomp://127.0.0.1:0"} 1.0',
        'msgweb_gateway_connections_ended_total{reason="bad_destination"} 1.0',
        'msgweb_gateway_errors_total{code="bad_destination"} 1.0',
        "msgweb_gateway_messages_received_total 1.0",
        "msgweb_gateway_messages_delivered_total 1.0",
        "msgweb_gateway_messages_unacked 1.0",
        "msgweb_gateway_subscriptions 1.0",
    ):
        assert line in lines, text


def test_a_gateway_that_drains_is_not_ready(running: RunningGateway) -> None:
    port = running.run(lambda: running.gateway.show_status(Listen("127.0.0.1", 0)))
    running.gateway.draining = True
    status, _, text = get(port, "/readyz")
    assert status == 503 and json.loads(text)["status"] == "unavailable"


def test_a_status_port_is_no_place_for_anything_else(running: RunningGateway) -> None:
    port = running.run(lambda: running.gateway.show_status(Listen("127.0.0.1", 0)))
    for garbage in (b"\0" * 100, b"CONNECT\n\n\0", b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"x" * 100_000):
        client = WireClient(port)
        running.keep(client)
        client.write(garbage)
        answer = b""
        try:
            while part := client.socket.recv(4096):
                answer += part
        except ConnectionResetError:
            pass  # it did not read all
        assert b"msgweb_gateway" not in answer
    assert get(port, "/healthz")[0] == 200
