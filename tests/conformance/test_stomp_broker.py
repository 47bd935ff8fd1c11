"""The rules of STOMP, and what real clients force, that only a gateway with an engine behind it can show."""

import re
import socket
import struct
import time

import pytest

from tests.stomp_gateway import (
    OTHER_NAMESPACE,
    Frame,
    RunningGateway,
    WireClient,
    gateway,
    gateway_with,
    queue,
    stomp_database,
    topic,
)

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures

VERSIONS = ["1.0", "1.1", "1.2"]
FROM_1_1 = ["1.1", "1.2"]
ACK_MODES = ["client", "client-individual"]


def ack_headers(version: str, message: Frame) -> dict[str, str]:
    if version == "1.2":
        return {"id": message["ack"]}
    headers = {"message-id": message["message-id"]}
    return headers if version == "1.0" else {**headers, "subscription": message["subscription"]}


def settle(client: WireClient, command: str, message: Frame, version: str = "1.2", **headers: str) -> None:
    client.confirmed(command, **ack_headers(version, message), **headers)


def received(client: WireClient, count: int) -> list[bytes]:
    return [client.expect("MESSAGE").body for _ in range(count)]


# -- connecting


def test_c5_e1_a_rejected_connect_gets_an_error_and_the_end(gateway: RunningGateway) -> None:
    for login, passcode in (("guest", "wrong"), ("nobody", "a:secret")):
        client = gateway.client()
        client.send("CONNECT", accept_version="1.2", login=login, passcode=passcode)
        client.expect_error("access_refused")
        client.expect_end()
    client = gateway.client()
    client.send("CONNECT", accept_version="1.2")
    client.expect_error("access_refused")
    client.expect_end()


@pytest.mark.parametrize("version", VERSIONS)
def test_c7_connected_carries_version_session_server_and_heart_beat(gateway: RunningGateway, version: str) -> None:
    frame = gateway.client().connect(version)
    assert frame["version"] == version
    assert frame["session"]
    assert re.fullmatch(r"Msgweb/\d+(\.\d+)* \(RabbitMQ-compatible\)", frame["server"])
    assert frame["heart-beat"] == "0,0"


def test_b3_the_server_beats_while_idle_and_only_when_agreed(gateway: RunningGateway) -> None:
    beating = gateway.connected(heart_beat="0,200")
    begin = time.monotonic()
    for _ in range(5):
        beating.beat()
    assert time.monotonic() - begin < 5 * 0.2 + 0.5
    assert gateway.connected().silent(0.5)


def test_b4_b5_a_client_that_promised_beats_and_falls_silent_is_told_and_ended(stomp_database: str) -> None:
    with gateway_with(stomp_database) as gateway:
        client = gateway.connected(heart_beat="100,0")
        for _ in range(10):
            beaten = time.monotonic()
            client.write(b"\n")  # any data counts
            assert client.silent(0.1)
        client.expect_error("heart_beat_missed")
        assert 5 < time.monotonic() - beaten < 10  # 100 ms and a tolerance of 5 s
        client.expect_end()


# -- SEND and MESSAGE


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("persistent", ["true", "false"])
def test_s2_m1_a_message_is_as_it_was_sent(gateway: RunningGateway, queue: str, version: str, persistent: str) -> None:
    client = gateway.connected(version)
    client.confirmed("SUBSCRIBE", id="s1", destination=queue)
    client.write(
        f"SEND\nx:1\ndestination:{queue}\npersistent:{persistent}\ncontent-type:text/plain\nreply-to:/queue/a\nx:2\n"
        "content-length:4\nreceipt:r\ncorrelation-id:7\n\na\0b\n\0".encode()
    )
    frames = {frame.command: frame for frame in (client.read(), client.read())}
    assert frames["RECEIPT"]["receipt-id"] == "r"
    message = frames["MESSAGE"]
    assert message.body == b"a\0b\n"
    assert message["destination"] == queue
    assert message["subscription"] == "s1"
    assert message["message-id"]
    assert message["content-length"] == "4"
    assert message["delivery-count"] == "1"
    own = {b"subscription", b"destination", b"message-id", b"content-length", b"delivery-count"}
    assert [line for line in message.lines if line.partition(b":")[0] not in own] == [
        b"x:1",
        f"persistent:{persistent}".encode(),
        b"content-type:text/plain",
        b"reply-to:/queue/a",
        b"x:2",
        b"correlation-id:7",
    ]


