"""Something happens to a connection in the middle of something else: it closes, it drains, a request cannot be."""

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
from django.db import OperationalError

from apps.stomp.gateway import channels
from apps.stomp.gateway.connections import ClientConnection
from apps.stomp.gateway.ports import Credentials, Principal
from tests.installation import until
from tests.stomp_gateway import (
    SECONDS,
    OneKey,
    RunningGateway,
    WireClient,
    gateway,
    gateway_with,
    queue,
    stomp_database,
    topic,
)

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures

LOGIN = b"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:a:secret\n\n\0"
OPENING = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CLOSE = struct.pack("!BB4xH", 0x88, 0x82, 1000)


@pytest.fixture
def serve(stomp_database: str) -> Iterator[Callable[..., RunningGateway]]:
    with contextlib.ExitStack() as stack:
        yield lambda *urls: stack.enter_context(RunningGateway(stomp_database, listeners=urls))


def binary(data: bytes) -> bytes:
    """A message of a WebSocket's client; masked with zeros, which change nothing."""
    return struct.pack("!BBH4x", 0x82, 0x80 | 126, len(data)) + data


def send(destination: str, body: bytes, *lines: str) -> bytes:
    head = "\n".join(["SEND", f"destination:{destination}", "persistent:true", *lines])
    return f"{head}\n\n".encode() + body + b"\0"


def opened(running: RunningGateway) -> WireClient:
    client = running.client()
    client.write(OPENING)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.socket.recv(1)
    return client


def connection_of(running: RunningGateway, client: WireClient) -> ClientConnection:
    port = client.socket.getsockname()[1]
    (connection,) = [one for one in running.gateway.connections if one.peer and one.peer[1] == port]
    return connection


def connections_of(running: RunningGateway) -> Callable[[], Awaitable[int]]:
    """How many there are, once the loop has done what was due."""

    async def count() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return len(running.gateway.connections)

    return count


def bodies(reader: WireClient, queue: str, count: int) -> list[bytes]:
    reader.confirmed("SUBSCRIBE", id="1", destination=queue)
    return [reader.expect("MESSAGE").body for _ in range(count)]


# -- a WebSocket that closes


def test_what_a_browser_sent_before_its_log_in_was_answered_is_done_though_it_closes(
    serve: Callable[..., RunningGateway], gateway: RunningGateway, queue: str
) -> None:
    class Slow(OneKey):
        async def authenticate(self, credentials: Credentials) -> Principal:
            await asked.wait()
            return await super().authenticate(credentials)

    running = serve("ws://127.0.0.1:0")
    asked = asyncio.Event()
    running.gateway.authenticator = Slow()
    client = opened(running)
    client.write(binary(LOGIN) + binary(send(queue, b"1")) + CLOSE)
    client.socket.shutdown(socket.SHUT_WR)
    while client.socket.recv(100)[:1] != b"\x88":
        pass  # until the gateway's half of the closing handshake
    running._loop.call_soon_threadsafe(asked.set)
    client.expect_end()
    assert bodies(gateway.connected(), queue, 1) == [b"1"]


def test_what_a_browser_sent_behind_a_declaration_is_done_though_it_closes(
    serve: Callable[..., RunningGateway], gateway: RunningGateway, queue: str
) -> None:
    client = opened(serve("ws://127.0.0.1:0"))
    client.write(binary(LOGIN))
    assert b"CONNECTED" in client.socket.recv(1000)
    client.write(binary(send(queue, b"1", "x-max-length:9")) + binary(send(queue, b"2")) + CLOSE)
    assert bodies(gateway.connected(), queue, 2) == [b"1", b"2"]


