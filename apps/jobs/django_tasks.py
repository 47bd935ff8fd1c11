"""Django's Tasks as jobs: `task_options` says how they are done, and a worker runs them through `load`.

    from django.tasks import task  # Django 5.2: from django_tasks import task
    from apps.jobs import Backoff
    from apps.jobs.django_tasks import task_options

    @task_options(max_attempts=5, backoff=Backoff(first=10), timeout=60)
    @task(queue_name="mails")
    def send_mail(to, subject): ...

Within the task, `apps.jobs.current_job()` tells progress and takes steps.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from django.utils import timezone
from django.utils.module_loading import import_string

from apps.jobs import registry, tasks_api
from apps.jobs.context import JobContext
from apps.jobs.errors import BadTask, UnknownTask
from apps.jobs.options import BadOption, Options
from apps.jobs.registry import Parameter

T = TypeVar("T")

PARAMETERS = tuple(Parameter(name, True) for name in ("args", "kwargs", "task"))
_options: dict[str, Options] = {}
_loaded: dict[str, "DjangoTask"] = {}


def task_options(**given: Any) -> Callable[[T], T]:
    """Say how the jobs of a Django Task are done: see `apps.jobs.options.Options`. Stands above Django's `@task`.

    Raises:
        BadTask: at import: what it stands above is no Task; or an option cannot be.
    """

    def declare(task: T) -> T:
        if not isinstance(task, tasks_api.Task):
            where = registry.place_of(task) if inspect.isfunction(task) else repr(task)
            raise BadTask(f"{where}: @task_options stands above @task, not below it or alone")
        where = registry.place_of(task.func)
        options = registry.make_options(where, task.module_path, given)
        signature = inspect.signature(task.func).parameters.values()
        names = {p.name for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        try:
            options.check_names(names)
        except BadOption as error:
            raise BadTask(f"{where}: an option of task {task.module_path!r} cannot be: {error}") from None
        _options[task.module_path] = options
        _loaded.pop(task.module_path, None)
        return task

    return declare


class DjangoTask(registry.Task[..., Any]):
    """A Django Task as the registry knows tasks."""

    __slots__ = ("task",)

    task: Any

    def completed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`args` and `kwargs`, or keyword arguments alone; with what the API wants to know of the task again."""
        if "task" in arguments:
            return dict(arguments)
        spread = bool(arguments) and set(arguments) <= {"args", "kwargs"}
        args, kwargs = (arguments.get("args", []), arguments.get("kwargs", {})) if spread else ([], dict(arguments))
        return {"args": args, "kwargs": kwargs, "task": {"backend": self.task.backend}}

    def named(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by the names of the function's parameters, as far as they can be told."""
        context = (None,) if self.task.takes_context else ()
        try:
            bound = inspect.signature(self.task.func).bind(*context, *arguments["args"], **arguments["kwargs"])
        except TypeError:
            return dict(arguments["kwargs"])
        bound.apply_defaults()
        return {name: value for name, value in bound.arguments.items() if not (context and name == "context")}


def load(path: str) -> DjangoTask:
    """The Django Task of that path, such as `shop.tasks.send_mail`.

    Raises:
        UnknownTask: there is none.
    """
    if path not in _loaded:
        try:
            task = import_string(path)
        except ImportError as error:
            raise UnknownTask(f"there is no task {path!r}: {error}") from error
        if not isinstance(task, tasks_api.Task):
            raise UnknownTask(f"{path!r} is no task")
        _loaded[path] = adapt(task)
    return _loaded[path]


def adapt(task: Any) -> DjangoTask:
    """A Django Task as one of ours."""
    path = task.module_path

    def run(context: JobContext, *, args: list[Any], kwargs: dict[str, Any], task: dict[str, Any]) -> Any:
        return perform(context, path, args, kwargs, task)

    adapted = DjangoTask(
        path, task.queue_name, _options.get(path, Options()), PARAMETERS, registry.place_of(task.func), run
    )
    object.__setattr__(adapted, "task", task)
    return adapted


def perform(context: JobContext, path: str, args: list[Any], kwargs: dict[str, Any], kept: dict[str, Any]) -> Any:
    """Run a Django Task as the API has it: with its signals, sent by its backend, and its context."""
    ours = load(path)
    task = restored(ours.task, kept)
    sender = type(task.get_backend())
    now = timezone.now()
    result: Any = tasks_api.TaskResult(
        task=task,
        id=str(context.job_id),
        status=tasks_api.TaskResultStatus.RUNNING,
        enqueued_at=_moment(kept.get("enqueued_at")),
        started_at=now,
        last_attempted_at=now,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=[],
        worker_ids=_workers(context),
    )
    tasks_api.signals.task_started.send(sender, task_result=result)
    given: tuple[Any, ...] = (tasks_api.TaskContext(task_result=result),) if task.takes_context else ()
    try:
        value = tasks_api.normalize_json(task.call(*given, *args, **kwargs))
    except BaseException as error:
        options = ours.options
        if context.failures + 1 >= options.max_attempts or not options.decide(error, context.failures + 1).again:
            _finish(result, tasks_api.TaskResultStatus.FAILED)
            path_of_error = f"{type(error).__module__}.{type(error).__qualname__}"
            result.errors.append(tasks_api.TaskError(exception_class_path=path_of_error, traceback=_traceback(error)))
            tasks_api.signals.task_finished.send(sender, task_result=result)
        raise
    object.__setattr__(result, "_return_value", value)
    _finish(result, tasks_api.TaskResultStatus.SUCCESSFUL)
    tasks_api.signals.task_finished.send(sender, task_result=result)
    return value


def restored(task: Any, kept: Mapping[str, Any]) -> Any:
    """The Task as it was when it was enqueued."""
    return task.using(
        priority=kept.get("priority"),
        queue_name=kept.get("queue_name"),
        run_after=_moment(kept.get("run_after")),
        backend=kept.get("backend"),
    )


def queues() -> set[str]:
    """The queues of the backends of ours that the settings name."""
    from apps.jobs.backend import MsgwebBackend

    found: set[str] = set()
    for alias in tasks_api.task_backends:
        backend = tasks_api.task_backends[alias]
        if isinstance(backend, MsgwebBackend):
            found |= backend.queues or {"default"}
    return found


def worker_id(session: object, host: str) -> str:
    """What the API calls a worker: a new one each time that a worker starts; at most 64 characters."""
    return f"{session}@{host}"[:64]


def _workers(context: JobContext) -> list[str]:
    if context.attempt == 1:
        return [context.worker]
    from apps.jobs.models import Attempt

    before = Attempt.objects.filter(job=context.job_id, number__lt=context.attempt).order_by("number")
    return [worker_id(one.worker, one.host) for one in before] + [context.worker]


def _finish(result: Any, status: Any) -> None:
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", status)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
