import importlib

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import autodiscover_modules


class JobsConfig(AppConfig):
    name = "apps.jobs"
    label = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Load every `tasks` module of the installed apps, and those of `MSGWEB_TASK_MODULES`."""
        from apps.jobs import checks, signals  # noqa: F401  registers, and connects its receivers

        autodiscover_modules("tasks")
        for module in getattr(settings, "MSGWEB_TASK_MODULES", []):
            importlib.import_module(module)
