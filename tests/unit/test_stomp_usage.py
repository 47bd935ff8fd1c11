"""The limits of a key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.accounts.standings import Identity, KeyLimits
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.ports import Principal
from apps.stomp.gateway.usage import NO_USE, Usage, Usages, Use


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


def test_what_other_processes_use_counts_as_long_as_they_say_so() -> None:
    usages = Usages()
    one = principal(connections=3, subscriptions=2, unacked=30)
    usages.hear("b", {("key", 1): Use(1, 1, 10), ("key", 2): Use(9, 9, 9)})
    usage = usages.enter(one)
    usages.hear("c", {("key", 1): Use(1, 0, 15)})
    assert usage.elsewhere == Use(2, 1, 25)
    with pytest.raises(TooMany, match="3 connections"):
        usages.enter(one)
    assert usage.subscribe(10) == 5
    with pytest.raises(TooMany, match="2 subscriptions"):
        usage.subscribe(0)
    usages.hear("b", {("key", 2): Use(9, 9, 9)})
    assert usages.enter(one).elsewhere == Use(1, 0, 15)
    usages.hear("c", {})
    assert usage.elsewhere == NO_USE


def test_what_is_reported_is_what_keys_with_limits_use() -> None:
    usages = Usages()
    told: list[int] = []
    usages.changed = lambda: told.append(1)
    usages.enter(principal(2))
    assert not told
    usage = usages.enter(principal(connections=3, sends_per_second=1000))
    usage.subscribe(7)
    assert len(told) == 2
    assert usages.take_report(10.0) == {("key", 1): Use(1, 1, 7, 0.0, 0)}
    usage.pause_after(50, 10.5)
    assert usages.take_report(12.0) == {("key", 1): Use(1, 1, 7, 25.0, 1)}
    assert usages.take_report(12.5) == {("key", 1): Use(1, 1, 7, 25.0, 1)}, "too soon to be told of another"
    assert usages.take_report(14.0) == {("key", 1): Use(1, 1, 7, 12.5, 1)}
    for now in range(16, 30, 2):
        last = usages.take_report(float(now))
    assert last == {("key", 1): Use(1, 1, 7, 0.0, 0)}
    usage.unsubscribe(7)
    usages.leave(principal(connections=3), usage)
    assert len(told) == 4
    assert usages.take_report(30.0) == {}


@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=4))
def test_processes_come_to_share_the_pace_and_each_gets_what_it_wants_up_to_its_share(wants: list[float]) -> None:
    """Each wants so many times the limit, second by second, and hears of the others once a second."""
    most = 1000
    usages = [Usage(KeyLimits(sends_per_second=most)) for _ in wants]
    sent = [0] * len(wants)
    free = [1_000.0] * len(wants)
    for usage in usages:
        usage.take_report(1_000.0)
    for second in range(1_000, 1_030):
        for tenth in range(10):
            now = second + tenth / 10
            for number, usage in enumerate(usages):
                piece = int(wants[number] * most / 10)
                if free[number] <= now and piece:
                    free[number] = now + usage.pause_after(piece, now)
                    sent[number] += piece if second >= 1_010 else 0
        told = [usage.take_report(second + 1.0) for usage in usages]
        for number, usage in enumerate(usages):
            usage.elsewhere = Use.together(told[:number] + told[number + 1 :])
    assert sum(sent) <= 20 * most * 1.15 + sum(wants) * most  # a second's worth may have been saved
    for want, number in zip(wants, sent, strict=True):
        assert number >= 20 * min(int(want * most / 10) * 10, most / len(wants)) * 0.8 - most


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
