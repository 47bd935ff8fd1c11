"""What bounds a job's log."""

from apps.jobs.log_limit import COUNTED, LogLimiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_admitted_then_so_many_lines_a_second() -> None:
    clock = Clock()
    limiter = LogLimiter(clock, per_second=8, burst=5, in_all=1000)
    assert [limiter.admit() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.625
    assert [limiter.admit() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 0.125
    assert [limiter.admit() for _ in range(2)] == [True, False]


def test_what_was_left_out_is_told_once() -> None:
    limiter = LogLimiter(Clock(), per_second=10, burst=1, in_all=1000)
    assert limiter.notice() is None
    for _ in range(4):
        limiter.admit()
    assert limiter.notice() == "… 3 lines left out: over 10 a second"
    assert limiter.notice() is None


def test_of_many_lines_at_once_the_first_are_kept_and_those_before_them_told_apart_from_the_rest() -> None:
    clock = Clock()
    limiter = LogLimiter(clock, per_second=8, burst=5, in_all=1000)
    assert limiter.admit(7) == 5
    clock.now += 0.25
    before = limiter.left_out
    assert (before, limiter.admit(100)) == (2, 2)
    assert limiter.notice(before) == "… 2 lines left out: over 8 a second"
    assert limiter.notice() == "… 98 lines left out: over 8 a second"
    assert limiter.notice(limiter.left_out) is None


def test_a_log_has_an_end() -> None:
    clock = Clock()
    limiter = LogLimiter(clock, per_second=10, burst=5, in_all=3)
    assert [limiter.admit() for _ in range(5)] == [True] * 3 + [False] * 2
    clock.now += 1000
    assert not limiter.admit()
    assert limiter.notice() == "… 3 lines left out: a job's log has at most 3 lines"


def test_what_others_have_said_of_the_attempt_counts() -> None:
    limiter = LogLimiter(Clock(), per_second=10, burst=5, in_all=7)
    assert limiter.uncounted >= COUNTED  # it has yet to be counted
    limiter.count(4)
    assert (limiter.admit(2), limiter.uncounted) == (2, 2)
    limiter.count(9)
    assert not limiter.admit()
