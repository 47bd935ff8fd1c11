"""Where RabbitMQ and ActiveMQ differ: a test for each row and each dialect.

The rows, by number: D1 receipts within a transaction, D2 NACK, D3 after an ERROR, D5 the subscription of an ACK, D6 a
SUBSCRIBE without id, D7 redelivery, D8 NACK on 1.0, D9 expiry, D10 temporary destinations, D11 durable subscriptions.
"""

import time
import uuid
from collections.abc import Iterator

import pytest

from tests.conformance.test_stomp_broker import ack_headers
from tests.stomp_gateway import RunningGateway, WireClient, gateway, queue, stomp_database, topic

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures

DURABLE = {"durable": "true", "auto-delete": "false"}


@pytest.fixture(scope="module")
def rabbitmq(gateway: RunningGateway) -> RunningGateway:
    return gateway


@pytest.fixture(scope="module")
def activemq(stomp_database: str) -> Iterator[RunningGateway]:
    with RunningGateway(stomp_database, listeners=["stomp://127.0.0.1:0?dialect=activemq"]) as running:
        yield running


def nack(client: WireClient, version: str, message: object, **headers: str) -> None:
    client.confirmed("NACK", **ack_headers(version, message), **headers)  # type: ignore[arg-type]


def test_c7_the_server_header_tells_stomp_php_which_broker_it_is(
    rabbitmq: RunningGateway, activemq: RunningGateway
) -> None:
    assert "(RabbitMQ-compatible)" in rabbitmq.client().connect()["server"]
    assert "(ActiveMQ-compatible)" in activemq.client().connect()["server"]


def test_d1_rabbitmq_confirms_the_frames_of_a_transaction_at_its_commit(rabbitmq: RunningGateway, queue: str) -> None:
    client = rabbitmq.connected()
    client.confirmed("BEGIN", transaction="t")
    client.send("SEND", b"a", destination=queue, transaction="t", receipt="sent")
    assert client.silent(0.2)
    client.send("COMMIT", transaction="t", receipt="committed")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["sent", "committed"]


def test_d1_activemq_confirms_the_frames_of_a_transaction_at_once(activemq: RunningGateway, queue: str) -> None:
    client = activemq.connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.confirmed("SEND", b"before", destination=queue)
    message = client.expect("MESSAGE")
    client.confirmed("BEGIN", transaction="t")
    client.confirmed("SEND", b"a", destination=queue, transaction="t")
    client.confirmed("ACK", transaction="t", **ack_headers("1.2", message))
    assert client.silent(0.2)  # confirmed, and yet it has not happened
    client.confirmed("COMMIT", transaction="t")
    assert client.expect("MESSAGE").body == b"a"


def test_d2_rabbitmq_requeues_a_nacked_message_or_gives_it_up_as_the_client_says(
    rabbitmq: RunningGateway, queue: str
) -> None:
    client = rabbitmq.connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client-individual")
    client.confirmed("SEND", b"a", destination=queue)
    for count in ("1", "2", "3"):
        message = client.expect("MESSAGE")
        assert message["delivery-count"] == count
        nack(client, "1.2", message)
    message = client.expect("MESSAGE")
    nack(client, "1.2", message, requeue="false")
    client.send("SUBSCRIBE", id="2", destination=f"/queue/DLQ.{queue.removeprefix('/queue/')}", ack="client")
    assert client.expect("MESSAGE").body == b"a"


