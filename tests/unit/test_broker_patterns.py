"""Patterns of topics: against a table, and against a plain definition of what they mean."""

import time

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.broker.patterns import PatternTrie, durable_queue_name, is_pattern, matches, validate, virtual_topic_of
from msgweb.errors import BadDestination

words = st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=5)
said = st.lists(st.sampled_from(["a", "b", "*", "#", "c"]), min_size=1, max_size=5)


def by_definition(pattern: list[str], name: list[str]) -> bool:
    """What a pattern means, in the fewest words."""
    if not pattern:
        return not name
    first, *rest = pattern
    if first in ("#", ">"):
        return by_definition(rest, name) or (bool(name) and by_definition(pattern, name[1:]))
    return bool(name) and first in ("*", name[0]) and by_definition(rest, name[1:])


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("price.*", "price.tea", True),
        ("price.*", "price", False),
        ("price.*", "price.tea.oolong", False),
        ("price.#", "price", True),
        ("price.#", "price.tea.oolong", True),
        ("price.>", "price.tea.oolong", True),
        ("#.oolong", "price.tea.oolong", True),
        ("price.#.oolong", "price.oolong", True),
        ("*.tea.#", "price.tea", True),
        ("#", "anything.at.all", True),
        ("price.tea", "price.tea", True),
        ("pri*", "price", False),
        ("*", "#", True),
    ],
)
def test_what_a_pattern_matches(pattern, name, expected):
    assert matches(pattern, name) is expected


@given(said, words)
def test_it_means_what_the_definition_says(pattern, name):
    assert matches(".".join(pattern), ".".join(name)) is by_definition(pattern, name)


@pytest.mark.django_db(transaction=True)
def test_sql_says_the_same(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as connection:

        @settings(max_examples=300)
        @given(said, words)
        def agree(pattern, name):
            text, topic = ".".join(pattern), ".".join(name)
            found = connection.execute("SELECT msgweb.topic_matches(%s, %s)", [text, topic]).fetchone()
            assert found == (matches(text, topic),)

        agree()


@given(st.lists(said, max_size=8), words)
def test_a_trie_finds_the_values_of_all_patterns_that_match(patterns, name):
    trie: PatternTrie[int] = PatternTrie()
    for number, pattern in enumerate(patterns):
        trie.add(".".join(pattern), number)
    expected = [number for number, pattern in enumerate(patterns) if by_definition(pattern, name)]
    assert sorted(trie.lookup(".".join(name))) == expected
    for number, pattern in enumerate(patterns[::2]):
        trie.remove(".".join(pattern), number * 2)
    assert sorted(trie.lookup(".".join(name))) == [number for number in expected if number % 2]
    for number, pattern in enumerate(patterns):
        trie.remove(".".join(pattern), number)
    assert not trie
    assert trie.lookup(".".join(name)) == []


def test_a_hostile_pattern_takes_no_time():
    begun = time.perf_counter()
    assert not matches(".".join(["#", "a"] * 60), ".".join(["a"] * 120 + ["b"]))
    assert time.perf_counter() - begun < 1  # what trying every way would take for ever


def test_what_is_a_pattern_and_what_is_a_bad_one():
    assert is_pattern("a.*") and is_pattern("#") and is_pattern("a.>")
    assert not is_pattern("a.b*") and not is_pattern("c#") and not is_pattern("x>y")
    validate("a.>")
    with pytest.raises(BadDestination, match="end of a pattern"):
        validate("a.>.b")


def test_virtual_topics_and_durable_names():
    assert virtual_topic_of("Consumer.A.VirtualTopic.Orders") == "VirtualTopic.Orders"
    assert virtual_topic_of("Consumer.A.VirtualTopic.>") == "VirtualTopic.>"
    assert virtual_topic_of("orders") is None
    assert virtual_topic_of("Consumer.A.Other.Orders") is None
    assert durable_queue_name("shop", "mail") == "durable.shop.mail"
    names = {durable_queue_name(*pair) for pair in [("a", "b.c"), ("a.b", "c"), ("a", "b\nc"), ("a", "x" * 300)]}
    assert len(names) == 4
    assert all(name.isprintable() and len(name) <= 255 for name in names)
