"""Most jobs are asked for by the statement for plain ones: in which transaction, and what it leaves to the other."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from apps.accounts.models import Namespace
from apps.broker import queue_settings
from apps.broker.errors import QueueFull
from apps.jobs import direct, events
from apps.jobs.asking import Ask
from apps.jobs.models import Job
from apps.jobs.submit import submit
from msgweb.errors import BadArguments, NotFound
from tests import sample_tasks
from tests.recording import messages

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True, params=[False, True], ids=["unnamed", "prepared"])
def _prepared(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.MSGWEB_PREPARED = request.param


@pytest.fixture
def namespace(transactional_db: None) -> str:
    """With a queue, as all but the first job find one."""
    name = Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name
    with connection.cursor() as cursor:
        cursor.execute("SELECT msgweb.destination_id(%s, 'queue', 'samples')", [name])
    return name


@pytest.fixture
def special(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that were not plain."""
    from apps.jobs import submit as module

    seen: list[str] = []
    ask = module._special_row

    def watched(request: Any) -> Any:
        seen.append(request["task"])
        return ask(request)

    monkeypatch.setattr(module, "_special_row", watched)
    return seen


@pytest.fixture
def manual() -> Iterator[None]:
    """Autocommit is off, as `ATOMIC_REQUESTS` and `set_autocommit` have it."""
    transaction.set_autocommit(False)
    yield
    transaction.rollback()
    transaction.set_autocommit(True)


def columns(job: Job) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if not name.startswith("_")}


def seen_by_others(conninfo: str) -> int:
    with psycopg.connect(conninfo) as other:
        row = other.execute("SELECT count(*) FROM jobs_job").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("name", ["add", "two_at_a_time", "paced", "expires"])
def test_a_plain_job_is_as_the_other_statement_makes_it(namespace: str, special: list[str], name: str) -> None:
    task = getattr(sample_tasks, name)
    arguments = {"add": {"a": 1}, "two_at_a_time": {"customer": 3}}.get(name, {})
    plain = task.enqueue(namespace=namespace, ask=Ask(priority=7, requested_by="the test"), **arguments)
    assert special == []
    other = task.enqueue(
        namespace=namespace, ask=Ask(priority=7, requested_by="the test", correlation_id="1"), **arguments
    )
    assert special == [task.name]
    stored = []
    for job in (plain, other):
        job = Job.objects.get(id=job.id)
        own = {"_state", "id", "created_at", "expires_at", "correlation_id", "born_ready"}
        row = {column: value for column, value in vars(job).items() if column not in own}
        expires = None if job.expires_at is None else job.expires_at - job.created_at
        states = [(event.kind, event.data, event.at == job.created_at) for event in events.after(job.id)]
        stored.append((row, expires, states))
    assert stored[0] == stored[1]
    (one, first, _), (two, second, _) = messages(namespace, "samples")
    assert {**one, "job-id": str(other.id), "reply-to": f"/job/{other.id}"} == two
    assert json.loads(first) == json.loads(second)
    assert columns(plain) == columns(Job.objects.get(id=plain.id))


def test_it_is_part_of_the_transaction_even_as_its_first_statement(namespace: str, conninfo: str) -> None:
    with transaction.atomic():
        sample_tasks.add.enqueue(namespace=namespace, a=1)
        sample_tasks.add.enqueue(namespace=namespace, a=2)
        assert Job.objects.count() == 2
        assert seen_by_others(conninfo) == 0
        transaction.set_rollback(True)
    assert seen_by_others(conninfo) == 0
    with transaction.atomic():
        sample_tasks.add.enqueue(namespace=namespace, a=3)
        with transaction.atomic():
            sample_tasks.add.enqueue(namespace=namespace, a=4)
            transaction.set_rollback(True)
    assert [job.arguments for job in Job.objects.all()] == [{"a": 3}]


@pytest.mark.usefixtures("manual")
def test_without_autocommit_it_waits_for_the_commit(namespace: str, conninfo: str) -> None:
    transaction.commit()
    for a in range(2):
        sample_tasks.add.enqueue(namespace=namespace, a=a)
    assert seen_by_others(conninfo) == 0
    transaction.commit()
    assert seen_by_others(conninfo) == 2


