"""What workers must hear of at once: a new namespace, whose queues they may serve."""

from typing import Any

from django.db import connections
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from apps.accounts.models import Namespace
from apps.jobs.channels import NAMESPACES


@receiver([post_save, post_delete], sender=Namespace, dispatch_uid="apps.jobs.namespaces")
def namespaces_changed(sender: type[Namespace], using: str = "default", **_: Any) -> None:
    """Tell the workers, at COMMIT, to look at the list of namespaces again."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [NAMESPACES])
