"""Failed log-ins are counted by address, and slow whoever goes on."""

import asyncio
import logging

import pytest

from apps.accounts.errors import TooManyFailures
from apps.stomp.gateway import login_failures
from apps.stomp.gateway.login_failures import (
    ADDRESSES,
    FREE,
    HALVED_SECONDS,
    MOST_SECONDS,
    REFUSED_SECONDS,
    LoginFailures,
    network_of,
)


class Desk:
    """A count of failures, with a clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.failures = LoginFailures(lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def wait(self, address: str) -> float:
        """How long somebody there has to wait."""
        before = len(self.slept)
        asyncio.run(self.failures.wait(address))
        return sum(self.slept[before:])


def test_the_first_failures_cost_nothing_and_further_ones_more_and_more() -> None:
    desk = Desk()
    waits = []
    for _ in range(9):
        waits.append(desk.wait("192.0.2.1"))
        desk.failures.note("192.0.2.1", "x")
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE:] == sorted(waits[FREE:])
    assert 0 < waits[-1] <= MOST_SECONDS
    assert desk.wait("192.0.2.2") == 0.0
    assert (desk.failures.failed, desk.failures.refused) == (9, 0)
    assert desk.failures.slowed == len(desk.slept)


def test_time_heals() -> None:
    desk = Desk()
    for _ in range(12):
        desk.failures.note("192.0.2.1", "x")
    assert desk.wait("192.0.2.1") > 1
    desk.now += 4 * HALVED_SECONDS
    assert desk.wait("192.0.2.1") == 0.0


def test_many_at_once_take_turns_and_those_whose_turn_is_too_far_away_are_refused() -> None:
    desk = Desk()

    async def nap(seconds: float) -> None:
        desk.slept.append(seconds)  # time stands still: all come at once

    desk.failures._sleep = nap
    for _ in range(FREE + 2):
        desk.failures.note("192.0.2.1", "x")
    for _ in range(5):
        asyncio.run(desk.failures.wait("192.0.2.1"))
    assert desk.slept == [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(TooManyFailures):
        asyncio.run(desk.failures.wait("192.0.2.1"))
    assert desk.failures.refused == 1
    assert desk.slept[5:] == [REFUSED_SECONDS]


def test_memory_is_bounded_and_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_failures, "ADDRESSES", 10)
    assert ADDRESSES == 10_000
    desk = Desk()
    for _ in range(FREE + 5):
        desk.failures.note("192.0.2.200", "x")
    for number in range(100):
        desk.failures.note(f"192.0.2.{number}", "x")
        desk.failures.note("192.0.2.200", "x")
    assert len(desk.failures) == 10
    assert desk.wait("192.0.2.200") > 0


def test_an_ipv6_host_is_its_whole_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("") == ""


def test_the_log_is_not_flooded_and_shows_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            desk.failures.note("192.0.2.1", "x\nroot" + "y" * 1000)
    assert len(caplog.records) == 10
    assert caplog.records[-1].getMessage().endswith("failures=512")
    assert all("\n" not in record.getMessage() and len(record.getMessage()) < 200 for record in caplog.records)
