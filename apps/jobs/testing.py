"""Run a task here and now, without a worker, in tests.

run = run_inline(clone_brand, namespace="firebrand.development", brand=1, name="Copy")
assert run.result["products"] == 300
assert run.marks[-1] == (300, 300, "products")
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from apps.jobs.context import JobContext
from apps.jobs.registry import Task, to_json


@dataclass(slots=True)
class InlineRun:
    """What a task did and said (`apps.jobs.context.Transport`).

    Attributes:
        result: what it returned, as the job would keep it: by way of JSON.
        log_lines: (level, line), in order.
        marks: what `context.progress` was told: (done, total, text).
        cancel_when: see `run_inline`.
    """

    result: Any = None
    log_lines: list[tuple[str, str]] = field(default_factory=list)
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    cancel_when: Callable[["InlineRun"], bool] = lambda _run: False

    def progress(self, done: int, total: int, text: str) -> None:
        """Keep it."""
        self.marks.append((done, total, text))

    def log(self, level: str, text: str) -> None:
        """Keep it."""
        self.log_lines.append((level, text))

    @property
    def cancelled(self) -> bool:
        """Whether the test wants the task cancelled now."""
        return self.cancel_when(self)


def run_inline(
    task: Task[..., Any],
    *,
    namespace: str,
    job_id: uuid.UUID | None = None,
    attempt: int = 1,
    cancel_when: Callable[[InlineRun], bool] = lambda _run: False,
    **arguments: Any,
) -> InlineRun:
    """Run a task in this thread.

    Args:
        job_id, attempt: what the task shall believe, such as a second attempt of the same job.
        cancel_when: asked at each checkpoint whether somebody has cancelled.

    Raises:
        BadArguments: the arguments do not fit the task.
        JobCancelled: at a checkpoint, after a cancel.
        ValueError: the result is no JSON.
        Exception: whatever the task raises.
    """
    task.check(arguments)
    run = InlineRun(cancel_when=cancel_when)
    context = JobContext(job_id or uuid.uuid4(), attempt, namespace, run)
    run.result = json.loads(to_json(task(context, **json.loads(to_json(arguments)))))
    return run