def test_d2_activemq_counts_a_nack_as_a_failed_delivery(activemq: RunningGateway, queue: str) -> None:
    client = activemq.connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client-individual", **{"x-delivery-limit": "1"})
    client.confirmed("SEND", b"a", destination=queue)
    for count in ("1", "2"):
        message = client.expect("MESSAGE")
        assert message["delivery-count"] == count
        nack(client, "1.2", message)
    client.send("SUBSCRIBE", id="2", destination=f"/queue/DLQ.{queue.removeprefix('/queue/')}", ack="client")
    dead = client.expect("MESSAGE")
    assert (dead.body, dead["subscription"]) == (b"a", "2")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_d3_rabbitmq_ends_the_connection_after_an_error(rabbitmq: RunningGateway, version: str) -> None:
    client = rabbitmq.connected(version)
    client.send("SEND", b"", destination="/nowhere/x", receipt="r")
    assert client.expect_error("bad_destination")["receipt-id"] == "r"
    client.expect_end()


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_d3_activemq_goes_on_after_an_error(activemq: RunningGateway, queue: str, version: str) -> None:
    client = activemq.connected(version)
    client.send("SEND", b"", destination="/nowhere/x", receipt="r")
    assert client.expect_error("bad_destination")["receipt-id"] == "r"
    client.send("SUBSCRIBE", destination=queue, id="1", ack="bogus")
    client.expect_error("bad_header")
    client.confirmed("SEND", b"", destination=queue)


def test_d3_activemq_ends_when_the_stream_is_broken(activemq: RunningGateway) -> None:
    client = activemq.connected()
    client.write(b"SEND\nno colon\n\n\0")
    client.expect_error("malformed_header")
    client.expect_end()


def test_d5_rabbitmq_does_not_look_at_the_subscription_of_an_ack(rabbitmq: RunningGateway, queue: str) -> None:
    client = rabbitmq.connected("1.1")
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    message = client.expect("MESSAGE")
    client.confirmed("ACK", message_id=message["message-id"], subscription="other")
    client.confirmed("SEND", b"b", destination=queue)
    message = client.expect("MESSAGE")
    client.confirmed("ACK", message_id=message["message-id"])


@pytest.mark.parametrize(
    ("headers", "code"), [({"subscription": "other"}, "not_found"), ({}, "missing_header")], ids=["wrong", "missing"]
)
def test_d5_activemq_wants_the_subscription_that_the_message_came_by(
    activemq: RunningGateway, queue: str, headers: dict[str, str], code: str
) -> None:
    client = activemq.connected("1.1")
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    message = client.expect("MESSAGE")
    client.send("ACK", message_id=message["message-id"], receipt="r", **headers)
    assert client.expect_error(code)["receipt-id"] == "r"
    client.confirmed("ACK", message_id=message["message-id"], subscription="1")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_d6_rabbitmq_takes_the_destination_for_a_missing_id(rabbitmq: RunningGateway, queue: str, version: str) -> None:
    client = rabbitmq.connected(version)
    client.confirmed("SUBSCRIBE", destination=queue)
    client.confirmed("SEND", b"a", destination=queue)
    assert client.expect("MESSAGE")["subscription"] == queue


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_d6_activemq_wants_an_id(activemq: RunningGateway, queue: str, version: str) -> None:
    client = activemq.connected(version)
    client.send("SUBSCRIBE", destination=queue, receipt="r")
    assert client.expect_error("missing_header")["receipt-id"] == "r"


def test_d6_activemq_wants_none_on_1_0(activemq: RunningGateway, queue: str) -> None:
    client = activemq.connected("1.0")
    client.confirmed("SUBSCRIBE", destination=queue)
    client.confirmed("SEND", b"a", destination=queue)
    assert client.expect("MESSAGE").get("subscription") is None


@pytest.mark.parametrize("dialect", ["rabbitmq", "activemq"])
def test_d7_a_redelivered_message_has_the_same_id_and_says_so(
    dialect: str, request: pytest.FixtureRequest, queue: str
) -> None:
    client: WireClient = request.getfixturevalue(dialect).connected()
    client.confirmed("SUBSCRIBE", id="1", destination=queue, ack="client-individual")
    client.confirmed("SEND", b"a", destination=queue)
    first = client.expect("MESSAGE")
    assert (first.get("redelivered"), first["delivery-count"]) == (None, "1")
    nack(client, "1.2", first)
    again = client.expect("MESSAGE")
    assert again["message-id"] == first["message-id"]
    assert (again["redelivered"], again["delivery-count"]) == ("true", "2")


