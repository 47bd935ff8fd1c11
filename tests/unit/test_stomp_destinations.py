"""What destinations mean, and which headers are refused by name."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.broker.engine import AGAIN, Address
from apps.stomp.gateway import features, wishes
from apps.stomp.gateway.destinations import Job, Target, Task, Temporary, check_subscribable, parse_destination, written
from apps.stomp.gateway.errors import BadHeader, NotSupported
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
        ("/temp-queue/mine", Temporary("mine")),
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


@pytest.mark.parametrize(
    "text", ["/queue/a,/topic/b", "/queue/a, /queue/b", "/temp-topic/x", "/exchange/amq.direct/x", "/exchange/logs"]
)
def test_destinations_of_other_brokers_are_refused_by_name(text: str) -> None:
    with pytest.raises(NotSupported):
        parse_destination(N, text)


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
    assert wishes.of_send({b"expires": b"0", b"x-delay": b"0", b"ttl": b"0", b"content-type": b"a/b"}) is None
    features.check({"browser": "false", "no-local": "false"}, features.SUBSCRIBE)
    assert wishes.of_subscribe({"selector": "", "x-priority": "0", "exclusive": "false"}) == wishes.NO_WISH
    assert wishes.refusal_of({"requeue": "true"}) == AGAIN
    assert wishes.durable_name({"durable": "false"}, "shop", "1") is None


def test_times_are_spans_from_the_moment_of_the_send() -> None:
    moment = time.time()
    wish = wishes.of_send({b"expires": b"%d" % ((moment + 60) * 1000), b"JMSXGroupID": b"a\\cb"})
    assert wish is not None
    options = wish.now()
    assert options.ttl == pytest.approx(60, abs=5)
    assert options.group == "a:b"
    gone = wishes.of_send({b"expires": b"1000"})
    assert gone is not None
    assert gone.now().ttl == wishes.SOON
    later = wishes.of_send({b"_AMQ_SCHED_DELIVERY": b"%d" % ((moment + 60) * 1000), b"expiration": b"1500"})
    assert later is not None
    assert later.now().delay == pytest.approx(60, abs=5)
    assert later.now().ttl == 1.5


@pytest.mark.parametrize("name", sorted(features.SEND.keys() - {"x-max-priority"}))
def test_every_send_header_that_needs_an_engine_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotSupported, match=name):
        features.check_send({name.encode(): b"17"})


@pytest.mark.parametrize("name", sorted(features.SUBSCRIBE.keys() - {"x-max-priority"}))
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
