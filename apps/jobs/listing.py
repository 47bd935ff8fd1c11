"""Which jobs a list shows, where the ORM's way would read too many."""

import uuid
from datetime import datetime

from django.db import connection

from apps.jobs.queries import query


def newest_of_namespace(namespace: str, last: tuple[datetime, uuid.UUID] | None, most: int) -> list[uuid.UUID]:
    """The newest jobs of a namespace, however many younger ones there are of others.

    Args:
        last: moment of creation and id of a job: only those that are older than that.
    """
    moment, job = last or (None, None)
    parameters = {"namespace": namespace, "moment": moment, "job": job, "most": most}
    with connection.cursor() as cursor:
        cursor.execute(query("newest_of_namespace"), parameters)
        return [row[0] for row in cursor.fetchall()]
