"""Whether a small batch waits: only in a busy loop, not for long, and only while waiting brings something."""

from apps.broker.postgres.pressure import MOST, PROBE, TURN, Pressure


def wait(pressure: Pressure, now: float, brings: int) -> bool:
    """A batch of one operation in a busy turn at that moment; if it waits, so many join it."""
    pressure._asked = now - 2 * TURN
    waits = pressure.defers(now, 1)
    pressure.settle(1 + brings if waits else 1)
    return waits


def test_while_others_join_it_a_batch_waits() -> None:
    pressure = Pressure()
    assert all(wait(pressure, float(n + 1), brings=3) for n in range(100))


def test_while_nobody_joins_hardly_any_batch_waits_and_that_changes_as_soon_as_they_do() -> None:
    pressure = Pressure()
    waited = [wait(pressure, float(n + 1), brings=0) for n in range(10 * PROBE)]
    assert waited[0]
    assert sum(waited[PROBE:]) == 9
    again = [wait(pressure, 1000.0 + n, brings=6) for n in range(2 * PROBE)]
    assert all(again[PROBE:])


def test_in_a_loop_with_nothing_else_to_do_none_waits_and_in_a_busy_one_none_waits_for_long() -> None:
    pressure = Pressure()
    pressure._asked = 1.0
    assert not pressure.defers(1.0 + TURN / 2, 1)
    assert pressure.defers(1.0 + 2 * TURN, 1)
    assert pressure.defers(1.0 + 2 * TURN + MOST / 2, 1)
    assert not pressure.defers(1.0 + 3 * TURN + MOST, 1)
