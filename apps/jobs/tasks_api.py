"""Django's Tasks API, imported in one place: Django's own from 6.0 on, the `django-tasks` package before.

From 6.0 on the package's classes must not be used: its signals would not reach the receivers of Django's.
"""

from typing import TYPE_CHECKING
from weakref import ReferenceType

import django
from django.dispatch import Signal

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import signals, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import (
        Task,
        TaskContext,
        TaskError,
        TaskResult,
        TaskResultStatus,
    )
    from django.tasks.exceptions import (
        InvalidTaskBackend,
        TaskResultDoesNotExist,
    )
    from django.utils.json import normalize_json

    PACKAGE = "django.tasks"
else:
    from django_tasks import signals, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.utils import normalize_json

    PACKAGE = "django_tasks"


def only_logs(signal: Signal) -> bool:
    """Whether nobody hears a signal but the API's own receiver, which logs it: then `send` never blocks, where `asend`
    would call it in a thread, since it is no coroutine."""
    heard = [entry[1] for entry in signal.receivers]
    functions = [one() if isinstance(one, ReferenceType) else one for one in heard]
    return all(getattr(function, "__module__", "") == signals.__name__ for function in functions)


__all__ = [
    "PACKAGE",
    "BaseTaskBackend",
    "InvalidTaskBackend",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultStatus",
    "normalize_json",
    "only_logs",
    "signals",
    "task_backends",
]
