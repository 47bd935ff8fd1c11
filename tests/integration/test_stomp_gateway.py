"""The gateway beyond the protocol's rules: limits, pressure, loss, drain, the door to jobs, a real client library."""

import asyncio
import logging
import threading
import time
from typing import Any

import psycopg
import pytest
import stomp

from apps.broker import selectors
from apps.stomp.gateway.hoards import Hoards
from apps.stomp.protocol.parser import Limits
from tests.installation import until
from tests.stomp_gateway import (
    NAMESPACE,
    SECONDS,
    RunningGateway,
    WireClient,
    gateway,
    gateway_with,
    queue,
    stomp_database,
    topic,
)

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures


# -- limits and strangers


def test_who_does_not_log_in_in_time_is_told_and_ended(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database, login_seconds=2) as gateway:
        inside = gateway.connected()
        strangers = [gateway.client() for _ in range(3)]
        for stranger, said in zip(strangers, (b"", b"CONN", b"\n"), strict=True):
            stranger.write(said)
        for stranger in strangers:
            stranger.expect_error("login_timeout")
            stranger.expect_end()
        inside.confirmed("SEND", destination=queue)  # who is in stays in


def test_a_tls_hello_is_recognised_and_ended(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    client = gateway.client()
    with caplog.at_level(logging.INFO):
        client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500)
        client.expect_end()
        until(lambda: "tls_on_plain_port" in caplog.text, SECONDS, "one line in the log")


def test_an_http_request_gets_an_answer_that_its_sender_understands(gateway: RunningGateway) -> None:
    client = gateway.client()
    client.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while data := client.socket.recv(1000):
        answer += data
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"HTTP is elsewhere.")


def test_a_large_message_passes_and_a_too_large_one_is_refused_before_it_comes(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database, limits=Limits(frame=3_000_000)) as gateway:
        client = gateway.connected()
        client.confirmed("SUBSCRIBE", id=0, destination=queue)
        body = bytes(range(256)) * 10_000
        client.confirmed("SEND", body, destination=queue, content_length=len(body))
        assert client.expect("MESSAGE").body == body
        client.write(f"SEND\ndestination:{queue}\nreceipt:r\ncontent-length:10000000000\n\n".encode())
        assert client.expect_error("limit_exceeded")["receipt-id"] == "r"
        client.expect_end()


def test_bytes_that_trickle_in_are_understood(gateway: RunningGateway, queue: str) -> None:
    client = gateway.client()
    data = (
        "\r\nSTOMP\r\naccept-version:1.2\r\nlogin:guest\r\npasscode:a:secret\r\n\r\n\0\n"
        f"SUBSCRIBE\nid:0\ndestination:{queue}\n\n\0"
        f"SEND\ndestination:{queue}\ncontent-length:3\nreceipt:r\n\na\0b\0\n"
    ).encode()
    for index in range(len(data)):
        client.write(data[index : index + 1])
    client.expect("CONNECTED")
    assert {client.read().command, client.read().command} == {"MESSAGE", "RECEIPT"}


def test_what_a_client_says_before_connected_waits(gateway: RunningGateway, queue: str) -> None:
    client = gateway.client()
    client.write(
        f"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:a:secret\n\n\0"
        f"SEND\ndestination:{queue}\nreceipt:1\n\nx\0DISCONNECT\nreceipt:2\n\n\0".encode()
    )
    client.expect("CONNECTED")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["1", "2"]
    client.expect_end()


def test_limits_of_a_connection(stomp_database: str, queue: str) -> None:
    options: dict[str, Any] = {"subscriptions": 2, "transactions": 2, "transaction_frames": 3, "transaction_bytes": 100}
    with gateway_with(stomp_database, **options) as gateway:
        client = gateway.connected()
        for number in range(3):
            client.send("SUBSCRIBE", id=number, destination=queue)
        client.expect_error("limit_exceeded")
        client = gateway.connected()
        for number in range(3):
            client.send("BEGIN", transaction=number)
        client.expect_error("limit_exceeded")
        for sizes in ([1] * 4, [60, 60]):
            client = gateway.connected()
            client.send("BEGIN", transaction="t")
            for size in sizes:
                client.send("SEND", b"x" * size, destination=queue, transaction="t")
            client.expect_error("limit_exceeded")


