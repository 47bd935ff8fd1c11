"""What may be said of a task, and what follows from it."""

import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.jobs import JobContext, task
from apps.jobs.errors import BadTask
from apps.jobs.options import Backoff, BadOption, Concurrency, Decision, Options, Rate, Unique, evaluate
from msgweb.errors import BadArguments, BadRequest


@pytest.mark.parametrize(
    "options",
    [
        {"retries": 3},
        {"max_attempts": 0},
        {"max_attempts": True},
        {"backoff": 3},
        {"retry_on": "ValueError"},
        {"give_up_on": (ValueError, 3)},
        {"timeout": 0},
        {"timeout": "1 minute"},
        {"unique": True},
        {"unique": Unique(by=("customer",))},
        {"unique": Unique(by="{customer}")},
        {"concurrency": 3},
        {"concurrency": Concurrency(2, "{customer}")},
        {"concurrency": Concurrency(2, "{customer")},
        {"concurrency": Concurrency(2, "{a.__class__}")},
        {"concurrency": Concurrency(2, 3)},  # type: ignore[arg-type]
        {"rate": Rate(2, 60, "{0}")},
        {"priority": 10},
        {"expires": -1},
        {"on_worker_death": "ignore"},
    ],
)
def test_an_option_that_cannot_be_is_refused_at_import_with_file_and_line(options: dict[str, Any]) -> None:
    def function(context: JobContext, *, a: int) -> None: ...

    line = function.__code__.co_firstlineno
    with pytest.raises(BadTask, match=f"{re.escape(__file__)}:{line}: "):
        task(name=f"unit.o{uuid.uuid4().hex}", **options)(function)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Backoff(first=-1),
        lambda: Backoff(factor=0.5),
        lambda: Backoff(jitter=2),
        lambda: Unique(window=0),
        lambda: Unique(states=frozenset()),
        lambda: Unique(states=frozenset({"asleep"})),
        lambda: Concurrency(0),
        lambda: Rate(0, 1),
        lambda: Rate(1, 0),
        lambda: Rate(100_000, 1),
    ],
)
def test_a_part_of_an_option_that_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(BadOption):
        make()


@given(
    st.builds(Backoff, first=st.floats(0, 1e6), factor=st.floats(1, 100), longest=st.floats(0, 1e6)),
    st.integers(1, 10**9),
)
def test_a_pause_grows_to_its_limit_and_no_further(backoff: Backoff, failures: int) -> None:
    assert 0 <= backoff.pause(failures) <= backoff.longest * 1.2 + 1e-9


def test_pauses_double_without_jitter() -> None:
    backoff = Backoff(first=2, longest=10, jitter=0)
    assert [backoff.pause(n) for n in (1, 2, 3, 4, 10_000)] == [2, 4, 8, 10, 10]


def test_which_errors_are_worth_another_attempt() -> None:
    flat = Backoff(first=5, factor=1, jitter=0)
    options = Options(retry_on=(OSError,), give_up_on=FileNotFoundError, backoff=flat)  # type: ignore[arg-type]
    assert options.decide(TimeoutError(), 1) == Decision(True, 5)
    assert not options.decide(FileNotFoundError(), 1).again
    assert not options.decide(ValueError(), 1).again
    assert Options().decide(ValueError(), 1).again
    assert not Options().decide(BadRequest("no"), 1).again
    assert Options(retry_on=BadRequest).decide(BadRequest("no"), 1).again  # type: ignore[arg-type]


def test_a_back_off_may_be_a_function_of_the_error() -> None:
    def pause(error: BaseException, failures: int) -> float | None:
        return None if isinstance(error, KeyError) else 10.0 * failures

    options = Options(backoff=pause)
    assert options.decide(ValueError(), 3) == Decision(True, 30)
    assert not options.decide(KeyError(), 1).again
    assert Options(backoff=lambda _e, _n: -5).decide(ValueError(), 1).pause == 0
    assert Options(backoff=lambda _e, _n: float("inf")).decide(ValueError(), 1).pause > 0


def test_what_makes_two_jobs_the_same() -> None:
    everything, one = Unique(), Unique(by=("a",))
    assert everything.key("t", {"a": 1, "b": 2}) == everything.key("t", {"b": 2, "a": 1})
    assert everything.key("t", {"a": 1, "b": 2}) != everything.key("t", {"a": 1, "b": 3})
    assert everything.key("t", {"a": 1}) != everything.key("u", {"a": 1})
    assert one.key("t", {"a": 1, "b": 2}) == one.key("t", {"a": 1, "b": 3}) != one.key("t", {"a": 2})
    assert Unique(by="{a}").key("t", {"a": 1}) == Unique(by=lambda arguments: str(arguments["a"])).key("t", {"a": 1})


def test_keys_are_made_of_arguments_and_stay_short() -> None:
    options = Options(concurrency=Concurrency(2, "customer {a}"), rate=Rate(5, 60))
    assert options.limits("n.s", "t", {"a": 7}) == {
        "key": "n.s customer 7",
        "limit": 2,
        "rate_key": "n.s t",
        "count": 5,
        "per": 60,
    }
    assert Options().limits("n.s", "t", {}) is None
    assert len(evaluate("{a}", {"a": "x" * 1000})) == 64
    with pytest.raises(BadArguments):
        evaluate(lambda arguments: str(arguments["none"]), {})
    with pytest.raises(BadArguments, match="ZeroDivisionError"):
        evaluate(lambda arguments: str(1 / arguments["a"]), {"a": 0})
