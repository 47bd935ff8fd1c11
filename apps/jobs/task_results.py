"""A job as Django's Tasks API shows it."""

import json
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from apps.jobs import django_tasks, tasks_api
from apps.jobs.errors import UnknownTask

STATUSES = {
    "scheduled": tasks_api.TaskResultStatus.READY,
    "ready": tasks_api.TaskResultStatus.READY,
    "waiting": tasks_api.TaskResultStatus.READY,
    "running": tasks_api.TaskResultStatus.RUNNING,
    "succeeded": tasks_api.TaskResultStatus.SUCCESSFUL,
    "failed": tasks_api.TaskResultStatus.FAILED,
    "cancelled": tasks_api.TaskResultStatus.FAILED,
    "expired": tasks_api.TaskResultStatus.FAILED,
}
#: The exceptions that stand for ends without one.
EXCEPTIONS = {
    "cancelled": "apps.jobs.context.JobCancelled",
    "timeout": "apps.jobs.context.JobTimeout",
    "expired": "apps.jobs.errors.JobExpired",
    "slot_died": "apps.jobs.errors.WorkerDied",
    "worker_died": "apps.jobs.errors.WorkerDied",
    "too_many_deaths": "apps.jobs.errors.TooManyDeaths",
}


def result_of(row: tuple[Any, ...] | None, result_id: str) -> Any:
    """The result of a job, from the statement `task_result`.

    Raises:
        TaskResultDoesNotExist: there is no such job, or it is none of a Django Task.
    """
    if row is None:
        raise tasks_api.TaskResultDoesNotExist(result_id)
    job_id, path, arguments_text, state, created, started, finished, result_text, error_text, attempts_text = row
    arguments = json.loads(arguments_text)
    if not isinstance(arguments.get("task"), dict) or "args" not in arguments:
        raise tasks_api.TaskResultDoesNotExist(result_id)
    try:
        task = django_tasks.restored(django_tasks.load(path).task, arguments["task"])
    except UnknownTask as error:
        raise tasks_api.TaskResultDoesNotExist(result_id) from error
    attempts = json.loads(attempts_text or "[]")
    result: Any = tasks_api.TaskResult(
        task=task,
        id=str(job_id),
        status=STATUSES[state],
        enqueued_at=_local(created),
        started_at=_local(started),
        last_attempted_at=_local(datetime.fromisoformat(attempts[-1]["started_at"])) if attempts else None,
        finished_at=_local(finished),
        args=arguments["args"],
        kwargs=arguments["kwargs"],
        backend=task.backend,
        errors=[_error(one["error"]) for one in attempts if one["error"]],
        worker_ids=[django_tasks.worker_id(one["worker"], one["host"]) for one in attempts],
    )
    if STATUSES[state] == tasks_api.TaskResultStatus.FAILED and error_text and not (attempts and attempts[-1]["error"]):
        result.errors.append(_error(json.loads(error_text)))
    object.__setattr__(result, "_return_value", None if result_text is None else json.loads(result_text))
    return result


def _error(told: dict[str, str]) -> Any:
    path = told.get("exception") or EXCEPTIONS.get(told.get("code", ""), "apps.jobs.errors.WorkFailed")
    return tasks_api.TaskError(
        exception_class_path=path, traceback=told.get("traceback") or told.get("message", "") or path
    )


def _local(moment: datetime | None) -> datetime | None:
    if moment is None or settings.USE_TZ or moment.tzinfo is None:
        return moment
    return timezone.make_naive(moment)
