"""Wait until a job has ended, on LISTEN, with a look every few seconds behind it: a notification can be lost."""

import time
import uuid

import psycopg
from django.db import connection
from psycopg import sql

from apps.jobs.channels import EVENTS
from apps.jobs.errors import UnknownJob
from apps.jobs.models import Job
from msgweb.database import conninfo_of

POLL_SECONDS = 5.0


def wait_final(job_id: uuid.UUID, seconds: float) -> Job:
    """The job, as soon as it has ended, or as it is after so many seconds.

    Holds a connection of its own to the database while it waits.

    Raises:
        UnknownJob: there is none of that id.
    """
    job = _load(job_id)
    if job.is_final or seconds <= 0:
        return job
    deadline = time.monotonic() + seconds
    with psycopg.connect(conninfo_of(connection.settings_dict), autocommit=True) as listener:
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(EVENTS)))
        job = _load(job_id)  # what ended before LISTEN took effect
        while not job.is_final:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for notification in listener.notifies(timeout=min(left, POLL_SECONDS)):
                if str(job_id) in notification.payload.split():
                    break
            job = _load(job_id)
    return job


def _load(job_id: uuid.UUID) -> Job:
    job = Job.objects.filter(id=job_id).first()
    if job is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job
