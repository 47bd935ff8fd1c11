"""System checks of the settings of jobs: a wrong one is named before anything starts."""

from collections.abc import Sequence
from typing import Any

import django
from django.apps import apps
from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from apps.jobs import tasks_api
from apps.jobs.retention import BadRetention, parse
from apps.jobs.schedules import problem_of

CHECKED = "jobs"  # the tag of the check


@register(CHECKED)
def check_jobs(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """jobs.E010, E011; and on Django 5.2 the backends' own, which Django checks itself from 6.0 on."""
    found: list[CheckMessage] = []
    try:
        parse(getattr(settings, "MSGWEB_JOBS_KEEP", ""))
    except BadRetention as error:
        found.append(Error(f"MSGWEB_JOBS_KEEP: {error}", id="jobs.E010"))
    for name, definition in getattr(settings, "MSGWEB_SCHEDULES", {}).items():
        if problem := problem_of(name, definition):
            found.append(Error(f"MSGWEB_SCHEDULES: {problem}", id="jobs.E011"))
    if django.VERSION < (6, 0) and not apps.is_installed("django_tasks"):
        for backend in tasks_api.task_backends.all():
            found += backend.check()
    return found