def test_d8_rabbitmq_takes_a_nack_on_1_0(rabbitmq: RunningGateway, queue: str) -> None:
    client = rabbitmq.connected("1.0")
    client.confirmed("SUBSCRIBE", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    nack(client, "1.0", client.expect("MESSAGE"))
    assert client.expect("MESSAGE")["redelivered"] == "true"


def test_d8_activemq_knows_no_nack_on_1_0(activemq: RunningGateway, queue: str) -> None:
    client = activemq.connected("1.0")
    client.confirmed("SUBSCRIBE", destination=queue, ack="client")
    client.confirmed("SEND", b"a", destination=queue)
    message = client.expect("MESSAGE")
    client.send("NACK", receipt="r", **ack_headers("1.0", message))
    assert client.expect_error("unknown_command")["receipt-id"] == "r"
    client.confirmed("ACK", **ack_headers("1.0", message))


def test_d9_rabbitmq_takes_expiration_for_a_time_to_live(rabbitmq: RunningGateway, queue: str) -> None:
    client = rabbitmq.connected()
    client.confirmed("SEND", b"gone", destination=queue, expiration=0)
    client.confirmed("SEND", b"kept", destination=queue, expiration=60_000)
    client.confirmed("SEND", b"a header like any other", destination=queue, expires=1000)
    client.send("SUBSCRIBE", id="1", destination=queue)
    assert [client.expect("MESSAGE").body for _ in range(2)] == [b"kept", b"a header like any other"]


def test_d9_activemq_takes_expires_for_a_time_of_day(activemq: RunningGateway, queue: str) -> None:
    client = activemq.connected()
    client.confirmed("SEND", b"gone", destination=queue, expires=1000)
    client.confirmed("SEND", b"kept", destination=queue, expires=f"{(time.time() + 60) * 1000:.0f}")
    client.confirmed("SEND", b"for ever", destination=queue, expires=0)
    client.confirmed("SEND", b"a header like any other", destination=queue, expiration=0)
    client.send("SUBSCRIBE", id="1", destination=queue)
    bodies = [client.expect("MESSAGE").body for _ in range(3)]
    assert bodies == [b"kept", b"for ever", b"a header like any other"]


def test_d10_rabbitmq_subscribes_to_a_temporary_queue_that_is_named_in_reply_to(
    rabbitmq: RunningGateway, queue: str
) -> None:
    asker, worker = rabbitmq.connected(), rabbitmq.connected()
    worker.confirmed("SUBSCRIBE", id="w", destination=queue)
    asker.send("SEND", b"question", destination=queue, reply_to="/temp-queue/mine")
    reply_to = worker.expect("MESSAGE")["reply-to"]
    assert reply_to.startswith("/reply-queue/")
    worker.confirmed("SEND", b"answer", destination=reply_to)
    answer = asker.expect("MESSAGE")
    assert (answer.body, answer["subscription"]) == (b"answer", "/temp-queue/mine")


def test_d10_activemq_waits_for_a_subscription_to_the_temporary_queue(activemq: RunningGateway, queue: str) -> None:
    asker, worker = activemq.connected(), activemq.connected()
    worker.confirmed("SUBSCRIBE", id="w", destination=queue)
    asker.send("SEND", b"question", destination=queue, reply_to="/temp-queue/mine")
    reply_to = worker.expect("MESSAGE")["reply-to"]
    assert reply_to.startswith("/remote-temp-queue/")
    worker.confirmed("SEND", b"answer", destination=reply_to)
    assert asker.silent(0.2)
    asker.send("SUBSCRIBE", id="a", destination="/temp-queue/mine")
    answer = asker.expect("MESSAGE")
    assert (answer.body, answer["subscription"]) == (b"answer", "a")


@pytest.mark.parametrize(
    ("dialect", "prefix"),
    [("rabbitmq", "/reply-topic/"), ("activemq", "/remote-temp-topic/")],
    ids=["rabbit", "active"],
)
def test_d10_a_temporary_topic_reaches_all_subscriptions_of_its_connection(
    dialect: str, prefix: str, request: pytest.FixtureRequest, queue: str
) -> None:
    running: RunningGateway = request.getfixturevalue(dialect)
    asker, worker, spy = running.connected(), running.connected(), running.connected()
    asker.confirmed("SUBSCRIBE", id="a", destination="/temp-topic/mine")
    asker.confirmed("SUBSCRIBE", id="b", destination="/temp-topic/mine")
    worker.confirmed("SUBSCRIBE", id="w", destination=queue)
    asker.send("SEND", b"question", destination=queue, reply_to="/temp-topic/mine")
    reply_to = worker.expect("MESSAGE")["reply-to"]
    assert reply_to.startswith(prefix)
    spy.send("SUBSCRIBE", id="s", destination=reply_to)
    spy.expect_error("access_refused")
    worker.confirmed("SEND", b"answer", destination=reply_to)
    answers = [asker.expect("MESSAGE") for _ in range(2)]
    assert {(answer.body, answer["subscription"]) for answer in answers} == {(b"answer", "a"), (b"answer", "b")}


def test_d11_rabbitmq_names_a_durable_subscription_by_id_and_destination(rabbitmq: RunningGateway, topic: str) -> None:
    other = f"/topic/other.{uuid.uuid4().hex}"
    client = rabbitmq.connected()
    for destination in (topic, other):
        client.confirmed("SUBSCRIBE", id="mine", destination=destination, ack="client", **DURABLE)
        client.confirmed("UNSUBSCRIBE", id="mine")  # it stays: this did not say durable
    client.confirmed("SEND", b"a", destination=topic)
    client.confirmed("SEND", b"b", destination=other)
    client.confirmed("SUBSCRIBE", id="mine", destination=other, ack="client", **DURABLE)
    assert client.expect("MESSAGE").body == b"b"
    sharing = rabbitmq.connected()
    sharing.confirmed("SUBSCRIBE", id="mine", destination=topic, ack="client", **DURABLE)
    message = sharing.expect("MESSAGE")
    assert message.body == b"a"
    sharing.confirmed("ACK", **ack_headers("1.2", message))
    sharing.confirmed("UNSUBSCRIBE", id="mine", **DURABLE)  # with the same headers it ends
    sharing.confirmed("SEND", b"lost", destination=topic)
    sharing.confirmed("SUBSCRIBE", id="mine", destination=topic, ack="client", **DURABLE)
    assert sharing.silent(0.2)


def test_d11_activemq_names_a_durable_subscription_by_the_client_and_a_name(
    activemq: RunningGateway, topic: str
) -> None:
    name = {"activemq.subscriptionName": uuid.uuid4().hex}
    client = activemq.connected(client_id="shop")
    client.confirmed("SUBSCRIBE", id="1", destination=topic, ack="client", **name)
    client.confirmed("DISCONNECT")
    other = activemq.connected(client_id="another")
    other.confirmed("SUBSCRIBE", id="1", destination=topic, ack="client", **name)
    other.confirmed("UNSUBSCRIBE", id="1", **name)
    other.confirmed("SEND", b"a", destination=topic)
    client = activemq.connected(client_id="shop")
    client.confirmed("SUBSCRIBE", id="7", destination=topic, ack="client", **name)
    message = client.expect("MESSAGE")
    assert message.body == b"a"
    client.confirmed("ACK", **ack_headers("1.2", message))
    client.confirmed("UNSUBSCRIBE", id="7")
    client.confirmed("UNSUBSCRIBE", id="7", **name)  # by its name, though nobody receives from it
    client.confirmed("SEND", b"lost", destination=topic)
    client.confirmed("SUBSCRIBE", id="7", destination=topic, ack="client", **name)
    assert client.silent(0.2)


@pytest.mark.parametrize(
    ("connect", "headers"),
    [({}, {"activemq.subscriptionName": "x"}), ({"client_id": "shop"}, {"durable": "true"})],
    ids=["no client", "no name"],
)
def test_d11_activemq_says_what_a_durable_subscription_lacks(
    activemq: RunningGateway, topic: str, connect: dict[str, str], headers: dict[str, str]
) -> None:
    client = activemq.connected(**connect)
    client.send("SUBSCRIBE", id="1", destination=topic, receipt="r", **headers)
    assert client.expect_error("bad_header")["receipt-id"] == "r"
    client.confirmed("SUBSCRIBE", id="1", destination=topic)  # the id is free
