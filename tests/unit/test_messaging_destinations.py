"""What the verbs of the Messaging API accept as destinations, headers and priorities, before anything is sent."""

import pytest

from apps.messaging import BadMessage, Messaging, destinations


def test_short_names_get_the_prefix_of_their_verb() -> None:
    assert destinations.queue("mails") == "/queue/mails"
    assert destinations.topic("orders.new") == "/topic/orders.new"
    assert destinations.task("firebrand.clone_brand") == "/task/firebrand.clone_brand"


def test_full_names_go_through() -> None:
    assert destinations.queue("/reply-queue/abc") == "/reply-queue/abc"
    assert destinations.task("/queue/thumbnails") == "/queue/thumbnails"


@pytest.mark.parametrize("name", ["", "a\nb", "a\0"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(BadMessage) as refused:
        destinations.queue(name)
    assert refused.value.code == "bad_message"


@pytest.mark.parametrize(
    "headers", [{"receipt": "1"}, {"destination": "x"}, {"a:b": "1"}, {"": "1"}, {"a": 1}, {"a": "\0"}, {"a\n": "b"}]
)
def test_headers_that_would_be_misread_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadMessage):
        destinations.checked(headers)


def test_values_may_hold_anything_that_stomp_can_escape() -> None:
    assert destinations.checked({"a": "b:c\nd\\e"}) == {"a": "b:c\nd\\e"}


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_out_of_range_is_refused_without_a_connection(priority: int) -> None:
    with pytest.raises(BadMessage, match="priority"), Messaging("127.0.0.1", 1, "a", "b") as messaging:
        messaging.send("q", "x", priority=priority)
