"""What clients do to queues by headers: settings, browsers, composite destinations; and errors in their order."""

import uuid

import psycopg
import pytest

from tests.conformance.test_stomp_broker import ack_headers
from tests.stomp_gateway import NAMESPACE, RunningGateway, WireClient, gateway, queue, stomp_database, topic

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures


def setting(conninfo: str, queue: str, name: str) -> object:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            f"SELECT {name} FROM msgweb.destination WHERE namespace = %s AND kind = 'queue' AND name = %s",  # type: ignore[arg-type]
            [NAMESPACE, queue.removeprefix("/queue/")],
        ).fetchone()
    assert row is not None
    return row[0]


def bodies(client: WireClient, count: int) -> list[bytes]:
    return [client.expect("MESSAGE").body for _ in range(count)]


@pytest.mark.parametrize("command", ["SUBSCRIBE", "SEND"])
def test_a_new_queue_gets_the_settings_that_a_client_declares(
    gateway: RunningGateway, stomp_database: str, queue: str, command: str
) -> None:
    client = gateway.connected()
    client.confirmed(command, id="1", destination=queue, **{"x-max-length": "2", "x-message-ttl": "90000"})
    assert setting(stomp_database, queue, "max_length") == 2
    assert setting(stomp_database, queue, "overflow") == "drop-head"
    assert setting(stomp_database, queue, "message_ttl") == 90.0
    client.confirmed(command, id="2", destination=queue, **{"x-max-length": "2"})


@pytest.mark.parametrize("command", ["SUBSCRIBE", "SEND"])
def test_a_queue_that_has_other_settings_refuses_the_declaration(
    gateway: RunningGateway, stomp_database: str, queue: str, command: str
) -> None:
    client = gateway.connected("1.0")  # goes on after an ERROR
    client.confirmed("SEND", destination=queue, **{"x-max-length": "2", "x-overflow": "reject-publish"})
    client.send(command, id="1", destination=queue, receipt="r", **{"x-max-length": "3"})
    error = client.expect_error("settings_differ")
    assert error["receipt-id"] == "r" and "max_length" in error["message"]
    assert setting(stomp_database, queue, "max_length") == 2
    client.confirmed("SUBSCRIBE", id="1", destination=queue)


def test_what_a_client_says_behind_a_declaration_waits_for_it(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    limit = {"x-max-length": "2", "x-overflow": "reject-publish"}
    client.send("SEND", b"0", destination=queue, receipt="0", **limit)
    for number in range(1, 4):
        client.send("SEND", b"%d" % number, destination=queue, receipt=number)
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["0", "1"]
    assert client.expect_error("queue_full")["receipt-id"] == "2"
    client.expect_end()


def test_a_browser_sees_what_waits_and_takes_nothing(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for priority, body in ((4, b"b"), (4, b"c"), (9, b"a"), (0, b"d")):
        client.confirmed("SEND", body, destination=queue, priority=priority)
    client.confirmed("SUBSCRIBE", id="look", destination=queue, browser="true", ack="client")
    assert bodies(client, 4) == [b"a", b"b", b"c", b"d"]
    end = client.expect("MESSAGE")
    assert (end["browser"], end["subscription"], end.body) == ("end", "look", b"")
    client.confirmed("UNSUBSCRIBE", id="look")
    client.confirmed("SUBSCRIBE", id="take", destination=queue, ack="client")
    message = client.expect("MESSAGE")
    assert (message.body, message["delivery-count"]) == (b"a", "1")


def test_a_browser_with_a_selector_sees_what_matches(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for number in range(4):
        client.confirmed("SEND", b"%d" % number, destination=queue, number=number)
    client.confirmed("SUBSCRIBE", id="look", destination=queue, browser="true", selector="number >= 2")
    assert bodies(client, 3) == [b"2", b"3", b""]


def test_a_browser_of_a_queue_that_is_not_there_ends_at_once(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id="look", destination=queue, browser="true")
    assert client.expect("MESSAGE")["browser"] == "end"


def test_a_browser_that_acks_what_it_sees_does_no_harm(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SEND", b"a", destination=queue)
    client.confirmed("SUBSCRIBE", id="look", destination=queue, browser="true", ack="client")
    client.confirmed("ACK", **ack_headers("1.2", client.expect("MESSAGE")))
    assert client.expect("MESSAGE")["browser"] == "end"
    client.confirmed("SUBSCRIBE", id="take", destination=queue)
    assert client.expect("MESSAGE").body == b"a"


def test_a_browser_walks_over_many_pages_without_holding_them(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    body = b"x" * 30_000
    for number in range(450):
        client.send("SEND", body, destination=queue, content_length=len(body), number=number)
    client.confirmed("SEND", b"last", destination=queue)
    client.confirmed("SUBSCRIBE", id="look", destination=queue, browser="true")
    assert [client.expect("MESSAGE").get("number") for _ in range(450)] == [str(number) for number in range(450)]
    assert bodies(client, 2) == [b"last", b""]


def test_a_composite_destination_sends_to_each_at_once(gateway: RunningGateway, queue: str, topic: str) -> None:
    other = f"/queue/test.{uuid.uuid4().hex}"
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id="topic", destination=topic)
    client.confirmed("SEND", b"a", destination=f"{queue},{topic},{other}", priority=7)
    client.confirmed("SUBSCRIBE", id="queue", destination=queue)
    client.confirmed("SUBSCRIBE", id="other", destination=other)
    found = [client.expect("MESSAGE") for _ in range(3)]
    assert {(frame["subscription"], frame["destination"], frame.body) for frame in found} == {
        ("topic", topic, b"a"),
        ("queue", queue, b"a"),
        ("other", other, b"a"),
    }


def test_a_composite_destination_is_sent_to_as_a_whole_or_not_at_all(gateway: RunningGateway, queue: str) -> None:
    full = f"/queue/test.{uuid.uuid4().hex}"
    client = gateway.connected("1.0")
    client.confirmed("SEND", b"a", destination=full, **{"x-max-length": "1", "x-overflow": "reject-publish"})
    client.send("SEND", b"b", destination=f"{queue},{full}", receipt="r")
    assert client.expect_error("queue_full")["receipt-id"] == "r"
    client.confirmed("SUBSCRIBE", id="1", destination=queue)
    assert client.silent(0.2)


def test_r1_receipts_of_earlier_frames_come_before_the_error_of_a_later_one(
    gateway: RunningGateway, queue: str
) -> None:
    client = gateway.connected()
    frames = b"".join(
        b"SEND\ndestination:%b\npersistent:true\nreceipt:%d\n\nx\0" % (queue.encode(), number) for number in range(20)
    )
    client.write(frames + b"SEND\ndestination:/nowhere/x\nreceipt:wrong\n\n\0" + b"garbage without end")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(20)] == [str(number) for number in range(20)]
    assert client.expect_error("bad_destination")["receipt-id"] == "wrong"
    client.expect_end()