def test_unfinished_frames_and_transactions_share_an_allowance(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database) as gateway:
        gateway.gateway.hoards = Hoards(5_000_000)
        stale, gathering, good = (gateway.connected() for _ in range(3))
        stale.write(f"SEND\ndestination:{queue}\ncontent-length:9000000\n\n".encode() + b"x" * 2_000_000)
        until(lambda: gateway.gateway.hoards.kept >= 2_000_000, SECONDS, "the frame that does not end is counted")
        gathering.send("BEGIN", transaction="t")
        for number in range(3):
            body = b"%d" % number * 1_200_000
            gathering.confirmed("BEGIN", transaction=number)
            gathering.send("SEND", body, destination=queue, transaction="t", content_length=len(body))
        stale.expect_error("limit_exceeded")
        stale.expect_end()
        gathering.confirmed("COMMIT", transaction="t")
        assert gateway.gateway.hoards.kept == 0
        good.send("SUBSCRIBE", id=0, destination=queue)
        assert [len(good.expect("MESSAGE").body) for _ in range(3)] == [1_200_000] * 3


# -- pressure


def test_a_subscriber_that_does_not_read_loses_topic_messages_and_slows_nobody(
    stomp_database: str, topic: str, queue: str
) -> None:
    with gateway_with(stomp_database, write_buffer=100_000) as gateway:
        slow, publisher, good = gateway.connected(), gateway.connected(), gateway.connected()
        for subscriber in (slow, good):
            subscriber.confirmed("SUBSCRIBE", id=0, destination=topic)
        body = b"x" * 100_000
        for number in range(200):  # 20 MB, far more than the sockets between us hold
            publisher.confirmed("SEND", body, destination=topic, number=number)
            assert good.expect("MESSAGE")["number"] == str(number)
        got = 0
        while not slow.silent(0.5):
            slow.expect("MESSAGE")
            got += 1
        assert 0 < got < 200
        slow.confirmed("SEND", b"still well", destination=queue)


def test_auto_acks_wait_for_a_client_that_does_not_read(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database, write_buffer=100_000, auto_credit=400) as gateway:
        producer, slow = gateway.connected(), gateway.connected()
        body = b"x" * 100_000
        for number in range(200):
            producer.confirmed("SEND", body, destination=queue, number=number, persistent="true")
        slow.send("SUBSCRIBE", id=0, destination=queue)
        first = slow.expect("MESSAGE")
        assert first["number"] == "0"
        slow.close()  # most of the rest never reached it
        other = gateway.connected()
        other.send("SUBSCRIBE", id=0, destination=queue)
        reached = int(other.expect("MESSAGE")["number"])
        assert reached < 150  # the sockets between us never hold 15 MB
        for number in range(reached + 1, 200):
            assert other.expect("MESSAGE")["number"] == str(number)


def test_auto_acks_go_on_when_the_client_reads_again(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database, write_buffer=100_000, auto_credit=50) as gateway:
        producer, slow = gateway.connected(), gateway.connected()
        for number in range(200):
            producer.confirmed("SEND", b"x" * 100_000, destination=queue, number=number)
        slow.send("SUBSCRIBE", id=0, destination=queue)
        assert [slow.expect("MESSAGE")["number"] for _ in range(200)] == [str(number) for number in range(200)]


def test_a_client_that_sends_and_never_reads_its_receipts_is_read_no_more(stomp_database: str, topic: str) -> None:
    with gateway_with(stomp_database, write_buffer=10_000, receipt_buffer=50_000) as gateway:
        client = gateway.connected()
        client.socket.settimeout(3)
        mark = "x" * 1_000
        sent = b"".join(f"SEND\ndestination:{topic}\nreceipt:{n}-{mark}\n\n\0".encode() for n in range(100_000))
        with pytest.raises(TimeoutError):  # 100 MB do not fit into the sockets between us
            client.socket.sendall(sent)
        for number in range(1_000):
            assert client.expect("RECEIPT")["receipt-id"] == f"{number}-{mark}"