def test_who_counts_statements_sees_it(namespace: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert len(queries) == 1
    assert "enqueue_plain_job" in queries[0]["sql"]
    seen = []

    def wrapper(execute: Any, sql: str, *rest: Any) -> Any:
        seen.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(wrapper):
        sample_tasks.add.enqueue(namespace=namespace, a=2)
    assert len(seen) == 1


def test_a_broken_transaction_takes_none(namespace: str) -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            sample_tasks.add.enqueue(namespace=namespace, a=1)


def test_an_error_of_the_database_is_djangos(namespace: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER PROCEDURE msgweb.enqueue_plain_alone RENAME TO enqueue_plain_away")
    try:
        with pytest.raises(DatabaseError, match="does not exist"):
            sample_tasks.add.enqueue(namespace=namespace, a=1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER PROCEDURE msgweb.enqueue_plain_away RENAME TO enqueue_plain_alone")
    sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert Job.objects.count() == 1


def _named() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE name LIKE 'msgweb%%'", [])
        return [name for (name,) in cursor.fetchall()]


def test_it_is_prepared_once_and_again_after_what_was_prepared_is_discarded(namespace: str, settings: Any) -> None:
    expected = ["msgweb_enqueue_plain_alone"] if settings.MSGWEB_PREPARED else []
    for count in range(1, 3):
        sample_tasks.add.enqueue(namespace=namespace, a=count)
        assert _named() == expected
    for count in range(3, 5):
        with connection.cursor() as cursor:
            cursor.execute("DEALLOCATE ALL")
        sample_tasks.add.enqueue(namespace=namespace, a=count)
        assert Job.objects.count() == count
    sample_tasks.add.enqueue(namespace=namespace, a=5)
    assert _named() == expected


def test_discarded_within_a_transaction_it_is_an_error_and_then_prepared_again(namespace: str, settings: Any) -> None:
    settings.MSGWEB_PREPARED = True
    with transaction.atomic():
        assert not Job.objects.exists()  # the transaction has begun
        sample_tasks.add.enqueue(namespace=namespace, a=1)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DEALLOCATE ALL")
        with pytest.raises(DatabaseError, match="does not exist"):
            sample_tasks.add.enqueue(namespace=namespace, a=2)
        transaction.set_rollback(True)
    with transaction.atomic():
        sample_tasks.add.enqueue(namespace=namespace, a=3)
    assert Job.objects.count() == 2


def test_within_a_pipeline_of_psycopgs_it_goes_through_a_cursor(namespace: str) -> None:
    connection.ensure_connection()
    with connection.connection.pipeline():
        assert not direct._in_place(connection.connection)
        sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert Job.objects.count() == 1


def test_what_is_not_so_plain_is_left_to_the_other_statement(namespace: str, special: list[str]) -> None:
    with transaction.atomic():
        with pytest.raises(NotFound):
            sample_tasks.add.enqueue(namespace="no.where", a=1)
        with pytest.raises(BadArguments):
            submit("no\0where", "samples.add", {"a": 1})
        sample_tasks.add.enqueue(namespace=namespace, ask=Ask(queue="fresh"), a=1)
        job = sample_tasks.add.enqueue(namespace=namespace, a=1)
        again = sample_tasks.add.enqueue(namespace=namespace, ask=Ask(job_id=job.id), a=1)
        assert again.id == job.id
    assert len(special) == 4
    queue_settings.change(namespace, "samples", {"max_length": 1})
    with pytest.raises(QueueFull), transaction.atomic():
        sample_tasks.add.enqueue(namespace=namespace, a=1)
    assert Job.objects.count() == 2
    assert len(special) == 5


def on_disk(conninfo: str) -> bool:
    """Whether all that was written to the write-ahead log is. Others may write meanwhile."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        row = other.execute("SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()").fetchone()
    assert row is not None
    return bool(row[0])


def test_alone_it_is_on_disk_once_it_was_asked_for(namespace: str, conninfo: str) -> None:
    found = []
    for count in range(20):
        sample_tasks.add.enqueue(namespace=namespace, a=count)
        found.append(on_disk(conninfo))
    assert sum(found) > 10  # none, if nothing waited for it


def test_alone_others_see_it_before_it_is_on_disk(namespace: str, conninfo: str) -> None:
    with connection.cursor() as cursor:  # what waits for the disk does not begin
        cursor.execute("SELECT pg_get_functiondef('msgweb.enqueue_plain_alone'::regproc)")
        (source,) = cursor.fetchone()
        cursor.execute(source.replace("PERFORM pg_logical_emit_message(true, 'msgweb', '')", "PERFORM 1 / 0"))
    try:
        with pytest.raises(DatabaseError, match="division by zero"):
            sample_tasks.add.enqueue(namespace=namespace, a=1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(source)
    assert seen_by_others(conninfo) == 1


def test_in_a_transaction_its_commit_waits_for_the_disk(namespace: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    try:
        with transaction.atomic():
            sample_tasks.add.enqueue(namespace=namespace, a=1)
            assert setting("synchronous_commit") == "on"
        sample_tasks.add.enqueue(namespace=namespace, a=2)
        assert setting("synchronous_commit") == "on"
    finally:
        connection.close()


def setting(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return str(cursor.fetchone()[0])


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_told_to_stop_it_is_there_or_an_error(namespace: str, late: bool) -> None:
    """Whatever the moment: an error means that there is no job."""
    waits = "PERFORM pg_sleep(60); PERFORM pg_logical_emit_message" if late else "PERFORM pg_logical_emit_message"
    begins = "BEGIN" if late else "BEGIN PERFORM pg_sleep(60);"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_functiondef('msgweb.enqueue_plain_alone'::regproc)")
        (source,) = cursor.fetchone()
        changed = source.replace("PERFORM pg_logical_emit_message", waits).replace("BEGIN", begins, 1)
        cursor.execute(changed)
        cursor.execute("SET statement_timeout = 300")
    try:
        if late:
            job = sample_tasks.add.enqueue(namespace=namespace, a=1)
            assert job.created_at == Job.objects.get(id=job.id).created_at
        else:
            with pytest.raises(OperationalError, match="statement timeout"):
                sample_tasks.add.enqueue(namespace=namespace, a=1)
            assert not Job.objects.exists()
        with pytest.raises(OperationalError, match="statement timeout"):  # whose id is known asks again
            sample_tasks.add.enqueue(namespace=namespace, ask=Ask(job_id=uuid.uuid4()), a=2)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(source)


def test_both_transactions_write_the_same(transactional_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT substring(prosrc FROM 'WITH target.*told;') FROM pg_proc"
            " WHERE proname IN ('enqueue_plain_job', 'enqueue_plain_alone')"
        )
        (one,), (two,) = cursor.fetchall()
    assert one is not None
    assert one == two
