"""What the engine offers beyond queues and topics, asked for by a client's headers, over real sockets."""

import time

import psycopg

from tests.conformance.test_stomp_broker import ack_headers, settle
from tests.stomp_gateway import RunningGateway, gateway, queue, stomp_database, topic

__all__ = ["gateway", "queue", "stomp_database", "topic"]  # fixtures


def test_a_message_that_expired_is_not_delivered(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SEND", b"gone", destination=queue, expiration=0)
    client.confirmed("SEND", b"long", destination=queue, ttl=3_600_000)
    client.confirmed("SEND", b"plain", destination=queue)
    client.send("SUBSCRIBE", id=0, destination=queue)
    assert [client.expect("MESSAGE").body for _ in range(2)] == [b"long", b"plain"]


def test_a_delay_in_the_words_of_three_brokers(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    begun = time.monotonic()
    at = (time.time() + 0.9) * 1000
    client.send("SEND", b"artemis", destination=queue, _AMQ_SCHED_DELIVERY=f"{at:.0f}")
    client.send("SEND", b"activemq", destination=queue, AMQ_SCHEDULED_DELAY=600)
    client.send("SEND", b"rabbitmq", destination=queue, **{"x-delay": 300})
    client.send("SEND", b"now", destination=queue)
    bodies = [client.expect("MESSAGE").body for _ in range(4)]
    assert bodies == [b"now", b"rabbitmq", b"activemq", b"artemis"]
    assert time.monotonic() - begun >= 0.85


def test_a_cron_expression_in_activemqs_words(stomp_database: str, gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue)
    client.confirmed("SEND", b"tick", destination=queue, AMQ_SCHEDULED_CRON="0 0 1 1 *", colour="red")
    with psycopg.connect(stomp_database, autocommit=True) as connection:
        connection.execute(
            "UPDATE msgweb.schedule SET next_at = '2026-01-01 00:00Z', seeking = false WHERE cron = '0 0 1 1 *'"
            " AND destination = (SELECT id FROM msgweb.destination WHERE name = %s)",
            [queue.removeprefix("/queue/")],
        )
    message = client.expect("MESSAGE")
    assert (message.body, message["colour"], message.get("AMQ_SCHEDULED_CRON")) == (b"tick", "red", None)
    assert message["scheduled-for"] == r"2026-01-01T00\c00\c00.000Z"


def test_a_message_group_waits_for_its_head(gateway: RunningGateway, queue: str) -> None:
    client, other = gateway.connected(), gateway.connected()
    for body in (b"1", b"2"):
        client.confirmed("SEND", body, destination=queue, JMSXGroupID="g")
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    other.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.confirmed("SEND", b"free", destination=queue)
    both = {client: client.expect("MESSAGE"), other: other.expect("MESSAGE")}
    assert sorted(message.body for message in both.values()) == [b"1", b"free"]
    for one, message in both.items():
        if message.body == b"1":
            settle(one, "ACK", message)
            assert one.expect("MESSAGE").body == b"2"


def test_a_message_group_stays_with_its_consumer_until_it_is_closed(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for one in "ab":
        client.confirmed("SUBSCRIBE", id=one, destination=queue, ack="client-individual")

    def served(**headers: str) -> str:
        client.confirmed("SEND", destination=queue, JMSXGroupID="g", **headers)
        message = client.expect("MESSAGE")
        client.confirmed("ACK", id=message["ack"])
        return str(message["subscription"])

    owner = served()
    assert [served() for _ in range(3)] == [owner] * 3
    assert served(JMSXGroupSeq="-1") == owner
    assert served() != owner


def test_a_key_is_taken_once(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    for body in (b"1", b"2"):
        client.confirmed("SEND", body, destination=queue, **{"x-deduplication-id": "k"})
    client.confirmed("SEND", b"3", destination=queue, _AMQ_DUPL_ID="other")
    client.send("SUBSCRIBE", id=0, destination=queue)
    assert [client.expect("MESSAGE").body for _ in range(2)] == [b"1", b"3"]


def test_a_nack_with_a_delay_and_one_to_the_dead_letters(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.confirmed("SUBSCRIBE", id=1, destination=queue.replace("/queue/", "/queue/DLQ."), ack="auto")
    client.send("SEND", b"later", destination=queue, colour="red")
    message = client.expect("MESSAGE")
    begun = time.monotonic()
    settle(client, "NACK", message, **{"x-delay": "300"})
    again = client.expect("MESSAGE")
    assert time.monotonic() - begun >= 0.3
    assert (again["message-id"], again["redelivered"], again["delivery-count"]) == (message["message-id"], "true", "2")
    settle(client, "NACK", again, requeue="false")
    letter = client.expect("MESSAGE")
    assert (letter["subscription"], letter["dead-letter-reason"], letter["dead-letter-from"]) == (
        "1",
        "rejected",
        queue,
    )
    assert (letter["dead-letter-deliveries"], letter["colour"]) == ("2", "red")


def test_a_nack_in_a_transaction_takes_effect_with_it(gateway: RunningGateway, queue: str) -> None:
    client = gateway.connected()
    letters = queue.replace("/queue/", "/queue/DLQ.")
    client.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual")
    client.send("SEND", b"bad", destination=queue)
    message = client.expect("MESSAGE")
    client.send("BEGIN", transaction="t")
    client.send("NACK", **ack_headers("1.2", message), transaction="t", requeue="false")
    client.send("SEND", b"instead", destination=queue, transaction="t")
    client.confirmed("COMMIT", transaction="t")
    assert client.expect("MESSAGE").body == b"instead"
    client.send("SUBSCRIBE", id=1, destination=letters)
    assert client.expect("MESSAGE").body == b"bad"


def test_a_selector_on_a_queue_and_on_a_topic(gateway: RunningGateway, queue: str, topic: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=queue, selector="weight > 5 AND colour = 'red'")
    client.confirmed("SUBSCRIBE", id=1, destination=topic, selector="colour IS NULL")
    for destination in (queue, topic):
        client.send("SEND", b"light", destination=destination, weight=3, colour="red")
        client.send("SEND", b"heavy", destination=destination, weight=7, colour="red")
        client.send("SEND", b"pale", destination=destination, weight=7)
    got = {(frame["subscription"], frame.body) for frame in (client.expect("MESSAGE") for _ in range(2))}
    assert got == {("0", b"heavy"), ("1", b"pale")}


def test_a_pattern_of_topics_shows_which_topic(gateway: RunningGateway, topic: str) -> None:
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id=0, destination=f"{topic}.#")
    client.confirmed("SUBSCRIBE", id=1, destination=f"{topic}.a")
    client.send("SEND", b"x", destination=f"{topic}.a")
    frames = [client.expect("MESSAGE") for _ in range(2)]
    assert {(frame["subscription"], frame["destination"]) for frame in frames} == {
        ("0", f"{topic}.a"),
        ("1", f"{topic}.a"),
    }


def test_a_durable_subscription_misses_nothing_and_ends_when_it_is_told(gateway: RunningGateway, topic: str) -> None:
    durable = {"durable": "true", "auto-delete": "false"}
    client, sender = gateway.connected(), gateway.connected()
    client.confirmed("SUBSCRIBE", id="mine", destination=topic, ack="client", **durable)
    sender.confirmed("SEND", b"1", destination=topic)
    settle(client, "ACK", client.expect("MESSAGE"))
    client.confirmed("DISCONNECT")
    sender.confirmed("SEND", b"2", destination=topic)
    client = gateway.connected()
    client.confirmed("SUBSCRIBE", id="mine", destination=topic, ack="client", **durable)
    message = client.expect("MESSAGE")
    assert (message.body, message["destination"]) == (b"2", topic)
    client.confirmed("UNSUBSCRIBE", id="mine", **durable)
    sender.confirmed("SEND", b"3", destination=topic)
    client.confirmed("SUBSCRIBE", id="mine", destination=topic, ack="client", **durable)
    sender.confirmed("SEND", b"4", destination=topic)
    assert client.expect("MESSAGE").body == b"4"


def test_virtual_topics_as_activemq_has_them(gateway: RunningGateway, topic: str) -> None:
    client = gateway.connected()
    name = topic.removeprefix("/topic/")
    for who in ("A", "B"):
        client.confirmed("SUBSCRIBE", id=who, destination=f"/queue/Consumer.{who}.VirtualTopic.{name}")
    client.confirmed("SEND", destination=f"{topic}.sync")
    client.send("SEND", b"x", destination=f"/topic/VirtualTopic.{name}")
    assert {client.expect("MESSAGE")["subscription"] for _ in range(2)} == {"A", "B"}


def test_an_exclusive_consumer_and_its_successor(gateway: RunningGateway, queue: str) -> None:
    first, second = gateway.connected(), gateway.connected()
    first.confirmed("SUBSCRIBE", id=0, destination=queue, exclusive="true")
    second.confirmed("SUBSCRIBE", id=0, destination=queue, exclusive="true")
    for number in range(4):
        first.confirmed("SEND", b"%d" % number, destination=queue)
    assert [first.expect("MESSAGE").body for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    first.confirmed("DISCONNECT")
    second.send("SEND", b"next", destination=queue)
    assert second.expect("MESSAGE").body == b"next"


def test_a_consumer_that_vanishes_counts_and_one_that_says_goodbye_does_not(
    gateway: RunningGateway, queue: str, stomp_database: str
) -> None:
    import psycopg

    sender = gateway.connected()
    sender.confirmed("SEND", b"x", destination=queue, persistent="true")

    def failures() -> int:
        with psycopg.connect(stomp_database, autocommit=True) as connection:
            [[count]] = connection.execute(
                "SELECT m.failures FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
                " WHERE d.name = %s",
                [queue.removeprefix("/queue/")],
            ).fetchall()
            return count

    polite = gateway.connected()
    polite.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    polite.expect("MESSAGE")
    polite.confirmed("DISCONNECT")
    rude = gateway.connected()
    rude.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    rude.expect("MESSAGE")
    assert failures() == 0
    rude.close()
    last = gateway.connected()
    last.send("SUBSCRIBE", id=0, destination=queue, ack="client")
    assert last.expect("MESSAGE")["delivery-count"] == "3"
    assert failures() == 1