@pytest.mark.parametrize(
    ("sent", "subscribed"),
    [
        ("{name}", "/queue/{name}"),
        ("/queue/{name}", "{name}"),
        ("/amq/queue/{name}", "/queue/{name}"),
        ("/queue/{name}%2Fa%25b", "/queue/{name}/a%b"),
        ("/queue/{name}/x", "/queue/{name}%2fx"),
        ("/exchange/amq.topic/{name}", "/topic/{name}"),
    ],
)
def test_m1_the_destination_is_as_the_send_had_it(
    gateway: RunningGateway, queue: str, sent: str, subscribed: str
) -> None:
    name = queue.removeprefix("/queue/")
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=subscribed.format(name=name))
    client.send("SEND", b"hi", destination=sent.format(name=name))
    message = client.expect("MESSAGE")
    assert message["destination"] == sent.format(name=name)
    assert [line for line in message.lines if line.startswith(b"destination:")] == [
        f"destination:{sent.format(name=name)}".encode()
    ]


def test_m1_message_ids_are_unique(gateway: RunningGateway, queue: str, topic: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    client.confirmed("SUBSCRIBE", id=1, destination=topic)
    for _ in range(3):
        client.send("SEND", destination=queue)
        client.send("SEND", destination=topic)
    assert len({client.expect("MESSAGE")["message-id"] for _ in range(6)}) == 6


@pytest.mark.parametrize("version", FROM_1_1)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"destination": "/nowhere/x"}, "bad_destination"),
        ({"destination": "/queue/"}, "bad_destination"),
        ({"destination": "/queue/$reply.x"}, "bad_destination"),
        ({"destination": "/queue/" + "x" * 256}, "bad_destination"),
        ({"destination": "/queue/a,/nowhere/b"}, "bad_destination"),
        ({"destination": "/queue/a,/task/b"}, "bad_destination"),
        ({"destination": "/queue/a" + ",/queue/b" * 100}, "bad_destination"),
        ({"destination": "/exchange/x/y"}, "not_supported"),
        ({"destination": "/task/a.b"}, "not_supported"),  # this gateway has no door to jobs
        ({"destination": "/queue/a", "priority": "12"}, "bad_message"),
        ({"destination": "/queue/a", "priority": "high"}, "bad_message"),
        ({"destination": "/queue/a", "persistent": "TRUE"}, "bad_message"),
        ({"destination": "/topic/a.*"}, "bad_destination"),
        ({"destination": "/queue/a", "ttl": "-5"}, "bad_message"),
        ({"destination": "/queue/a", "expiration": "nan"}, "bad_message"),
        ({"destination": "/queue/a", "x-delay": "1e300"}, "bad_message"),
        ({"destination": "/queue/a", "x-delay": "9" * 100}, "bad_message"),
        ({"destination": "/queue/a", "AMQ_SCHEDULED_DELAY": "-1"}, "bad_schedule"),
        ({"destination": "/queue/a", "AMQ_SCHEDULED_CRON": "30 2 31 2 *"}, "bad_schedule"),
        ({"destination": "/queue/a", "AMQ_SCHEDULED_REPEAT": "3"}, "bad_schedule"),
        ({"destination": "/queue/a", "JMSXGroupID": "g" * 256}, "bad_message"),
        ({"destination": "/queue/a", "x-deduplication-id": "g" * 256}, "bad_message"),
        ({"destination": "/queue/a", "x-max-length": "3.5"}, "bad_header"),
        ({"destination": "/queue/a", "x-max-length": "3", "x-overflow": "explode"}, "bad_header"),
        ({"destination": "/queue/a", "x-queue-type": "stream"}, "not_supported"),
        ({"destination": "/topic/a", "x-max-length": "3"}, "not_supported"),
    ],
)
def test_s3_e2_a_failed_send_is_an_error_that_names_its_receipt_and_the_end(
    gateway: RunningGateway, version: str, headers: dict[str, str], code: str
) -> None:
    client = gateway.connected(version)
    client.send("SEND", receipt="r1", **headers)
    assert client.expect_error(code)["receipt-id"] == "r1"
    client.expect_end()


