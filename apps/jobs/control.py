"""What may be done with a job from outside."""

import uuid

from django.db import transaction
from django.utils import timezone

from apps.jobs.channels import CONTROL
from apps.jobs.ending import finish, locked, note, notify
from apps.jobs.errors import JobIsFinal
from apps.jobs.models import Event, Job


def cancel(job_id: uuid.UUID, by: str) -> Job:
    """Cancel a job: at once while it waits; a running one is asked to stop, and ended after a grace.

    To cancel a job that is cancelled, or being cancelled, changes nothing.

    Args:
        by: who wants it, for people.

    Raises:
        UnknownJob: there is none of that id.
        JobIsFinal: it has ended otherwise.
    """
    with transaction.atomic():
        job = locked(job_id)
        if job.state == Job.State.CANCELLED:
            return job
        if job.is_final:
            raise JobIsFinal(f"job {job_id} has {job.state}: it cannot be cancelled any more")
        text = f"cancelled by {by}" if by else ""
        # A job that a consumer outside works on is ended here: nobody there can be asked to stop.
        if job.state != Job.State.RUNNING or job.worker is None:
            finish(job, "cancelled", text=text)
        elif job.cancel_requested_at is None:
            job.cancel_requested_at = timezone.now()
            job.save(update_fields=["cancel_requested_at"])
            note(job, Event.Kind.LOG, {"level": "warning", "text": f"asked to cancel{f' by {by}' if by else ''}"})
            notify(CONTROL, job.id)
    return job
