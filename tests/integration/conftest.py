"""Fixtures for tests of what is recorded of jobs."""

import uuid
from collections.abc import Iterator

import pytest
from django.db import connection

from apps.accounts.models import Namespace
from tests.recording import Worker


@pytest.fixture
def namespace(transactional_db: None) -> str:
    """The name of a new one, in which what is asked for is committed."""
    return Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name


@pytest.fixture
def session(transactional_db: None) -> Iterator[int]:
    """One that lives."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO msgweb.session (kind, host, pid, process, expires_at)"
            " VALUES ('worker', 'h', 1, 'p', clock_timestamp() + interval '1 hour') RETURNING id"
        )
        (number,) = cursor.fetchone()
        yield number
        cursor.execute("DELETE FROM msgweb.session WHERE id = %s", [number])
        cursor.execute("DELETE FROM jobs_admission")


@pytest.fixture
def worker(conninfo: str) -> Worker:
    """One that writes as a session that lives elsewhere would."""
    return Worker(conninfo, 101)
