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

from asgiref.sync import sync_to_async
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
        except Exception as error:
            raise UnknownTask(f"there is no task {path!r}: {type(error).__name__}: {error}") from error
        if not isinstance(task, tasks_api.Task):
            raise UnknownTask(f"{path!r} is no task")
        _loaded[path] = adapt(task)
    return _loaded[path]


def adapt(task: Any) -> DjangoTask:
    """A Django Task as one of ours."""
    path = task.module_path

    def run(context: JobContext, *, args: list[Any], kwargs: dict[str, Any], task: dict[str, Any]) -> Any:
        return perform(context, path, args, kwargs, task)

    async def arun(context: JobContext, *, args: list[Any], kwargs: dict[str, Any], task: dict[str, Any]) -> Any:
        return await aperform(context, path, args, kwargs, task)

    function: Callable[..., Any] = arun if inspect.iscoroutinefunction(task.func) else run
    adapted = DjangoTask(
        path, task.queue_name, _options.get(path, Options()), PARAMETERS, registry.place_of(task.func), function
    )
    object.__setattr__(adapted, "task", task)
    return adapted


def perform(context: JobContext, path: str, args: list[Any], kwargs: dict[str, Any], kept: dict[str, Any]) -> Any:
    """Run a Django Task as the API has it: with its signals, sent by its backend, and its context."""
    run = _Run(context, path, args, kwargs, kept, _workers(context))
    tasks_api.signals.task_started.send(run.sender, task_result=run.result)
    try:
        value = tasks_api.normalize_json(run.task.call(*run.context, *args, **kwargs))
    except BaseException as error:
        if run.failed_for_good(error):
            tasks_api.signals.task_finished.send(run.sender, task_result=run.result)
        raise
    run.succeeded(value)
    tasks_api.signals.task_finished.send(run.sender, task_result=run.result)
    return value


async def aperform(
    context: JobContext, path: str, args: list[Any], kwargs: dict[str, Any], kept: dict[str, Any]
) -> Any:
    """The same, of a task that is a coroutine function."""
    workers = _workers(context) if context.attempt == 1 else await sync_to_async(_workers)(context)
    run = _Run(context, path, args, kwargs, kept, workers)
    await tasks_api.signals.task_started.asend(run.sender, task_result=run.result)
    try:
        value = tasks_api.normalize_json(await run.task.acall(*run.context, *args, **kwargs))
    except BaseException as error:
        if run.failed_for_good(error):
            await tasks_api.signals.task_finished.asend(run.sender, task_result=run.result)
        raise
    run.succeeded(value)
    await tasks_api.signals.task_finished.asend(run.sender, task_result=run.result)
    return value


class _Run:
    """An attempt at a Django Task, and its result as signals and the task's context show it."""

    def __init__(
        self,
        context: JobContext,
        path: str,
        args: list[Any],
        kwargs: dict[str, Any],
        kept: dict[str, Any],
        workers: list[str],
    ) -> None:
        ours = load(path)
        self._options = ours.options
        self._failures = context.failures + 1
        self.task = restored(ours.task, kept)
        self.sender = type(self.task.get_backend())
        now = timezone.now()
        self.result: Any = tasks_api.TaskResult(
            task=self.task,
            id=str(context.job_id),
            status=tasks_api.TaskResultStatus.RUNNING,
            enqueued_at=_moment(kept.get("enqueued_at")),
            started_at=now,
            last_attempted_at=now,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.task.backend,
            errors=[],
            worker_ids=workers,
        )
        self.context: tuple[Any, ...] = ()
        if self.task.takes_context:
            self.context = (tasks_api.TaskContext(task_result=self.result),)

    def failed_for_good(self, error: BaseException) -> bool:
        """Note a failure. Whether there is no further attempt."""
        if self._failures < self._options.max_attempts and self._options.decide(error, self._failures).again:
            return False
        self._finish(tasks_api.TaskResultStatus.FAILED)
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        told = "".join(traceback.format_exception(error))
        self.result.errors.append(tasks_api.TaskError(exception_class_path=path, traceback=told))
        return True

    def succeeded(self, value: Any) -> None:
        """Note the end."""
        object.__setattr__(self.result, "_return_value", value)
        self._finish(tasks_api.TaskResultStatus.SUCCESSFUL)

    def _finish(self, status: Any) -> None:
        object.__setattr__(self.result, "finished_at", timezone.now())
        object.__setattr__(self.result, "status", status)


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


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
