"""A job that is asked for again under its id: an asker that lost its connection lost its reply queue too."""

import json
import uuid

import pytest
from django.db import connection, transaction

from apps.accounts.models import Namespace
from apps.broker.headers import decode_headers
from apps.jobs import submit
from apps.jobs.ending import finish, locked
from apps.jobs.models import Job

ARGUMENTS = {"brand": "ember", "name": "Ember Nord", "domain": "nord.example"}


def ask(job_id: uuid.UUID, reply_to: str, wants_progress: bool = False) -> Job:
    return submit.submit(
        "firebrand.development",
        "firebrand.clone_brand",
        ARGUMENTS,
        job_id=job_id,
        reply_to=reply_to,
        correlation_id=str(job_id),
        wants_progress=wants_progress,
    )


def received(queue: str) -> list[tuple[str, object]]:
    """The `job-event` and the body of each message that waits in a queue."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.headers, m.body FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
            " WHERE d.name = %s ORDER BY m.id",
            [queue],
        )
        rows = cursor.fetchall()
    return [(decode_headers(bytes(headers))["job-event"], json.loads(bytes(body))) for headers, body in rows]


@pytest.fixture
def namespace(db: None) -> None:
    Namespace.objects.get_or_create(name="firebrand.development")


def test_the_reply_goes_to_who_asked_last(namespace: None) -> None:
    job_id = uuid.uuid4()
    ask(job_id, "/queue/first")
    ask(job_id, "/queue/second")
    with transaction.atomic():
        finish(locked(job_id), "succeeded", result='{"rows": 7}')
    assert received("first") == []
    assert received("second") == [("result", {"rows": 7})]
    assert Job.objects.count() == 1


def test_a_job_that_has_ended_replies_at_once(namespace: None) -> None:
    job_id = uuid.uuid4()
    ask(job_id, "/queue/first")
    with transaction.atomic():
        finish(locked(job_id), "failed", error={"code": "no_such_brand", "message": "no such brand", "traceback": ""})
    ask(job_id, "/queue/second")
    assert received("second") == [("error", {"code": "no_such_brand", "message": "no such brand"})]


def test_who_asks_again_without_a_reply_to_takes_nobodys_reply_away(namespace: None) -> None:
    job_id = uuid.uuid4()
    ask(job_id, "/queue/first")
    ask(job_id, "")
    with transaction.atomic():
        finish(locked(job_id), "succeeded", result=None)
    assert received("first") == [("result", None)]
