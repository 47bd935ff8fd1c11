"""How long jobs are expected to take, and how many are prefetched by that."""

import math

from workers.durations import AHEAD_JOBS, AHEAD_SECONDS, QUICK, Durations


def test_of_an_unknown_task_nothing_is_prefetched() -> None:
    durations = Durations()
    assert math.isinf(durations.expect("a"))
    assert durations.ahead() == 0


def test_quick_jobs_are_prefetched_for_so_much_time() -> None:
    durations = Durations()
    for _ in range(100):
        durations.learn("a", AHEAD_SECONDS / 20)
    assert durations.ahead() == 20 or durations.ahead() == 19
    for _ in range(100):
        durations.learn("a", 1e-9)
    assert durations.ahead() == AHEAD_JOBS


def test_one_slow_job_ends_it_and_several_quick_ones_bring_it_back() -> None:
    durations = Durations()
    durations.learn("a", 0.001)
    durations.learn("a", 5.0)
    assert durations.expect("a") > QUICK
    assert durations.ahead() == 0
    count = 0
    while not durations.ahead():
        durations.learn("a", 0.001)
        count += 1
    assert 10 < count < 100


def test_tasks_are_known_apart() -> None:
    durations = Durations()
    durations.learn("slow", 3.0)
    durations.learn("quick", 0.001)
    assert (durations.expect("slow"), durations.expect("quick")) == (3.0, 0.001)