def test_pings_of_a_client_that_never_reads_cost_bounded_memory(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0")
    client = opened(running)
    ping = struct.pack("!BB4x", 0x89, 0x80 | 125) + b"x" * 125
    client.socket.setblocking(False)
    (connection,) = running.gateway.connections
    pings, sent = ping * 1000, 0
    while "clogged" not in connection.holds and sent < 100_000_000:
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(pings[sent % len(pings) :])
    assert sent < 100_000_000
    assert connection.unread < 12_000_000


# -- the end of a conversation


def test_a_line_end_behind_disconnect_does_not_cost_its_receipt(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.send("SEND", b"x", destination=queue, receipt="sent")
    here = connection_of(gateway, client)
    client.send("DISCONNECT", receipt="bye")
    until(lambda: here not in gateway.gateway.connections, SECONDS, "the gateway has closed")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.write(b"\n")  # nobody reads it: the connection is reset
        client.write(b"\n")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["sent", "bye"]


@pytest.mark.parametrize("kind", ["beats", "receives"])
def test_who_may_have_more_to_say_or_to_read_is_not_cut_off_behind_disconnect(
    stomp_database: str, queue: str, kind: str
) -> None:
    with gateway_with(stomp_database, linger_seconds=3600.0) as gateway:
        client = gateway.connected(**({"heart_beat": "60000,0"} if kind == "beats" else {}))
        if kind == "receives":
            client.confirmed("SUBSCRIBE", id=1, destination=queue)
        client.confirmed("DISCONNECT")
        client.expect_end()
        assert gateway.run(connections_of(gateway))  # its socket is still read
        client.close()
        until(lambda: not gateway.gateway.connections, SECONDS, "the connection is gone")


def test_who_goes_on_sending_behind_its_error_is_read_a_little_and_then_no_more(
    stomp_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "DRAIN_RATE", 0.001)
    with gateway_with(stomp_database) as gateway:
        client = gateway.connected()
        here = connection_of(gateway, client)
        client.write(b"NO SUCH\n\n\0")
        client.socket.setblocking(False)
        sent = 0
        while "drain" not in here.holds:
            with contextlib.suppress(BlockingIOError):
                sent += client.socket.send(bytes(100_000))
        assert sent > channels.DRAIN_AT_ONCE
        client.socket.setblocking(True)
        client.expect("ERROR")
        client.close()
        until(lambda: not gateway.gateway.connections, SECONDS, "it has lingered")


def test_who_notices_its_error_late_can_say_all_and_then_reads_it(stomp_database: str) -> None:
    with gateway_with(stomp_database, linger_seconds=3600.0) as gateway:
        client = gateway.connected()
        client.write(b"NO SUCH\n\n\0" + bytes(3 * channels.DRAIN_AT_ONCE))
        client.expect("ERROR")
        client.expect_end()


# -- what a connection leaves


@pytest.mark.parametrize("farewell", ["DISCONNECT", "end"])
def test_who_sends_and_goes_leaves_nothing_to_the_garbage_collector(
    gateway: RunningGateway, queue: str, farewell: str
) -> None:
    async def collect() -> None:
        gc.collect()
        gc.disable()

    client = gateway.connected()
    name = connection_of(gateway, client).name

    def is_left() -> bool:
        return any(type(one) is ClientConnection and one.name == name for one in gc.get_objects())

    assert is_left()
    gateway.run(collect)
    try:
        client.confirmed("SEND", b"x", destination=queue)
        client.confirmed("BEGIN", transaction="t")
        client.send("SEND", b"y", destination=queue, transaction="t")
        if farewell == "DISCONNECT":
            client.confirmed("DISCONNECT")
            client.expect_end()
        client.close()
        until(lambda: not is_left(), SECONDS, "the connection's memory to be free")
    finally:
        gc.enable()


# -- what cannot be


@pytest.mark.parametrize("name", ["priority", "expiration", "x-delay", "x-max-length", "x-queue-type"])
def test_a_value_is_quoted_in_its_error_wherever_it_is_cut(gateway: RunningGateway, queue: str, name: str) -> None:
    client = gateway.connected()
    client.write(send(queue, b"1", f"{name}:x" + "é" * 60, "receipt:r"))
    assert client.expect("ERROR")["receipt-id"] == "r"


def test_a_queue_of_a_virtual_topic_that_is_no_pattern_is_refused_and_leaves_nothing(gateway: RunningGateway) -> None:
    client = gateway.connected("1.0")
    client.send("SUBSCRIBE", id="1", destination="/queue/Consumer.A.VirtualTopic.>.x", receipt="r")
    assert client.expect_error("bad_destination")["receipt-id"] == "r"
    assert not connection_of(gateway, client).receiving.subscriptions
    client.confirmed("SUBSCRIBE", id="1", destination="/topic/x")


def test_a_fault_of_the_gateway_is_told_to_the_client_and_to_nobody_else(
    gateway: RunningGateway, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    client, other = gateway.connected(), gateway.connected()
    with monkeypatch.context() as patch:
        patch.setattr("apps.stomp.gateway.features.priority_of", fail)
        client.send("SEND", destination=queue)
        assert b"secret" not in client.expect_error("internal_error").body
        client.expect_end()
    assert "ZeroDivisionError" in caplog.text
    other.confirmed("SEND", destination=queue)


def test_a_declaration_that_fails_by_a_fault_of_the_gateway_is_told(
    gateway: RunningGateway, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    client = gateway.connected()
    with monkeypatch.context() as patch:
        patch.setattr(gateway.queues, "declare", fail)
        client.send("SEND", destination=queue, x_max_length="9", receipt="r")
        client.expect_error("internal_error")
        client.expect_end()


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_a_browser_is_told_that_the_database_went_away_and_holds_up_nobody(
    gateway: RunningGateway, queue: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("the connection is gone")

    client, other = gateway.connected(version), gateway.connected()
    with monkeypatch.context() as patch:
        patch.setattr("apps.broker.queue_actions.Walk.next_page", fail)
        client.confirmed("SUBSCRIBE", id="1", destination=queue, browser="true")
        client.expect_error("unavailable")
    if version == "1.0":  # it goes on, and may try again
        client.confirmed("UNSUBSCRIBE", id="1")
        client.confirmed("SUBSCRIBE", id="1", destination=queue, browser="true")
        assert client.expect("MESSAGE")["browser"] == "end"
    else:
        client.expect_end()
    other.confirmed("SEND", destination=queue)


def test_a_composite_destination_may_name_a_temporary_one(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id="1", destination="/temp-queue/mine")
    client.confirmed("SUBSCRIBE", id="2", destination=queue)
    client.confirmed("SEND", b"x", destination=f"/temp-queue/mine,{queue}")
    got = {client.expect("MESSAGE")["subscription"] for _ in "12"}
    assert got == {"1", "2"}
    client.confirmed("UNSUBSCRIBE", id="1")
    client.confirmed("SEND", b"y", destination=f"/temp-queue/mine,{queue}")  # another one by now, which nobody reads
    assert client.expect("MESSAGE")["subscription"] == "2"


# -- transactions and subscriptions


def test_an_aborted_transaction_gives_nothing_back_to_a_subscription_that_has_ended(
    gateway: RunningGateway, queue: str
) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client-individual")
    client.confirmed("SEND", b"x", destination=queue)
    message = client.expect("MESSAGE")
    client.confirmed("BEGIN", transaction="t")
    client.send("ACK", id=message["ack"], transaction="t")
    client.confirmed("UNSUBSCRIBE", id="1")
    client.confirmed("ABORT", transaction="t")
    assert not connection_of(gateway, client).held


def test_a_failed_commit_gives_back_what_it_can(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.0")
    for one in ("1", "2"):
        client.confirmed("SUBSCRIBE", id=one, destination=f"{queue}.{one}", ack="client-individual")
        client.confirmed("SEND", b"x", destination=f"{queue}.{one}")
    ids = {frame["subscription"]: frame["message-id"] for frame in (client.expect("MESSAGE"), client.expect("MESSAGE"))}
    client.confirmed("BEGIN", transaction="t")
    for one in ids.values():
        client.send("ACK", message_id=one, transaction="t")
    client.confirmed("UNSUBSCRIBE", id="1")
    client.send("COMMIT", transaction="t")
    client.expect_error("session_lost")
    client.confirmed("ACK", message_id=ids["2"])


def test_a_refused_durable_subscription_leaves_nothing_behind(gateway: RunningGateway, topic: str) -> None:
    client = gateway.connected("1.0")
    client.send("SUBSCRIBE", id="1", destination=topic, durable="true", x_max_length="nonsense")
    client.expect("ERROR")
    assert not connection_of(gateway, client).receiving._durable


# -- a gateway that is being stopped


def test_who_subscribes_while_the_gateway_drains_gets_nothing_new(stomp_database: str, queue: str) -> None:
    with RunningGateway(stomp_database) as running:
        client = running.connected()
        client.confirmed("SEND", b"1", destination=queue, persistent="true")
        client.confirmed("BEGIN", transaction="t")
        drained = asyncio.run_coroutine_threadsafe(running.gateway.drain(3), running._loop)
        until(lambda: running.gateway.draining, SECONDS, "it drains")
        client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
        client.send("ABORT", transaction="t")
        client.expect_error("shutting_down")
        client.close()
        drained.result(SECONDS)


def test_half_a_frame_may_be_finished_while_the_gateway_drains(stomp_database: str, queue: str) -> None:
    with RunningGateway(stomp_database) as running:
        client = running.connected()
        frame = send(queue, b"1", "receipt:r")
        client.write(frame[:-5])
        (connection,) = running.gateway.connections
        until(lambda: connection.core.kept > 0, SECONDS, "half of it is there")
        drained = asyncio.run_coroutine_threadsafe(running.gateway.drain(SECONDS), running._loop)
        until(lambda: running.gateway.draining, SECONDS, "it drains")
        assert client.silent(0.3)
        client.write(frame[-5:])
        client.expect("RECEIPT")
        client.expect_error("shutting_down")
        client.close()
        drained.result(SECONDS)
