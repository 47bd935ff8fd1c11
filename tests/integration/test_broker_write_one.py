"""A batch that begins with one message: `msgweb.write_one` is the fence, the entry and the insert."""

import contextlib
import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message, MessageId, SessionId
from apps.broker.postgres.batch import Batch
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.pipeline import PLANNING, Step
from apps.broker.postgres.queues import Queue
from apps.broker.postgres.sql import QUERIES
from tests.lifepoints import FENCE

pytestmark = pytest.mark.django_db(transaction=True)
NAMESPACE = "write.one"
WAITS = "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted"


@pytest.fixture
def writer(conninfo: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(PLANNING)
        yield connection


@pytest.fixture
def session(writer: psycopg.Connection) -> int:
    row = writer.execute(
        "INSERT INTO msgweb.session (kind, host, pid, expires_at)"
        " VALUES ('gateway', 'here', 1, now() + interval '1 hour') RETURNING id"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def queue(writer: psycopg.Connection) -> Queue:
    Namespace.objects.get_or_create(name=NAMESPACE)
    queue = Queue(Address(NAMESPACE, "queue", f"q-{uuid.uuid4()}"))
    row = writer.execute("SELECT msgweb.destination_id(%s, 'queue', %s)", [NAMESPACE, queue.address.name]).fetchone()
    assert row is not None
    queue.id = row[0]
    return queue


def version(writer: psycopg.Connection) -> int:
    row = writer.execute("SELECT version FROM msgweb.catalogue").fetchone()
    assert row is not None
    return int(row[0])


def steps(queue: Queue, session: int, version: int, *operations: Operation) -> list[Step]:
    batch = Batch(
        1, session, version, list(operations), payloads=[], large_payloads=[], announce=False, draw=False, low=False
    )
    return batch.steps({queue.address: queue}, lambda: ([], [], []))


class Refused(Exception):
    """The database refused a statement; its words are the SQLSTATE."""


def run(writer: psycopg.Connection, made: list[Step]) -> None:
    """As the engine's pipeline does: binary parameters, one transaction.

    Raises:
        Refused: by the database, and nothing took effect.
    """
    with writer.transaction():
        for name, parameters in made:
            result = writer.pgconn.exec_params(QUERIES[name].encode(), parameters, param_formats=[1] * len(parameters))
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise Refused((result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode())


def send(queue: Queue, body: bytes = b"body", priority: int = 4, *, persistent: bool = True) -> Operation:
    return Operation((Message(queue.address, body, b"a:b\n", persistent, priority),), plain=True)


def rows(writer: psycopg.Connection, queue: Queue) -> list[tuple[object, ...]]:
    return writer.execute(
        "SELECT body, headers, priority, persistent, session, deliveries, position FROM msgweb.message"
        " WHERE destination = %s ORDER BY coalesce(position, id)",
        [queue.id],
    ).fetchall()


def test_a_batch_of_one_message_is_one_statement(writer, session, queue):
    made = steps(queue, session, version(writer), send(queue))
    assert [name for name, _ in made] == ["write_one"]
    run(writer, made)
    assert rows(writer, queue) == [(b"body", b"a:b\n", 4, True, None, 0, None)]
    assert writer.execute("SELECT number FROM msgweb.batch WHERE session = %s", [session]).fetchall() == [(1,)]


def test_a_transient_one_goes_where_those_are(writer, session, queue):
    run(writer, steps(queue, session, version(writer), send(queue, priority=9, persistent=False)))
    assert rows(writer, queue) == [(b"body", b"a:b\n", 9, False, None, 0, None)]


def test_what_was_handed_over_is_written_under_its_id_as_held_and_gets_a_place(writer, session, queue):
    operation = send(queue)
    operation.handed, operation.holder = MessageId(77), SessionId(session)
    run(writer, steps(queue, session, version(writer), operation))
    [(*told, place)] = rows(writer, queue)
    assert told == [b"body", b"a:b\n", 4, True, session, 1]
    assert isinstance(place, int)
    assert writer.execute("SELECT id FROM msgweb.message WHERE destination = %s", [queue.id]).fetchall() == [(77,)]


def test_what_comes_after_the_message_follows_in_the_same_batch(writer, session, queue):
    run(writer, steps(queue, session, version(writer), send(queue, b"first")))
    row = writer.execute(
        "UPDATE msgweb.message SET session = %s WHERE destination = %s RETURNING id", [session, queue.id]
    ).fetchone()
    assert row is not None
    made = steps(
        queue, session, version(writer), send(queue, b"second"), Operation(acks=((row[0], 1),), session=session)
    )
    assert [name for name, _ in made] == ["write_one", "ack_persistent"]
    writer.execute("DELETE FROM msgweb.batch")
    run(writer, made)
    assert [body for body, *_ in rows(writer, queue)] == [b"second"]


def test_a_message_behind_something_else_is_written_without_it(writer, session, queue):
    made = steps(queue, session, version(writer), Operation(leaves=(queue.id or 0,)), send(queue))
    assert [name for name, _ in made] == ["fence", "enter_batch", "leave_exclusive", "insert_messages"]
    run(writer, made)
    assert rows(writer, queue) == [(b"body", b"a:b\n", 4, True, None, 0, None)]


@pytest.mark.parametrize("count", [1, 2])
def test_an_unknown_session_an_old_catalogue_and_a_wrong_priority_are_refused(writer, session, queue, count):
    for code, made in {
        "MW001": steps(queue, session + 1, version(writer), *[send(queue)] * count),
        "MW002": steps(queue, session, version(writer) - 1, *[send(queue)] * count),
        "23514": steps(queue, session, version(writer), *[send(queue, priority=10)] * count),
    }.items():
        with pytest.raises(Refused, match=code):
            run(writer, made)
    assert rows(writer, queue) == []


def test_who_waited_for_the_fence_while_its_session_was_buried_writes_nothing(writer, session, queue, conninfo):
    made = steps(queue, session, version(writer), send(queue))
    outcome: list[str] = []

    def write() -> None:
        try:
            run(writer, made)
        except Refused as error:
            outcome.append(str(error))
        else:
            outcome.append("written")

    waiting = threading.Thread(target=write)
    with contextlib.closing(psycopg.connect(conninfo)) as burier, psycopg.connect(conninfo, autocommit=True) as looker:
        burier.execute("SELECT pg_advisory_xact_lock(%s, %s)", [FENCE, session])
        waiting.start()
        try:
            while not looker.execute(WAITS, [writer.info.backend_pid]).fetchone():
                assert waiting.is_alive()
            burier.execute("DELETE FROM msgweb.session WHERE id = %s", [session])
            burier.commit()
        finally:
            burier.rollback()
            waiting.join()
    assert outcome == ["MW001"]
    assert rows(writer, queue) == []
