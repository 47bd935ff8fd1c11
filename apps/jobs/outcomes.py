"""What an attempt came to, from what its task returned or raised."""

import traceback
from dataclasses import dataclass

from apps.jobs.context import JobCancelled, JobTimeout, clean
from apps.jobs.registry import Task, to_json
from msgweb.errors import MsgwebError

TRACEBACK_LIMIT = 20_000  # characters
RESULT_LIMIT = 16 * 1024 * 1024  # bytes of JSON


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt.

    Attributes:
        name: succeeded, failed or cancelled.
        result: JSON, when it succeeded.
        error: {"code", "message", "traceback", "exception"?}, when it failed.
        again: whether it makes sense to try a failed job again.
        pause: seconds until then; None: as usual.
    """

    name: str
    result: str | None = None
    error: dict[str, str] | None = None
    again: bool = True
    pause: float | None = None


_NOTHING = Outcome("succeeded", result="null")


def succeeded(value: object) -> Outcome:
    """The outcome of a task that returned; a value that cannot be kept is a failure."""
    if value is None:
        return _NOTHING
    try:
        result = to_json(value)
    except ValueError as error:
        told = {"code": "bad_result", "message": f"the task's result is no JSON: {error}", "traceback": ""}
        return Outcome("failed", error=told, again=False)
    if len(result) > RESULT_LIMIT // 4 and len(result.encode()) > RESULT_LIMIT:
        message = f"a result takes at most {RESULT_LIMIT} bytes of JSON"
        return Outcome("failed", error={"code": "result_too_large", "message": message, "traceback": ""}, again=False)
    return Outcome("succeeded", result=result)


def failed(task: "Task[..., object]", error: BaseException, failures: int) -> Outcome:
    """The outcome of a task that raised.

    Args:
        failures: how often the job failed before.
    """
    if isinstance(error, JobCancelled):
        return Outcome("cancelled")
    try:
        again, pause = task.options.decide(error, failures + 1)
    except Exception as second:  # noqa: BLE001  a back-off function of the task's own
        second.__context__ = error
        return Outcome("failed", error=describe(second), again=False)
    return Outcome("failed", error=describe(error), again=again, pause=pause)


def impossible(error: MsgwebError) -> Outcome:
    """The outcome where another version of the code made the job: no such task, or it takes other arguments."""
    return Outcome("failed", error=describe(error), again=False)


def describe(error: BaseException) -> dict[str, str]:
    """An exception as a job's error."""
    lines = "".join(traceback.format_exception(error))
    ours = isinstance(error, MsgwebError | JobTimeout)
    return {
        "code": error.code if isinstance(error, MsgwebError | JobTimeout) else "task_error",
        "message": clean(str(error) if ours else f"{type(error).__name__}: {error}", 2000),
        "traceback": clean(lines[-TRACEBACK_LIMIT:], TRACEBACK_LIMIT),
        "exception": f"{type(error).__module__}.{type(error).__qualname__}"[:300],
    }