def test_senders_are_not_read_while_the_engine_is_congested(
    stomp_database: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.broker.postgres.backlog.CONGESTED_OPERATIONS", 5)
    with gateway_with(stomp_database) as gateway:
        client = gateway.connected()
        client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client", prefetch_count=2_000)
        for number in range(1_000):
            client.send("SEND", b"%d" % number, destination=queue, receipt=number)
        commands = [client.read() for _ in range(2_000)]
        bodies = [frame.body for frame in commands if frame.command == "MESSAGE"]
        assert bodies == [b"%d" % number for number in range(1_000)]


# -- loss


def test_a_fenced_off_session_voids_what_is_held_and_the_client_need_not_know(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database) as gateway:
        client = gateway.connected()
        client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
        client.confirmed("SUBSCRIBE", id=1, destination=queue + "b", ack="client")
        client.confirmed("SEND", b"x", destination=queue, persistent="true")
        client.confirmed("SEND", b"y", destination=queue + "b", persistent="true")
        first = {message.body: message for message in (client.expect("MESSAGE"), client.expect("MESSAGE"))}
        client.confirmed("BEGIN", transaction="t")
        client.send("ACK", id=first[b"y"]["ack"], transaction="t")
        session = gateway.engine.session
        with psycopg.connect(stomp_database, autocommit=True) as connection:
            connection.execute("SELECT msgweb.bury_sessions(ARRAY[%s]::integer[])", (session,))
        again = {message.body: message for message in (client.expect("MESSAGE"), client.expect("MESSAGE"))}
        assert again[b"x"]["message-id"] == first[b"x"]["message-id"]
        assert again[b"x"]["redelivered"] == "true"
        client.confirmed("ACK", id=again[b"x"]["ack"])
        client.send("COMMIT", transaction="t", receipt="c")
        assert client.expect_error("session_lost")["receipt-id"] == "c"


def test_sends_wait_while_the_database_is_away(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database) as gateway:
        client = gateway.connected()
        client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
        with psycopg.connect(stomp_database, autocommit=True) as connection:
            connection.execute(  # only those of this gateway: others share the database
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'msgweb %%' || %s",
                [gateway.engine._process],
            )
            client.confirmed("SEND", b"x", destination=queue, persistent="true")
        assert client.expect("MESSAGE").body == b"x"


def test_a_new_client_is_told_that_the_database_is_away(stomp_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway_with(stomp_database) as gateway:
        monkeypatch.setattr(type(gateway.engine), "healthy", property(lambda _: False))
        client = gateway.client()
        client.send("CONNECT", accept_version="1.2", login="guest", passcode="a:secret")
        client.expect_error("unavailable")
        client.expect_end()


# -- the end


def test_drain_ends_who_is_quiet_and_lets_others_finish(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database) as gateway:
        idle, busy = gateway.connected(), gateway.connected()
        busy.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client", prefetch_count=1)
        busy.confirmed("SEND", b"1", destination=queue, persistent="true")
        busy.confirmed("SEND", b"2", destination=queue, persistent="true")
        message = busy.expect("MESSAGE")
        drained = asyncio.run_coroutine_threadsafe(gateway.gateway.drain(SECONDS), gateway._loop)
        idle.expect_error("shutting_down")
        idle.expect_end()
        with pytest.raises(ConnectionRefusedError):
            WireClient(gateway.port)
        busy.confirmed("ACK", id=message["ack"])  # and nothing new comes
        busy.expect_error("shutting_down")
        busy.expect_end()
        busy.close()
        drained.result(SECONDS)


def test_drain_ends_who_does_not_finish_in_time(stomp_database: str, queue: str) -> None:
    with gateway_with(stomp_database) as gateway:
        stubborn = gateway.connected()
        stubborn.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
        stubborn.confirmed("SEND", b"1", destination=queue)
        stubborn.expect("MESSAGE")
        begin = time.monotonic()
        gateway.run(lambda: gateway.gateway.drain(0.3))
        assert 0.3 <= time.monotonic() - begin < 10
        stubborn.expect_error("shutting_down")


def test_one_line_a_connection_without_secrets(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        client = gateway.connected()
        peer = f"peer=127.0.0.1:{client.socket.getsockname()[1]} "
        client.send("SEND", b"a body", destination="/topic/x")
        client.confirmed("DISCONNECT")
        client.close()
        until(lambda: peer in caplog.text, SECONDS, "the line")
    [line] = [record.getMessage() for record in caplog.records if peer in record.getMessage()]
    assert "reason=disconnected" in line
    assert "login=guest" in line and "sent=1" in line and f"namespace={NAMESPACE}" in line
    assert "secret" not in caplog.text and "a body" not in caplog.text


# -- a real client library


class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Collects what stomp.py hands over."""

    def __init__(self) -> None:
        self.arrived = threading.Condition()
        self.messages: list[Any] = []
        self.errors: list[Any] = []
        self.receipts: list[str] = []
        self.beats = 0

    def on_message(self, frame: Any) -> None:
        with self.arrived:
            self.messages.append(frame)
            self.arrived.notify_all()

    def on_error(self, frame: Any) -> None:
        with self.arrived:
            self.errors.append(frame)
            self.arrived.notify_all()

    def on_receipt(self, frame: Any) -> None:
        with self.arrived:
            self.receipts.append(frame.headers["receipt-id"])
            self.arrived.notify_all()

    def on_heartbeat(self) -> None:
        with self.arrived:
            self.beats += 1
            self.arrived.notify_all()

    def wait(self, condition: Any) -> None:
        with self.arrived:
            assert self.arrived.wait_for(condition, SECONDS)


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_stomp_py_sends_receives_acks_nacks_and_transacts(gateway: RunningGateway, queue: str, version: str) -> None:
    make = getattr(stomp, f"Connection{version}")
    options = {} if version == "10" else {"heartbeats": (300, 300)}
    note = "a:b" if version == "10" else "a:b\\c"  # stomp.py decodes escapes on 1.0 too, which has none
    connection = make([("127.0.0.1", gateway.port)], **options)
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect("guest", "a:secret", wait=True)

    def settle(verb: Any, frame: Any) -> None:
        if version == "12":
            verb(frame.headers["ack"])
        elif version == "11":
            verb(frame.headers["message-id"], "s")
        else:
            verb(frame.headers["message-id"])

    try:
        connection.subscribe(queue, id="s", ack="client-individual")
        connection.send(queue, "grüße: \\ \n", headers={"note": note, "persistent": "true"}, receipt="r1")
        listener.wait(lambda: listener.messages and listener.receipts)
        [message] = listener.messages
        assert message.body == "grüße: \\ \n"
        assert message.headers["note"] == note
        if version == "10":
            settle(connection.ack, message)
        else:
            settle(connection.nack, message)
            listener.wait(lambda: len(listener.messages) == 2)
            assert listener.messages[1].headers["redelivered"] == "true"
            settle(connection.ack, listener.messages[1])
            listener.wait(lambda: listener.beats >= 2)
        before = len(listener.messages)
        transaction = connection.begin()
        connection.send(queue, "in a transaction", transaction=transaction)
        connection.commit(transaction)
        listener.wait(lambda: len(listener.messages) == before + 1)
        settle(connection.ack, listener.messages[-1])
        assert not listener.errors
    finally:
        connection.disconnect()


# -- selectors that take long to read


def long_selector(name: str) -> str:
    return " OR ".join(f"{name}{number} = 'x'" for number in range(240))


def test_a_long_selector_is_read_in_its_turn_and_frames_keep_their_order(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.write(
        f"SUBSCRIBE\nid:0\ndestination:{queue}\nselector:{long_selector('a')}\nreceipt:1\n\n\0"
        f"SEND\ndestination:{queue}\na7:x\nreceipt:2\n\nchosen\0".encode()
    )
    assert client.expect("RECEIPT")["receipt-id"] == "1"
    arrived = {client.read().command for _ in range(2)}
    assert arrived == {"RECEIPT", "MESSAGE"}


def test_a_long_selector_that_is_none_is_refused_after_what_came_before_it(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.write(
        f"SEND\ndestination:{queue}\nreceipt:1\n\n\0"
        f"SUBSCRIBE\nid:0\ndestination:{queue}\nselector:{long_selector('a')} OR\nreceipt:2\n\n\0".encode()
    )
    assert client.expect("RECEIPT")["receipt-id"] == "1"
    assert client.expect_error("bad_selector")["receipt-id"] == "2"
    client.expect_end()


def test_who_has_many_long_selectors_read_does_not_hold_up_the_others(gateway: RunningGateway, queue: str) -> None:
    greedy, other = gateway.connected(), gateway.connected()
    count, before = 40, selectors.parse.cache_info().misses
    greedy.write(
        b"".join(
            f"SUBSCRIBE\nid:{number}\ndestination:{queue}\nselector:{long_selector(f'n{number}_')}\n"
            f"receipt:{number}\n\n\0".encode()
            for number in range(count)
        )
    )
    assert greedy.expect("RECEIPT")["receipt-id"] == "0"
    other.confirmed("SEND", destination="/queue/of-the-other")
    other.confirmed("SEND", destination="/queue/of-the-other")
    assert selectors.parse.cache_info().misses - before < count / 2, "all of them were read first"
