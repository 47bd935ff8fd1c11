"""Which jobs a list shows: from two indexes, since a job that is ready has no entry in those of time and of states."""

import uuid
from datetime import datetime

from django.db import connection

from apps.jobs.models import Job
from apps.jobs.queries import query

#: The newest of several lists, in one statement: what changes its state meanwhile is in one of them.
_NEWEST = "SELECT id FROM ({}) AS found ORDER BY created_at DESC, id DESC LIMIT %(most)s"


def newest(
    most: int,
    *,
    state: str | None = None,
    but: str | None = None,
    namespace: str | None = None,
    task: str | None = None,
    last: tuple[datetime, uuid.UUID] | None = None,
) -> list[uuid.UUID]:
    """The newest jobs, the newest first, however many there are of others.

    Args:
        most: how many at most.
        state: in that state.
        but: in any state but that, which is not `ready`.
        namespace, task: of those.
        last: moment of creation and id of a job: only those that are older than that.
    """
    parts = []
    if state in (None, Job.State.READY):
        parts.append(_by_task("="))
    if state != Job.State.READY:
        of_tasks = state is None and but is None and (namespace is not None or task is not None)
        parts.append(_by_task("<>") if of_tasks else query("newest_of_state"))
    moment, job = last or (None, None)
    parameters = {"state": state, "but": but, "namespace": namespace, "task": task, "moment": moment, "job": job}
    with connection.cursor() as cursor:
        union = " UNION ALL ".join(f"({part})" for part in parts)
        cursor.execute(_NEWEST.format(union), {**parameters, "most": most})
        return [row[0] for row in cursor.fetchall()]


def _by_task(compared: str) -> str:
    """Of the jobs whose state compares with `ready` so."""
    return query("newest_by_task").format(compared=compared)