@pytest.mark.parametrize("version", FROM_1_1)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"destination": "/queue/"}, "bad_destination"),
        ({"destination": "/task/x"}, "bad_destination"),
        ({"destination": "/reply-queue/x"}, "access_refused"),
        ({"destination": "/topic/a.>.b"}, "bad_destination"),
        ({"destination": "/queue/a", "selector": "x = "}, "bad_selector"),
        ({"destination": "/topic/a", "browser": "true"}, "bad_destination"),
        ({"destination": "/queue/a,/queue/b"}, "bad_destination"),
        ({"destination": "/queue/a", "exclusive": "yes"}, "bad_header"),
        ({"destination": "/queue/a", "x-priority": "high"}, "bad_header"),
        ({"destination": "/queue/a", "x-message-ttl": "soon"}, "bad_header"),
        ({"destination": "/topic/a", "x-message-ttl": "1000"}, "not_supported"),
        ({"destination": "/topic/a", "durable": "1"}, "bad_header"),
        ({"destination": "/queue/a", "prefetch-count": "many"}, "bad_header"),
    ],
)
def test_u3_a_failed_subscribe_is_an_error_and_the_end(
    gateway: RunningGateway, version: str, headers: dict[str, str], code: str
) -> None:
    client = gateway.connected(version)
    client.send("SUBSCRIBE", id="0", receipt="r1", **headers)
    assert client.expect_error(code)["receipt-id"] == "r1"
    client.expect_end()


# -- acknowledging


@pytest.mark.parametrize("version", VERSIONS)
def test_u4_client_mode_is_cumulative(gateway: RunningGateway, queue: str, version: str) -> None:
    producer, consumer = gateway.connected(), gateway.connected(version)
    for number in range(4):
        producer.confirmed("SEND", b"%d" % number, destination=queue)
    consumer.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    messages = [consumer.expect("MESSAGE") for _ in range(4)]
    settle(consumer, "ACK", messages[2], version)
    consumer.close()
    again = gateway.connected(version)
    again.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    message = again.expect("MESSAGE")
    assert message.body == b"3"
    assert message["redelivered"] == "true"
    assert message["delivery-count"] == "2"
    assert again.silent(0.3)


