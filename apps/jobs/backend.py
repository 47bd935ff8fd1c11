"""The backend for Django's Tasks: `TASKS = {"default": {"BACKEND": "apps.jobs.backend.MsgwebBackend"}}`.

A task that is enqueued is a job: in the caller's own transaction, by one statement. `aenqueue` speaks to Postgres
itself, without a thread, and so outside of any transaction of Django's.

OPTIONS:
    namespace   where its jobs are, default `django.tasks`; made when it is first needed
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import connection, transaction
from django.utils import timezone

from apps.accounts.models import NAMESPACE_PATTERN
from apps.broker.engine import parse_address
from apps.jobs import async_connection, django_tasks, tasks_api
from apps.jobs.asking import NEW, Ask, encoded, made, plain_values, request_of
from apps.jobs.ids import new_id
from apps.jobs.queries import query
from apps.jobs.task_results import result_of
from msgweb.errors import BadDestination, NotFound

NAMESPACE = "django.tasks"
OPTIONS = frozenset({"namespace"})


def broker_priority(priority: int) -> int:
    """Django's -100 to 100 (0 as usual) in the broker's 0 to 9 (4 as usual)."""
    return (priority + 100) * 10 // 201


class MsgwebBackend(tasks_api.BaseTaskBackend):
    """Tasks as jobs of Msgweb."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @property
    def namespace(self) -> str:
        """Where its jobs are."""
        return str(self.options.get("namespace", NAMESPACE))

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Ask for a job, in the caller's own transaction.

        Raises:
            InvalidTask: it cannot be done by this backend.
            LimitExceeded: the arguments take more than 1 MiB, or the queue is full.
        """
        self.validate_task(task)
        request = self._request(task, args, kwargs)
        row = self._ask(request)
        result = self._enqueued(task, request, row) or self.get_result(str(row[0]))
        tasks_api.signals.task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Ask for a job. It is durable when this returns, and part of no transaction of Django's.

        Raises:
            InvalidTask, LimitExceeded: as `enqueue`.
        """
        from apps.jobs import submit

        if submit.after_enqueue is not None:  # a test's: on the connection that it has, with its transaction
            return await sync_to_async(self.enqueue)(task, args, kwargs)
        self.validate_task(task)
        request = self._request(task, args, kwargs)
        row = await _plain_row(request) or await self._special_row(request)
        result = self._enqueued(task, request, row) or await self.aget_result(str(row[0]))
        enqueued = tasks_api.signals.task_enqueued
        if tasks_api.only_logs(enqueued):
            enqueued.send(type(self), task_result=result)
        else:
            await enqueued.asend(type(self), task_result=result)
        return result

    async def _special_row(self, request: Mapping[str, Any]) -> tuple[Any, ...]:
        parameters = {"request": encoded(request)}
        try:
            row = await async_connection.fetch_one("enqueue", parameters)
        except NotFound:
            await async_connection.fetch_one("make_namespace", {"name": self.namespace})
            row = await async_connection.fetch_one("enqueue", parameters)
        assert row is not None
        return row

    def get_result(self, result_id: str) -> Any:
        """The result of that id.

        Raises:
            TaskResultDoesNotExist: there is none.
        """
        with connection.cursor() as cursor:
            cursor.execute(query("task_result"), {"id": _uuid(result_id)})
            return result_of(cursor.fetchone(), result_id)

    async def aget_result(self, result_id: str) -> Any:
        """See `get_result`."""
        return result_of(await async_connection.fetch_one("task_result", {"id": _uuid(result_id)}), result_id)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """jobs.E001 to E005."""
        return [*super().check(**kwargs), *self._problems()]

    def _problems(self) -> Iterable[checks.CheckMessage]:
        where = f"TASKS[{self.alias!r}]"
        if not apps.is_installed("apps.jobs") or not apps.is_installed("apps.broker"):
            hint = "Add apps.accounts, apps.broker and apps.jobs to INSTALLED_APPS."
            yield checks.Error(f"{where} needs Msgweb's apps", hint=hint, id="jobs.E001")
        if settings.DATABASES.get("default", {}).get("ENGINE") != "django.db.backends.postgresql":
            yield checks.Error(f"{where} needs Postgres as the default database", id="jobs.E002")
        if unknown := sorted(set(self.options) - OPTIONS):
            hint = f"There are: {', '.join(sorted(OPTIONS))}."
            yield checks.Error(f"{where} has no option {', '.join(unknown)}", hint=hint, id="jobs.E003")
        if not NAMESPACE_PATTERN.match(self.namespace):
            hint = "A namespace is named project.environment, in lower case."
            yield checks.Error(f"{where}: {self.namespace!r} is no namespace", hint=hint, id="jobs.E004")
        for queue in sorted(map(str, self.queues)):
            try:
                sound = parse_address("", queue).name == queue
            except BadDestination:
                sound = False
            if not sound:
                yield checks.Error(f"{where}: {queue!r} is no name for a queue", id="jobs.E005")

    def _request(self, task: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        kept: dict[str, Any] = {"backend": self.alias, "priority": task.priority, "queue_name": task.queue_name}
        kept["enqueued_at"] = timezone.now().isoformat()
        run_after = task.run_after
        if run_after is not None:
            if timezone.is_naive(run_after):
                run_after = timezone.make_aware(run_after)
            kept["run_after"] = task.run_after.isoformat()
        ours = django_tasks.load(task.module_path)
        priority = broker_priority(task.priority) if task.priority else None
        arguments: Any = tasks_api.normalize_json({"args": list(args), "kwargs": dict(kwargs)})
        ask = Ask(job_id=new_id(), run_at=run_after, priority=priority, queue=task.queue_name)
        return request_of(ours, self.namespace, {**arguments, "task": kept}, ask)

    def _ask(self, request: Mapping[str, Any]) -> tuple[Any, ...]:
        from apps.jobs.submit import enqueue_row

        try:
            return enqueue_row(request)
        except NotFound:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(query("make_namespace"), {"name": self.namespace})
            return enqueue_row(request)

    def _enqueued(self, task: Any, request: Mapping[str, Any], row: tuple[Any, ...]) -> Any:
        """The result of a job that was just made, without asking for it; None if that is not known: it is an older one,
        or has run already (`apps.jobs.testing.inline`)."""
        from apps.jobs import submit

        job_id, outcome, created = row
        if outcome not in NEW or submit.after_enqueue is not None:
            return None
        if not settings.USE_TZ and created.tzinfo is not None:
            created = timezone.make_naive(created)
        arguments = request["arguments"]
        return tasks_api.TaskResult(
            task=task,
            id=str(job_id),
            status=tasks_api.TaskResultStatus.READY,
            enqueued_at=created,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=arguments["args"],
            kwargs=arguments["kwargs"],
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )


async def _plain_row(request: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """`submit.plain_row`, without a thread."""
    values = plain_values(request)
    if values is None:
        return None
    return made(values, await async_connection.fetch_number("enqueue_plain_alone", values))


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(str(text))
    except ValueError as error:
        raise tasks_api.TaskResultDoesNotExist(text) from error
