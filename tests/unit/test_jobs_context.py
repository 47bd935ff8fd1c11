"""What a task sees of its job, and how it is run inline."""

import pytest

from apps.jobs import JobCancelled
from apps.jobs.context import LINE_LIMIT, JobContext, clean
from apps.jobs.testing import InlineRun, run_inline
from msgweb.errors import BadArguments
from tests import sample_tasks


def test_a_text_is_kept_as_far_as_it_can_be_stored() -> None:
    assert clean("short", 10) == "short"
    assert clean("0123456789x", 10) == "012345678…"
    assert clean("a\0b\ud800c", 10) == "a\N{REPLACEMENT CHARACTER}b?c"


def test_a_log_text_becomes_lines_of_bounded_length() -> None:
    run = InlineRun()
    context = JobContext(None, 1, "a.test", run)  # type: ignore[arg-type]
    context.log("one\ntwo", "warning")
    context.log("")
    context.log("x" * 10_000)
    assert run.log_lines[:3] == [("warning", "one"), ("warning", "two"), ("info", "")]
    assert len(run.log_lines[3][1]) == LINE_LIMIT
    with pytest.raises(ValueError, match="level"):
        context.log("x", "loud")


@pytest.mark.parametrize(("done", "total"), [(-1, 2), (1, -2), (2**63, 1), (1, 2**63)])
def test_progress_that_cannot_be_stored_is_refused(done: int, total: int) -> None:
    with pytest.raises(ValueError, match="progress"):
        JobContext(None, 1, "a.test", InlineRun()).progress(done, total)  # type: ignore[arg-type]


def test_a_task_runs_inline_with_its_progress_and_its_result() -> None:
    run = run_inline(sample_tasks.add, namespace="a.test", a=2)
    assert run.result == {"sum": 3}
    assert run.marks == [(1, 3, "adding"), (2, 3, "adding"), (3, 3, "adding")]
    with pytest.raises(BadArguments):
        run_inline(sample_tasks.add, namespace="a.test", b=2)
    with pytest.raises(ValueError, match="JSON"):
        run_inline(sample_tasks.returns_nonsense, namespace="a.test")


def test_a_cancelled_task_stops_at_its_checkpoint_though_it_catches_exceptions(tmp_path: object) -> None:
    with pytest.raises(JobCancelled):
        run_inline(sample_tasks.hold, namespace="a.test", cancel_when=lambda run: bool(run.marks), folder=str(tmp_path))
    assert not issubclass(JobCancelled, Exception)
