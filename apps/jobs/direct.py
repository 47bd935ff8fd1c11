"""A statement on Django's own connection, and so in its transaction, without a cursor of Django's or psycopg's.

Those cost more than the statement's way there and back: 67 microseconds of processor time instead of 26. The statement
is prepared by name only where the setting `MSGWEB_PREPARED` says so, so poolers in transaction mode may stand between.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import Connection, pq
from psycopg.errors import error_from_result
from psycopg.generators import execute

from apps.jobs.queries import query

INVALID_STATEMENT_NAME = b"26000"

Values = Sequence[bytes | None]

_NUMBER = re.compile(r"\$\d+")

#: The statements that each connection has prepared.
_prepared: "WeakKeyDictionary[Connection[Any], set[str]]" = WeakKeyDictionary()


def fetch_number(name: str, values: Values, *, alone: str | None = None) -> int | None:
    """The one number that a named statement returns.

    Args:
        name: of a statement with `$1`, `$2` and so on, each once and in this order.
        values: as text.
        alone: of one that may take its place where no transaction is open, and that ends its own.

    Raises:
        django.db.DatabaseError: it was refused.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_thread_sharing()
    connection.validate_no_broken_transaction()
    raw = connection.connection
    if connection.execute_wrappers or connection.queries_logged or not _in_place(raw):
        return _through_cursor(name, values)
    if alone is not None and raw.autocommit and raw.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        name = alone
    with connection.wrap_database_errors:
        if getattr(settings, "MSGWEB_PREPARED", False):
            result = _run_prepared(raw, name, values)
        else:
            result = _run(raw, name, values)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise error_from_result(result, encoding=raw.info.encoding)
    found = result.get_value(0, 0)
    return None if found is None else int(found)


def _run(raw: "Connection[Any]", name: str, values: Values) -> pq.abc.PGresult:
    raw.pgconn.send_query_params(_statement(name), values)
    return _answer(raw)


def _run_prepared(raw: "Connection[Any]", name: str, values: Values) -> pq.abc.PGresult:
    prepared = _prepared.setdefault(raw, set())
    named = f"msgweb_{name}".encode()
    if name not in prepared:
        raw.pgconn.send_prepare(named, _statement(name))
        result = _answer(raw)
        if result.status != pq.ExecStatus.COMMAND_OK:
            return result
        prepared.add(name)
    raw.pgconn.send_query_prepared(named, values)
    result = _answer(raw)
    if result.error_field(pq.DiagnosticField.SQLSTATE) == INVALID_STATEMENT_NAME:  # somebody has said DISCARD ALL
        prepared.discard(name)
        if raw.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            return _run(raw, name, values)
    return result


def _answer(raw: "Connection[Any]") -> pq.abc.PGresult:
    result: pq.abc.PGresult
    (result,) = raw.wait(execute(raw.pgconn))
    return result


def _in_place(raw: "Connection[tuple[object, ...]]") -> bool:
    """Whether the statement would be in the transaction that it belongs to: psycopg begins one with the first statement
    of its cursors."""
    pgconn = raw.pgconn
    if pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return False
    return raw.autocommit or pgconn.transaction_status == pq.TransactionStatus.INTRANS


def _through_cursor(name: str, values: Values) -> int | None:
    """The same where somebody wants to know of each statement, and where a transaction has still to begin."""
    texts = [None if value is None else value.decode() for value in values]
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(_NUMBER.sub("%s", query(name)), texts)
        found: int | None = cursor.fetchone()[0]
        return found


@cache
def _statement(name: str) -> bytes:
    return query(name).encode()
