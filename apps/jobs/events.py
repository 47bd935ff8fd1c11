"""What happened to a job, in order; a reader resumes after the last event that it saw.

The first event of a plain job is no row: it is told from the job's own (`born_ready`), with an id that comes before all
others. Nor are the two of an attempt that was recorded once (`Attempt.told_from`). So read events here, or from the
view `msgweb.job_event`.
"""

import uuid
from collections.abc import Collection

from django.db import connection

from apps.jobs.models import Event

_ALL = "SELECT id, job_id, at, kind, data FROM msgweb.job_event WHERE job_id = %s "


def after(job_id: uuid.UUID, event_id: int = 0, limit: int = 500) -> list[Event]:
    """The next events of a job after the one with that id (0: from the beginning), at most `limit`."""
    return list(Event.objects.raw(_ALL + "AND id > %s ORDER BY id LIMIT %s", [job_id, event_id, limit]))


def latest(job_id: uuid.UUID, limit: int = 500) -> list[Event]:
    """The last events of a job, oldest first, at most `limit`."""
    return list(Event.objects.raw(_ALL + "ORDER BY id DESC LIMIT %s", [job_id, limit]))[::-1]


def states(job_id: uuid.UUID, limit: int = 500) -> list[Event]:
    """The changes of a job's state, from the first on, at most `limit`."""
    return list(Event.objects.raw(_ALL + "AND kind = 'state' ORDER BY id LIMIT %s", [job_id, limit]))


def newest(job_ids: Collection[uuid.UUID], event_id: int = 0) -> dict[uuid.UUID, int]:
    """The id of the last event of each of these jobs that has one after the one with that id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT job_id, max(id) FROM msgweb.job_event WHERE job_id = ANY (%s) AND id > %s GROUP BY job_id",
            [list(job_ids), event_id],
        )
        return dict(cursor.fetchall())
