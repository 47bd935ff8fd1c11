"""A statement on Django's own connection, and so in its transaction, without a cursor of Django's or psycopg's.

Those cost more than the statement's way there and back: 67 microseconds of processor time instead of 26. The statement
is not prepared by name, so poolers in transaction mode may stand between.
"""

import re
from collections.abc import Sequence
from functools import cache

from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import Connection, pq
from psycopg.errors import error_from_result
from psycopg.generators import execute

from apps.jobs.queries import query

Values = Sequence[bytes | None]

_NUMBER = re.compile(r"\$\d+")


def fetch_number(name: str, values: Values) -> int | None:
    """The one number that a named statement returns.

    Args:
        name: of a statement with `$1`, `$2` and so on, each once and in this order.
        values: as text.

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
    with connection.wrap_database_errors:
        pgconn = raw.pgconn
        pgconn.send_query_params(_statement(name), values)
        (result,) = raw.wait(execute(pgconn))
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise error_from_result(result, encoding=raw.info.encoding)
    found = result.get_value(0, 0)
    return None if found is None else int(found)


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
