"""What destinations mean, and which headers are refused by name."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.broker.engine import AGAIN, Address
from apps.stomp.gateway import declarations, features, wishes
from apps.stomp.gateway.destinations import (
    Job,
    Target,
    Task,
    Temporary,
    check_subscribable,
    parse_destination,
    parse_destinations,
    written,
)
from apps.stomp.gateway.errors import BadHeader, NotSupported
from apps.stomp.protocol.dialects import ACTIVEMQ, RABBITMQ
from apps.stomp.protocol.events import Subscribe
from msgweb.errors import BadDestination, BadMessage

N = "taoshop.production"


def queue(name: str) -> Address:
    return Address(N, "queue", name)


def topic(name: str) -> Address:
    return Address(N, "topic", name)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("/queue/orders", queue("orders")),
        ("orders", queue("orders")),
        ("orders/new", queue("orders/new")),
        ("/queue/a/b", queue("a/b")),
        ("/queue/a%2Fb%25c%20", queue("a/b%c%20")),
        ("/queue/a, b", queue("a, b")),
        ("/amq/queue/orders", queue("orders")),
        ("/topic/orders.new", topic("orders.new")),
        ("/exchange/amq.topic/orders.new", topic("orders.new")),
        ("/reply-queue/Xy_-1", queue("$reply.Xy_-1")),
        ("/temp-queue/mine", Temporary("queue", "mine")),
        ("/temp-topic/mine", Temporary("topic", "mine")),
        ("/remote-temp-queue/Xy_-1", queue("$reply.Xy_-1")),
        ("/remote-temp-topic/Xy_-1", topic("$reply.Xy_-1")),
        ("/exchange/amq.direct/orders", queue("orders")),
        ("/exchange/amq.fanout", topic("amq.fanout")),
        ("/exchange/amq.fanout/key", topic("amq.fanout")),
        ("/task/firebrand.clone_brand", Task("firebrand.clone_brand")),
        ("/job/0192", Job("0192")),
    ],
)
def test_destinations(text: str, target: Target) -> None:
    assert parse_destination(N, text) == target


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "/queue",
            "/queue/",
            "/topic/",
            "/x/y",
            "/amq/x",
            "/reply-queue/",
            "/temp-queue/",
            "/task/",
            "/job/",
        ),
        *("a\nb", "/queue/$reply.x", "$reply.x", "/queue/" + "x" * 256),
    ],
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(BadDestination):
        parse_destination(N, text)


def test_an_exchange_of_ones_own_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="logs"):
        parse_destination(N, "/exchange/logs")


def test_a_send_goes_to_several_destinations_and_a_subscription_to_one() -> None:
    assert parse_destinations(N, "/queue/a,/topic/b, /queue/c, d") == [
        ("/queue/a", queue("a")),
        ("/topic/b", topic("b")),
        ("/queue/c, d", queue("c, d")),
    ]
    with pytest.raises(BadDestination, match="not received from"):
        parse_destination(N, "/queue/a,/topic/b")


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_every_text_is_a_target_or_a_clear_refusal(text: str) -> None:
    for prefix in ("", "/queue/", "/topic/", "/reply-queue/", "/exchange/", "/amq/"):
        try:
            target = parse_destination(N, prefix + text)
        except (BadDestination, NotSupported):
            continue  # any other exception is a failure
        if isinstance(target, Address):
            assert parse_destination(N, written(target).replace("%", "%25")) == target


@pytest.mark.parametrize("name", ["a.*", "*", "a.#", "a.>", "a.*.b"])
def test_patterns_need_an_engine_that_has_them(name: str) -> None:
    with pytest.raises(NotSupported):
        check_subscribable(topic(name), frozenset())
    check_subscribable(topic(name), frozenset({"topic-wildcards"}))
    check_subscribable(queue(name), frozenset())


def test_a_star_within_a_word_is_no_pattern() -> None:
    check_subscribable(topic("a*.b#"), frozenset())


def test_headers_that_ask_for_nothing_are_accepted() -> None:
    nothing = {b"expires": b"0", b"x-delay": b"0", b"ttl": b"0", b"content-type": b"a/b"}
    assert wishes.of_send(nothing, ACTIVEMQ) is wishes.of_send(nothing, RABBITMQ) is None
    features.check({"no-local": "false"}, features.SUBSCRIBE)
    assert wishes.of_subscribe({"selector": "", "x-priority": "0", "exclusive": "false"}) == wishes.NO_WISH
    assert wishes.refusal_of({"requeue": "true"}) == AGAIN
    event = Subscribe("1", True, "/topic/x", "auto", {"id": "1", "durable": "false"}, None)
    assert wishes.durable_name(event, "x", wishes.Subscriber("shop", None), RABBITMQ) is None


def test_times_are_spans_from_the_moment_of_the_send() -> None:
    moment = time.time()
    wish = wishes.of_send({b"expires": b"%d" % ((moment + 60) * 1000), b"JMSXGroupID": b"a\\cb"}, ACTIVEMQ)
    assert wish is not None
    options = wish.now()
    assert options.ttl == pytest.approx(60, abs=5)
    assert options.group == "a:b"
    gone = wishes.of_send({b"expires": b"1000"}, ACTIVEMQ)
    assert gone is not None
    assert gone.now().ttl == wishes.SOON
    assert wishes.of_send({b"expires": b"tomorrow"}, RABBITMQ) is None  # a header like any other there
    with pytest.raises(BadMessage):
        wishes.of_send({b"expires": b"tomorrow"}, ACTIVEMQ)
    later = wishes.of_send({b"_AMQ_SCHED_DELIVERY": b"%d" % ((moment + 60) * 1000), b"expiration": b"1500"}, RABBITMQ)
    assert later is not None
    assert later.now().delay == pytest.approx(60, abs=5)
    assert later.now().ttl == 1.5


@pytest.mark.parametrize(
    ("headers", "settings"),
    [
        ({"x-message-ttl": "1500", "x-expires": "60000"}, {"message_ttl": 1.5, "expires_after": 60.0}),
        ({"x-max-length": "10"}, {"max_length": 10, "overflow": "drop-head"}),
        ({"x-max-length-bytes": "10", "x-overflow": "reject-publish"}, {"max_bytes": 10, "overflow": "refuse"}),
        ({"x-delivery-limit": "3"}, {"max_deliveries": 4}),
        ({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}, {"dead_letter_queue": "dead"}),
        ({"x-max-priority": "10", "x-queue-type": "quorum", "content-type": "x"}, {}),
    ],
)
def test_arguments_of_a_queue_are_settings_of_it(headers: dict[str, str], settings: dict[str, object]) -> None:
    assert declarations.of(headers) == settings
    assert declarations.of_send({name.encode(): value.encode() for name, value in headers.items()}) == settings


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"x-message-ttl": "-1"}, BadHeader),
        ({"x-max-length": "²"}, BadHeader),
        ({"x-max-length": "1", "x-overflow": "x"}, BadHeader),
        ({"x-dead-letter-exchange": ""}, BadHeader),
        ({"x-dead-letter-exchange": "logs", "x-dead-letter-routing-key": "a"}, NotSupported),
        ({"x-max-priority": "300"}, BadHeader),
        ({"x-queue-type": "stream"}, NotSupported),
    ],
)
def test_arguments_that_cannot_be(headers: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        declarations.of(headers)


@pytest.mark.parametrize("name", sorted(features.SUBSCRIBE))
def test_every_subscribe_header_that_needs_an_engine_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotSupported, match=name):
        features.check({name: "true"}, features.SUBSCRIBE)


@pytest.mark.parametrize("value", [b"-1", b"10", b"x", b"", b"4 ", b"\xc2\xb2"])
def test_a_priority_is_0_to_9(value: bytes) -> None:
    with pytest.raises(BadMessage):
        features.priority_of({b"priority": value}, 4)


def test_priorities() -> None:
    assert [features.priority_of({b"priority": b"%d" % n}, 4) for n in range(10)] == list(range(10))
    assert features.priority_of({}, 4) == 4


def test_prefetch() -> None:
    assert features.prefetch_of({}, 10, 1_000) == 10
    assert features.prefetch_of({"prefetch-count": "7"}, 10, 1_000) == 7
    assert features.prefetch_of({"activemq.prefetchSize": "7"}, 10, 1_000) == 7
    assert features.prefetch_of({"prefetch-count": "99999999999"}, 10, 1_000) == 1_000
    assert features.prefetch_of({"prefetch-count": "0"}, 10, 1_000) == 1_000
    for value in ("-1", "x", "", "²"):
        with pytest.raises(BadHeader):
            features.prefetch_of({"prefetch-count": value}, 10, 1_000)
