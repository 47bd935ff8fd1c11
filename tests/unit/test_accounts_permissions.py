"""Patterns of destinations, and what rules made of them allow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.accounts.permissions import EVERYTHING, Access, BadPattern, Rule, Verb, covers, validate_pattern
from msgweb.errors import AccessRefused


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("queue/orders", ["queue/orders"], ["queue/orders.new", "topic/orders", "queue/order", "queue/Orders"]),
        ("queue/orders.*", ["queue/orders.new", "queue/orders.*"], ["queue/orders", "queue/orders.new.eu"]),
        (
            "queue/orders.#",
            ["queue/orders", "queue/orders.new", "queue/orders.a.b"],
            ["queue/ordersx", "queue/x.orders"],
        ),
        ("queue/*.new", ["queue/orders.new"], ["queue/new", "queue/a.b.new"]),
        ("queue/#.new", ["queue/new", "queue/a.b.new"], ["queue/new.a"]),
        ("topic/#", ["topic/a", "topic/a.b", "topic/#"], ["queue/a"]),
        ("topic/a.**", ["topic/a", "topic/a.#", "topic/a.>", "topic/a.*.c"], ["topic/#", "topic/*.a"]),
        ("topic/*.b", ["topic/*.b", "topic/a.b"], ["topic/#.b", "topic/>", "topic/a.*"]),
        ("*/x", ["queue/x", "topic/x", "task/x", "job/x"], ["queue/y"]),
        ("**", ["queue/x", "topic/#", "task/a.b", "job/1"], []),
        ("queue/a/b.c", ["queue/a/b.c"], ["queue/a", "queue/a/b"]),
    ],
)
def test_a_pattern_covers_what_it_says(pattern: str, inside: list[str], outside: list[str]) -> None:
    validate_pattern(pattern)
    assert [name for name in inside if not covers(pattern, name)] == []
    assert [name for name in outside if covers(pattern, name)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "orders", "queue", "queue/", "exchange/x", "queue/a..b", "queue/.a", "queue/order*", "queue/a#"),
        *("topic/a.b>", "queue/#.a.#.b.#.c.#", "queue/a\nb", f"queue/{'x' * 300}", "/queue/x"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        validate_pattern(pattern)


WORDS = st.sampled_from(["a", "b", "*", "#"])


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(st.sampled_from("ab"), min_size=1, max_size=5))
def test_a_pattern_means_what_a_regular_expression_would(pattern: list[str], name: list[str]) -> None:
    expression = "".join({"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}.get(word, rf"{word}\.") for word in pattern)
    expected = re.fullmatch(expression, ".".join(name) + ".") is not None
    assert covers(f"queue/{'.'.join(pattern)}", f"queue/{'.'.join(name)}") == expected


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=4), st.data())
def test_whoever_may_subscribe_to_a_pattern_may_receive_each_topic_of_it(
    rule: list[str], subscribed: list[str], data: st.DataObject
) -> None:
    if not covers(f"topic/{'.'.join(rule)}", f"topic/{'.'.join(subscribed)}"):
        return
    words = [
        word
        for part in subscribed
        for word in (
            data.draw(st.lists(st.sampled_from("ab"), max_size=3)) if part == "#" else ["a" if part == "*" else part]
        )
    ]
    if words:
        assert covers(f"topic/{'.'.join(rule)}", f"topic/{'.'.join(words)}")


def test_rules_add_up_and_hold_in_their_namespace_alone() -> None:
    access = Access(
        frozenset({"shop.test", "shop.live"}),
        (
            Rule("shop.test", "queue/#", frozenset({Verb.SEND, Verb.RECEIVE})),
            Rule(None, "topic/news", frozenset({Verb.RECEIVE})),
            Rule("other.one", "**", frozenset(Verb)),
        ),
    )
    assert access.allows(Verb.SEND, "shop.test", "queue/a")
    assert not access.allows(Verb.SEND, "shop.live", "queue/a")
    assert not access.allows(Verb.MANAGE, "shop.test", "queue/a")
    assert access.allows(Verb.RECEIVE, "shop.live", "topic/news")
    assert not access.allows(Verb.SEND, "shop.live", "topic/news")
    assert not access.allows(Verb.SEND, "other.one", "queue/a"), "a rule opens no namespace"
    with pytest.raises(AccessRefused, match=r"manage /queue/a in shop\.test"):
        access.check(Verb.MANAGE, "shop.test", "queue/a")


def test_without_rules_everything_is_allowed_in_the_namespaces_that_are_open() -> None:
    assert EVERYTHING.allows(Verb.MANAGE, "any.where", "queue/x")
    mine = Access(frozenset({"a.b"}))
    assert mine.allows(Verb.MANAGE, "a.b", "queue/x")
    assert not mine.allows(Verb.SEND, "a.c", "queue/x")
    assert not Access(frozenset({"a.b"}), ()).allows(Verb.SEND, "a.b", "queue/x"), "no rules are not all rules"