def test_u4_cumulative_acks_stay_within_their_subscription(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for part in ("a", "b"):
        client.confirmed("SUBSCRIBE", id=part, destination=queue + part, ack="client")
        client.send("SEND", part.encode(), destination=queue + part)
    messages = {message.body: message for message in (client.expect("MESSAGE"), client.expect("MESSAGE"))}
    settle(client, "ACK", messages[b"b"])
    client.close()
    again = gateway.connected()
    again.send("SUBSCRIBE", id=0, destination=queue + "a")
    again.send("SUBSCRIBE", id=1, destination=queue + "b")
    assert again.expect("MESSAGE").body == b"a"
    assert again.silent(0.3)


@pytest.mark.parametrize("version", VERSIONS)
def test_u5_client_individual_touches_only_its_own_message(gateway: RunningGateway, queue: str, version: str) -> None:
    producer, consumer = gateway.connected(), gateway.connected(version)
    for number in range(3):
        producer.confirmed("SEND", b"%d" % number, destination=queue)
    consumer.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    messages = [consumer.expect("MESSAGE") for _ in range(3)]
    settle(consumer, "ACK", messages[1], version)
    consumer.close()
    again = gateway.connected(version)
    again.send("SUBSCRIBE", id=0, destination=queue)
    assert received(again, 2) == [b"0", b"2"]
    assert again.silent(0.3)


@pytest.mark.parametrize("how", ["close", "reset", "disconnect", "unsubscribe"])
def test_u6_unacked_messages_come_again(gateway: RunningGateway, queue: str, how: str) -> None:
    producer, consumer = gateway.connected(), gateway.connected()
    consumer.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    producer.confirmed("SEND", b"x", destination=queue, persistent="true")
    first = consumer.expect("MESSAGE")
    assert first.get("redelivered") is None
    match how:
        case "close":
            consumer.close()
        case "reset":
            consumer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            consumer.close()
        case "disconnect":
            consumer.send("DISCONNECT")
        case "unsubscribe":
            consumer.confirmed("UNSUBSCRIBE", id=0)
    producer.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    second = producer.expect("MESSAGE")
    assert (second["message-id"], second["redelivered"]) == (first["message-id"], "true")


def test_u7_1_0_shows_the_subscription_if_an_id_was_given(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.0")
    client.confirmed("SUBSCRIBE", id="mine", destination=queue)
    client.send("SEND", destination=queue)
    assert client.expect("MESSAGE")["subscription"] == "mine"
    client.confirmed("UNSUBSCRIBE", id="mine")
    client.confirmed("SUBSCRIBE", destination=queue)
    client.send("SEND", destination=queue)
    assert client.expect("MESSAGE").get("subscription") is None


@pytest.mark.parametrize("mode", ACK_MODES)
def test_m2_1_2_has_an_ack_header_in_the_client_modes(gateway: RunningGateway, queue: str, mode: str) -> None:
    for version, expected in (("1.2", True), ("1.1", False)):
        client = gateway.connected(version)
        client.confirmed("SUBSCRIBE", id=0, destination=queue, ack=mode)
        client.send("SEND", destination=queue)
        message = client.expect("MESSAGE")
        assert (message.get("ack") is not None) == expected
        settle(client, "ACK", message, version)
        client.close()
    client = gateway.connected("1.2")
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="auto")
    client.send("SEND", destination=queue)
    assert client.expect("MESSAGE").get("ack") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a3_d2_nack_brings_the_message_again(gateway: RunningGateway, queue: str, version: str) -> None:
    client = gateway.connected(version)
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.send("SEND", b"x", destination=queue)
    message = client.expect("MESSAGE")
    client.send("NACK", **ack_headers(version, message))
    again = client.expect("MESSAGE")
    assert (again["message-id"], again["redelivered"]) == (message["message-id"], "true")
    settle(client, "ACK", again, version)


def test_a3_nack_is_cumulative_in_client_mode(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    for number in range(3):
        client.confirmed("SEND", b"%d" % number, destination=queue)
    messages = []
    while len(messages) < 3:
        messages.append(client.expect("MESSAGE"))
    client.send("NACK", id=messages[1]["ack"])
    again = [client.expect("MESSAGE") for _ in range(2)]
    assert [message.body for message in again] == [b"0", b"1"]
    settle(client, "ACK", again[1])
    client.confirmed("UNSUBSCRIBE", id=0)


@pytest.mark.parametrize("header", [{"requeue": "no"}, {"x-delay": "-100"}])
def test_a_nack_that_asks_for_what_cannot_be_is_refused_by_name(
    gateway: RunningGateway, queue: str, header: dict[str, str]
) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    client.send("SEND", destination=queue)
    client.send("NACK", id=client.expect("MESSAGE")["ack"], **header)
    assert next(iter(header)) in client.expect_error("bad_header")["message"]


# -- transactions


@pytest.mark.parametrize("version", VERSIONS)
def test_t2_a2_sends_and_acks_of_a_transaction_happen_at_its_commit(
    gateway: RunningGateway, queue: str, version: str
) -> None:
    watcher = gateway.connected()
    watcher.confirmed("SUBSCRIBE", id=0, destination=queue + "out")
    client = gateway.connected(version)
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.send("SEND", b"in", destination=queue)
    message = client.expect("MESSAGE")
    client.confirmed("BEGIN", transaction="t")
    for number in range(3):
        client.send("SEND", b"%d" % number, destination=queue + "out", transaction="t")
    client.send("ACK", transaction="t", **ack_headers(version, message))
    assert watcher.silent(0.3)
    client.confirmed("COMMIT", transaction="t")
    assert received(watcher, 3) == [b"0", b"1", b"2"]
    client.close()
    watcher.confirmed("SUBSCRIBE", id=1, destination=queue)
    assert watcher.silent(0.3)


def test_t2_an_aborted_transaction_never_happened(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    for number in range(3):
        client.confirmed("SEND", b"%d" % number, destination=queue)
    messages = [client.expect("MESSAGE") for _ in range(3)]
    client.send("BEGIN", transaction="t")
    client.send("SEND", b"never", destination=queue, transaction="t")
    client.send("ACK", id=messages[1]["ack"], transaction="t")
    client.confirmed("ABORT", transaction="t")
    settle(client, "ACK", messages[1])  # covers the first too: both are unacked again
    client.confirmed("UNSUBSCRIBE", id=0)
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    assert received(client, 1) == [b"2"]
    assert client.silent(0.3)


@pytest.mark.parametrize("verbs", [("ACK", "ACK"), ("NACK", "ACK"), ("ACK", "NACK")])
def test_t2_after_an_abort_acks_cover_what_was_delivered_before(
    gateway: RunningGateway, queue: str, verbs: tuple[str, str]
) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    for number in range(3):
        client.confirmed("SEND", b"%d" % number, destination=queue)
    messages = [client.expect("MESSAGE") for _ in range(3)]
    client.send("BEGIN", transaction="t")
    for verb, message in zip(verbs, messages, strict=False):
        client.send(verb, id=message["ack"], transaction="t")
    client.confirmed("ABORT", transaction="t")
    settle(client, "ACK", messages[0])
    settle(client, "ACK", messages[1])  # an ERROR if the first had covered it
    client.confirmed("UNSUBSCRIBE", id=0)
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    assert received(client, 1) == [b"2"]
    assert client.silent(0.3)


@pytest.mark.parametrize("how", ["disconnect", "close"])
def test_t4_a_disconnect_or_a_lost_connection_aborts(gateway: RunningGateway, queue: str, how: str) -> None:
    client = gateway.connected()
    client.confirmed("BEGIN", transaction="t")
    client.send("SEND", b"never", destination=queue, transaction="t")
    if how == "disconnect":
        client.confirmed("DISCONNECT")
        client.expect_end()
    client.close()
    watcher = gateway.connected()
    watcher.confirmed("SUBSCRIBE", id=0, destination=queue)
    assert watcher.silent(0.3)


def test_d1_dialect_rabbitmq_confirms_a_send_of_a_transaction_at_its_commit(
    gateway: RunningGateway, queue: str
) -> None:
    client = gateway.connected()
    client.confirmed("BEGIN", transaction="t")
    client.send("SEND", b"x", destination=queue, transaction="t", receipt="send")
    client.confirmed("SEND", b"y", destination=queue)
    client.send("COMMIT", transaction="t", receipt="commit")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["send", "commit"]


# -- receipts and errors


def test_r1_receipts_come_in_order_whatever_takes_effect_first(gateway: RunningGateway, queue: str, topic: str) -> None:
    client = gateway.connected()
    expected = []
    for number in range(200):
        destination = topic if number % 3 == 0 else queue
        client.send("SEND", b"x", destination=destination, persistent="true", receipt=number)
        expected.append(str(number))
        if number % 50 == 0:
            client.send("BEGIN", transaction=number, receipt=f"b{number}")
            expected.append(f"b{number}")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in expected] == expected


def test_r1_a_receipt_means_that_the_message_is_there(gateway: RunningGateway, queue: str) -> None:
    producer = gateway.connected()
    producer.confirmed("SEND", b"x", destination=queue, persistent="true")
    producer.close()
    consumer = gateway.connected()
    consumer.send("SUBSCRIBE", id=0, destination=queue)
    assert consumer.expect("MESSAGE").body == b"x"


@pytest.mark.parametrize("receipt", ["a b", "ä", r"a\cb\\", ""])
def test_r1_receipt_ids_come_back_as_they_went(gateway: RunningGateway, queue: str, receipt: str) -> None:
    client = gateway.connected()
    client.send("SEND", b"x", destination=queue, receipt=receipt)
    assert client.expect("RECEIPT")["receipt-id"] == receipt


@pytest.mark.parametrize("farewell", ["DISCONNECT\n\n\0", ""])
def test_r3_client_8_stomp_php_shuts_down_unconfirmed_and_what_it_sent_is_processed(
    gateway: RunningGateway, queue: str, farewell: str
) -> None:
    client = gateway.connected()
    frames = "".join(f"SEND\ndestination:{queue}\npersistent:true\n\n{number}\0" for number in range(500))
    client.write((frames + farewell).encode())
    client.socket.shutdown(socket.SHUT_RDWR)
    client.close()
    consumer = gateway.connected()
    consumer.send("SUBSCRIBE", id=0, destination=queue)
    assert received(consumer, 500) == [b"%d" % number for number in range(500)]


def test_r3_a_client_that_half_closes_still_gets_its_receipts(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for number in range(20):
        client.send("SEND", b"x", destination=queue, persistent="true", receipt=number)
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(20)] == [str(number) for number in range(20)]
    client.expect_end()


def test_l3_the_error_arrives_although_much_is_unread(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.write(b"NONSENSE\n\n\0" + b"SEND\ndestination:/queue/x\n\nx\0" * 20_000)
    client.expect_error("unknown_command")
    client.expect_end()


def test_l3_connections_come_and_go_quickly(gateway: RunningGateway, queue: str) -> None:
    for number in range(200):
        client = gateway.connected()
        client.confirmed("SEND", b"%d" % number, destination=queue)
        client.send("DISCONNECT")
        client.close()
    consumer = gateway.connected()
    consumer.send("SUBSCRIBE", id=0, destination=queue)
    assert received(consumer, 200) == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("version", VERSIONS)
def test_d1_disconnect_with_a_receipt_is_confirmed_after_all_before_it(
    gateway: RunningGateway, queue: str, version: str
) -> None:
    client = gateway.connected(version)
    client.send("SEND", b"x", destination=queue, persistent="true", receipt="first")
    client.send("DISCONNECT", receipt="bye")
    assert [client.expect("RECEIPT")["receipt-id"] for _ in range(2)] == ["first", "bye"]
    client.expect_end()


def test_f11_c4_an_error_names_the_versions_before_any_was_agreed_on(gateway: RunningGateway) -> None:
    client = gateway.client()
    client.send("CONNECT", accept_version="3.0")
    frame = client.expect_error("unsupported_version")
    assert frame["version"] == "1.0,1.1,1.2"
    assert frame["content-type"] == "text/plain"
    assert int(frame["content-length"]) == len(frame.body)
    client.expect_end()


# -- what real clients force


@pytest.mark.parametrize("version", VERSIONS)
def test_client_1_pecl_reads_nul_lf_after_every_frame_and_nothing_between(
    gateway: RunningGateway, queue: str, version: str
) -> None:
    client = gateway.client()
    client.connect(version)  # `WireClient.read` itself insists on the bytes
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    client.confirmed("SEND", b"", destination=queue)
    client.confirmed("BEGIN", transaction="t")
    assert client.expect("MESSAGE").body == b""
    client.send("NONSENSE")
    client.expect_error("unknown_command")
    client.expect_end()


def test_client_2_3_connected_has_session_and_a_server_that_stomp_php_knows(gateway: RunningGateway) -> None:
    frame = gateway.client().connect()
    assert frame["session"]
    assert "rabbitmq" in frame["server"].lower()


@pytest.mark.parametrize("mode", ACK_MODES)
def test_client_4_stomp_php_acks_by_message_id_so_both_ids_are_the_same(
    gateway: RunningGateway, queue: str, mode: str
) -> None:
    client = gateway.connected("1.2")
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack=mode)
    client.send("SEND", destination=queue)
    message = client.expect("MESSAGE")
    assert message["ack"] == message["message-id"]


def test_client_5_6_php_acks_that_echo_every_header(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.0")
    client.confirmed("SUBSCRIBE", destination=queue, ack="client")
    client.confirmed("BEGIN", transaction="t")
    client.send("SEND", b"some body", destination=queue, transaction="t", receipt="r0", content_length=9)
    client.send("COMMIT", transaction="t")
    client.expect("RECEIPT")
    message = client.expect("MESSAGE")
    assert message.get("transaction") is None and message.get("receipt") is None
    headers = {name: value for name, _, value in (line.decode().partition(":") for line in message.lines)}
    client.confirmed("ACK", **headers)
    client.confirmed("UNSUBSCRIBE", destination=queue)
    client.confirmed("SUBSCRIBE", destination=queue)
    assert client.silent(0.3)


def test_client_7_stomp_py_names_its_tcp_host_and_that_means_the_default_namespace(
    gateway: RunningGateway, queue: str
) -> None:
    sender = gateway.connected(host="10.1.2.3")
    elsewhere = gateway.connected(host=OTHER_NAMESPACE)
    elsewhere.confirmed("SUBSCRIBE", id=0, destination=queue)
    sender.confirmed("SEND", b"x", destination=queue)
    assert elsewhere.silent(0.3)
    default = gateway.connected()
    default.send("SUBSCRIBE", id=0, destination=queue)
    assert default.expect("MESSAGE").body == b"x"


@pytest.mark.parametrize("header", ["prefetch-count", "activemq.prefetchSize"])
def test_client_9_stomp_php_always_asks_for_a_prefetch_which_is_ignored_in_auto_mode(
    gateway: RunningGateway, queue: str, header: str
) -> None:
    client = gateway.connected()
    for _ in range(30):
        client.send("SEND", b"x", destination=queue)
    client.confirmed("BEGIN", transaction="all were read")
    client.send("SUBSCRIBE", id=0, destination=queue, ack="client-individual", **{header: 3})
    messages = [client.expect("MESSAGE") for _ in range(3)]
    assert client.silent(0.3)
    client.send("ACK", id=messages[0]["ack"])
    client.expect("MESSAGE")
    assert client.silent(0.3)
    client.send("UNSUBSCRIBE", id=0)
    client.send("SUBSCRIBE", id=1, destination=queue, ack="auto", **{header: 1})
    assert received(client, 29) == [b"x"] * 29


def test_prefetch_is_10_where_the_client_does_not_say(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for _ in range(12):
        client.send("SEND", b"x", destination=queue)
    client.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    received(client, 10)
    assert client.silent(0.3)


def test_client_10_stomp_php_waits_two_seconds_for_a_receipt_of_every_frame(
    gateway: RunningGateway, queue: str
) -> None:
    client = gateway.connected()
    client.socket.settimeout(2)
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.confirmed("BEGIN", transaction="t")
    client.confirmed("COMMIT", transaction="t")
    client.confirmed("SEND", destination=queue)
    first = client.expect("MESSAGE")
    client.confirmed("ACK", id=first["ack"])
    client.confirmed("UNSUBSCRIBE", id=0)
    client.confirmed("DISCONNECT")


def test_client_12_php_forwards_headers_and_its_message_id_is_not_the_messages(
    gateway: RunningGateway, queue: str
) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    client.write(f"SEND\ndestination:{queue}\nmessage-id:forged\nredelivered:true\n\n\0".encode())
    message = client.expect("MESSAGE")
    assert message["message-id"] != "forged"
    assert message.get("redelivered") is None


# -- the dialect of RabbitMQ


def test_d3_an_ack_error_keeps_a_1_0_connection_and_ends_others(gateway: RunningGateway, queue: str) -> None:
    old = gateway.connected("1.0")
    old.send("ACK", message_id=1, receipt="r")
    assert old.expect_error("not_found")["receipt-id"] == "r"
    old.confirmed("SEND", b"x", destination=queue)
    new = gateway.connected("1.2")
    new.send("ACK", id=1)
    new.expect_error("not_found")
    new.expect_end()


def test_d3_a_malformed_frame_ends_a_1_0_connection_too(gateway: RunningGateway) -> None:
    client = gateway.connected("1.0")
    client.write(b"SEND\nno colon\n\n\0")
    client.expect_error("malformed_header")
    client.expect_end()


def test_a_double_ack_is_an_error(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    client.send("SEND", destination=queue)
    message = client.expect("MESSAGE")
    settle(client, "ACK", message)
    client.send("ACK", id=message["ack"], receipt="r")
    assert client.expect_error("not_found")["receipt-id"] == "r"


def test_d5_a_wrong_subscription_on_a_1_1_ack_is_ignored(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.1")
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    client.send("SEND", destination=queue)
    client.confirmed("ACK", message_id=client.expect("MESSAGE")["message-id"], subscription="other")


def test_d6_a_subscribe_without_id_takes_its_destination_as_id(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.2")
    client.confirmed("SUBSCRIBE", destination=queue)
    client.send("SEND", destination=queue)
    assert client.expect("MESSAGE")["subscription"] == queue
    client.confirmed("UNSUBSCRIBE", id=queue)


def test_d8_nack_on_1_0_is_accepted(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected("1.0")
    client.confirmed("SUBSCRIBE", destination=queue, ack="client")
    client.send("SEND", destination=queue)
    client.send("NACK", message_id=client.expect("MESSAGE")["message-id"])
    assert client.expect("MESSAGE")["redelivered"] == "true"


def ask(client: WireClient, server: WireClient, queue: str, name: str, question: bytes) -> Frame:
    """The answer to a question, by way of a server that doubles it."""
    client.send("SEND", question, destination=queue, reply_to=f"/temp-queue/{name}", correlation_id="c")
    request = server.expect("MESSAGE")
    assert re.fullmatch(r"/reply-queue/[\w-]{16,}", request["reply-to"])
    server.send("SEND", request.body * 2, destination=request["reply-to"], correlation_id=request["correlation-id"])
    answer = client.expect("MESSAGE")
    assert answer["destination"] == request["reply-to"]
    return answer


def test_d10_reply_to_a_temp_queue_implies_a_subscription(gateway: RunningGateway, queue: str) -> None:
    client, server = gateway.connected(), gateway.connected("1.1")
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    for question in (b"1", b"2"):
        answer = ask(client, server, queue, "mine", question)
        assert (answer.body, answer["subscription"], answer["correlation-id"]) == (
            question * 2,
            "/temp-queue/mine",
            "c",
        )


def test_d10_two_clients_may_use_the_same_name(gateway: RunningGateway, queue: str) -> None:
    server = gateway.connected()
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    first, second = gateway.connected(), gateway.connected()
    assert ask(first, server, queue, "x", b"1").body == b"11"
    assert ask(second, server, queue, "x", b"2").body == b"22"
    assert first.silent(0.2)


def test_d10_an_explicit_subscription_to_a_temp_queue(gateway: RunningGateway, queue: str) -> None:
    client, server = gateway.connected(), gateway.connected()
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    client.confirmed("SUBSCRIBE", id="answers", destination="/temp-queue/mine", ack="client")
    answer = ask(client, server, queue, "mine", b"1")
    assert answer["subscription"] == "answers"
    settle(client, "ACK", answer)


def test_d10_a_reply_queue_ends_with_its_subscription_and_comes_anew(gateway: RunningGateway, queue: str) -> None:
    client, server = gateway.connected(), gateway.connected()
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    before = ask(client, server, queue, "mine", b"1")["destination"]
    client.confirmed("UNSUBSCRIBE", id="/temp-queue/mine")
    server.confirmed("SEND", b"nobody listens", destination=before)  # dropped, and no error
    assert ask(client, server, queue, "mine", b"2")["destination"] != before


def test_d10_a_reply_queue_ends_with_its_connection(gateway: RunningGateway, queue: str) -> None:
    client, server = gateway.connected(), gateway.connected()
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    reply_to = ask(client, server, queue, "mine", b"1")["destination"]
    client.close()
    server.confirmed("SEND", b"too late", destination=reply_to)


def test_replies_to_reply_queues_are_not_for_others(gateway: RunningGateway, queue: str) -> None:
    server, client = gateway.connected(), gateway.connected()
    server.confirmed("SUBSCRIBE", id=0, destination=queue)
    reply_to = ask(client, server, queue, "mine", b"1")["destination"]
    server.send("SUBSCRIBE", id=1, destination=reply_to)
    server.expect_error("access_refused")


def test_acks_of_auto_subscriptions_are_accepted_quietly(gateway: RunningGateway, queue: str, topic: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    client.send("SEND", destination=queue)
    client.confirmed("ACK", id=client.expect("MESSAGE")["message-id"])
    client.confirmed("UNSUBSCRIBE", id=0)
    client.confirmed("SUBSCRIBE", id=1, destination=topic, ack="client")
    client.send("SEND", destination=topic)
    client.confirmed("ACK", id=client.expect("MESSAGE")["ack"])


def test_a_content_length_of_thousands_of_digits_is_a_number_like_any_other(gateway: RunningGateway) -> None:
    client = gateway.connected("1.2")
    client.send("SEND", destination="/queue/digits", receipt="zeros", **{"content-length": "0" * 5000})
    assert client.expect("RECEIPT")["receipt-id"] == "zeros"
    client.send("SEND", destination="/queue/digits", receipt="nines", **{"content-length": "9" * 5000})
    client.expect_error("limit_exceeded")
    client.expect_end()
