"""The task decorator: what cannot be is refused at import, with file and line."""

import re
import uuid
from typing import Any

import pytest

from apps.jobs import JobContext, external_task, registry, task
from apps.jobs.errors import BadTask, UnknownTask
from msgweb.errors import BadArguments, LimitExceeded


@pytest.fixture
def name() -> str:
    return f"unit.t{uuid.uuid4().hex}"


def test_a_declared_task_is_found_and_can_be_called(name: str) -> None:
    @task(name=name, queue="q", max_attempts=3)
    def double(context: JobContext, *, n: int) -> int:
        return 2 * n

    assert registry.find(name) is double
    assert (double.queue, double.max_attempts) == ("q", 3)
    assert double(None, n=4) == 8  # type: ignore[arg-type]
    assert "q" in registry.queues()


def test_a_task_done_outside_has_no_queue_that_workers_serve(name: str) -> None:
    done_outside = external_task(name=name, queue=f"queue-of-{name}", required=("order",), optional=("note",))
    assert registry.find(name) is done_outside
    assert done_outside.queue not in registry.queues()
    done_outside.check({"order": 1})
    with pytest.raises(BadArguments, match="order"):
        done_outside.check({"note": 1})
    with pytest.raises(BadTask):
        done_outside(None)  # type: ignore[arg-type]


def test_an_unknown_task_is_not_found() -> None:
    with pytest.raises(UnknownTask, match=r"no\.such"):
        registry.find("no.such")


def test_two_tasks_may_not_share_a_name(name: str) -> None:
    @task(name=name)
    def first(context: JobContext) -> None: ...

    with pytest.raises(BadTask, match=f"{re.escape(__file__)}:\\d+: .*declared already, at {re.escape(first.where)}"):

        @task(name=name)
        def second(context: JobContext) -> None: ...

    assert registry.find(name) is first


def _no_context() -> None: ...
def _keyword_context(*, context: Any) -> None: ...
def _positional(context: Any, a: int) -> None: ...
def _varargs(context: Any, *args: int) -> None: ...
def _kwargs(context: Any, **kwargs: int) -> None: ...


@pytest.mark.parametrize(
    "function", [_no_context, _keyword_context, _positional, _varargs, _kwargs], ids=lambda f: f.__name__
)
def test_a_signature_that_cannot_be_checked_is_refused_at_its_line(function: Any, name: str) -> None:
    line = function.__code__.co_firstlineno
    with pytest.raises(BadTask, match=f"{re.escape(__file__)}:{line}: "):
        task(name=name)(function)
    with pytest.raises(UnknownTask):
        registry.find(name)


@pytest.mark.parametrize(
    "options",
    [
        {"queue": ""},
        {"queue": "/queue/x"},
        {"queue": "/topic/x"},
        {"queue": "x" * 256},
        {"queue": "a\nb"},
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"name": "no name"},
        {"name": ""},
        {"name": "x" * 201},
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], name: str) -> None:
    def function(context: JobContext) -> None: ...

    with pytest.raises(BadTask, match=re.escape(__file__)):
        task(**{"name": name, **options})(function)


def test_arguments_are_checked_by_name_and_as_json(name: str) -> None:
    @task(name=name)
    def sample(context: JobContext, *, a: int, b: str = "") -> None: ...

    sample.check({"a": 1})
    sample.check({"a": [1, {"x": None}], "b": "ä\\u0000 is no NUL"})
    with pytest.raises(BadArguments, match="'a'"):
        sample.check({"b": "x"})
    with pytest.raises(BadArguments, match=r"'c'.*a, b"):
        sample.check({"a": 1, "c": 2})
    for nonsense in (float("nan"), float("inf"), object(), "\ud800", "NUL \0", {"deep": ["\0"]}, {1: 2, "\0": 3}):
        with pytest.raises(BadArguments, match="no JSON"):
            sample.check({"a": nonsense})
    with pytest.raises(LimitExceeded):
        sample.check({"a": 1, "b": "x" * registry.ARGUMENTS_LIMIT})
