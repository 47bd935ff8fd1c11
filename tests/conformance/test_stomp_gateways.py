"""Two gateways on one database: what a consumer asks for counts among the consumers of both."""

from collections.abc import Iterator

import pytest

from apps.broker.engine import Address
from tests.installation import until
from tests.stomp_gateway import NAMESPACE, SECONDS, RunningGateway, gateway, queue, stomp_database

__all__ = ["gateway", "queue", "stomp_database"]  # fixtures


@pytest.fixture
def other(stomp_database: str) -> Iterator[RunningGateway]:
    """A second gateway."""
    with RunningGateway(stomp_database) as running:
        yield running


def heeds(gateway: RunningGateway, queue: str, priority: int) -> None:
    """Wait until a gateway leaves what comes to consumers of that priority elsewhere."""
    name = queue.removeprefix("/queue/")
    local = gateway.engine.places.queue(Address(NAMESPACE, "queue", name))
    until(lambda: local.ranks.bar == priority, SECONDS, "the gateways know each other's consumers")


def test_a_consumer_of_lower_priority_gets_what_the_other_gateways_consumer_has_no_credit_for(
    gateway: RunningGateway, other: RunningGateway, queue: str
) -> None:
    low, high, sender = gateway.connected(), other.connected(), gateway.connected()
    low.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client-individual", **{"prefetch-count": 100})
    high.confirmed(
        "SUBSCRIBE", id=0, destination=queue, ack="client-individual", **{"prefetch-count": 2, "x-priority": 7}
    )
    heeds(gateway, queue, 7)
    for number in range(4):
        sender.confirmed("SEND", b"%d" % number, destination=queue, persistent="true")
    held = [high.expect("MESSAGE") for _ in range(2)]
    assert sorted(message.body for message in held) == [b"0", b"1"]
    assert sorted(low.expect("MESSAGE").body for _ in range(2)) == [b"2", b"3"]
    for message in held:
        high.confirmed("ACK", id=message["ack"])
    heeds(gateway, queue, 7)
    sender.confirmed("SEND", b"again", destination=queue, persistent="true")
    high.send("ACK", id=high.expect("MESSAGE")["ack"])
    high.confirmed("DISCONNECT")
    sender.confirmed("SEND", b"alone", destination=queue, persistent="true")
    assert low.expect("MESSAGE").body == b"alone"


def test_an_exclusive_consumer_of_higher_priority_at_another_gateway_takes_over_between_two_messages(
    gateway: RunningGateway, other: RunningGateway, queue: str
) -> None:
    first, second, sender = gateway.connected(), other.connected(), gateway.connected()
    exclusive = {"ack": "client-individual", "exclusive": "true", "prefetch-count": 1}
    first.confirmed("SUBSCRIBE", id=0, destination=queue, **exclusive)
    for number in range(3):
        sender.confirmed("SEND", b"%d" % number, destination=queue, persistent="true")
    held = first.expect("MESSAGE")
    second.confirmed("SUBSCRIBE", id=0, destination=queue, **exclusive, **{"activemq.priority": 1})
    local = gateway.engine.places.queue(Address(NAMESPACE, "queue", queue.removeprefix("/queue/")))
    until(lambda: local.yields, SECONDS, "the first gateway knows of the second one's consumer")
    first.confirmed("ACK", id=held["ack"])
    taken = second.expect("MESSAGE")
    second.confirmed("ACK", id=taken["ack"])
    second.confirmed("ACK", id=second.expect("MESSAGE")["ack"])
    second.confirmed("DISCONNECT")
    sender.confirmed("SEND", b"3", destination=queue, persistent="true")
    assert (held.body, taken.body, first.expect("MESSAGE").body) == (b"0", b"1", b"3")


def test_a_groups_messages_go_to_whoever_selects_them_at_whichever_gateway_and_in_order(
    gateway: RunningGateway, other: RunningGateway, queue: str
) -> None:
    red, blue, sender = gateway.connected(), other.connected(), gateway.connected()
    consumers = {"red": red, "blue": blue}
    for colour, consumer in consumers.items():
        consumer.confirmed(
            "SUBSCRIBE", id=0, destination=queue, ack="client-individual", selector=f"colour = '{colour}'"
        )
    colours = ["red", "blue", "blue", "red"] * 3
    for number, colour in enumerate(colours):
        sender.confirmed("SEND", b"%d" % number, destination=queue, JMSXGroupID="g", colour=colour)
    for number, colour in enumerate(colours):
        message = consumers[colour].expect("MESSAGE")
        assert message.body == b"%d" % number
        consumers[colour].confirmed("ACK", id=message["ack"])
