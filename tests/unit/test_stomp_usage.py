"""The limits of a key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.accounts.standings import Identity, KeyLimits
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.ports import Principal
from apps.stomp.gateway.usage import Usage, Usages


def principal(key: int = 1, **limits: int) -> Principal:
    return Principal("me", "a.b", limits=KeyLimits(**limits), identity=Identity("key", key, "proof"))


def test_connections_are_counted_by_key_and_given_back() -> None:
    usages = Usages()
    one = principal(connections=2)
    first, second = usages.enter(one), usages.enter(one)
    assert first is second
    with pytest.raises(TooMany, match="2 connections"):
        usages.enter(one)
    usages.enter(principal(2, connections=1))
    usages.leave(one, first)
    usages.enter(one)
    usages.leave(one, first)
    usages.leave(one, first)
    assert usages.enter(one).connections == 1


def test_a_refused_connection_counts_for_nothing() -> None:
    usages = Usages()
    one = principal(connections=1)
    usage = usages.enter(one)
    for _ in range(3):
        with pytest.raises(TooMany):
            usages.enter(one)
    assert usage.connections == 1


def test_subscriptions_share_what_may_be_unacked() -> None:
    usage = Usage(KeyLimits(unacked=25, subscriptions=4))
    assert [usage.subscribe(10), usage.subscribe(10), usage.subscribe(10)] == [10, 10, 5]
    with pytest.raises(TooMany, match="25 messages"):
        usage.subscribe(10)
    assert usage.subscribe(0) == 0, "one that does not acknowledge holds nothing"
    with pytest.raises(TooMany, match="4 subscriptions"):
        usage.subscribe(0)
    usage.unsubscribe(10)
    assert usage.subscribe(3) == 3
    assert (usage.subscriptions, usage.unacked) == (4, 18)


def test_without_limits_nothing_is_refused_and_nothing_waits() -> None:
    usage = Usage()
    assert usage.subscribe(10_000) == 10_000
    assert usage.pause_after(1_000_000, 1.0) == 0.0


@given(st.integers(1, 5_000), st.lists(st.integers(1, 20_000), min_size=1, max_size=50))
def test_who_waits_as_told_keeps_to_the_rate_whatever_comes_at_once(rate: int, pieces: list[int]) -> None:
    usage = Usage(KeyLimits(sends_per_second=rate))
    start = now = 1_000.0
    for piece in pieces:
        now += usage.pause_after(piece, now)
    assert sum(pieces) <= rate * (now - start + 1) * 1.000001  # a second's worth at once, then the rate
    assert now - start <= sum(pieces) / rate + 0.000001, "nobody waits longer than the rate asks for"


def test_a_changed_limit_holds_at_once() -> None:
    usages = Usages()
    usage = usages.enter(principal())
    assert usage.pause_after(1000, 1.0) == 0.0
    usages.enter(principal(sends_per_second=10))
    assert usage.pause_after(1000, 2.0) > 50
