"""What happened to a job, in order; a reader resumes after the last event that it saw."""

import uuid

from apps.jobs.models import Event


def after(job_id: uuid.UUID, event_id: int = 0, limit: int = 500) -> list[Event]:
    """The next events of a job after the one with that id (0: from the beginning), at most `limit`."""
    return list(Event.objects.filter(job_id=job_id, id__gt=event_id).order_by("id")[:limit])


def latest(job_id: uuid.UUID, limit: int = 500) -> list[Event]:
    """The last events of a job, oldest first, at most `limit`."""
    return list(Event.objects.filter(job_id=job_id).order_by("-id")[:limit])[::-1]
