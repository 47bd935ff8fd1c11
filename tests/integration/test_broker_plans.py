"""The hot statements' plans, made at the worst moments.

After a VACUUM that found the tables empty, and after an ANALYZE that found all messages in one queue.
"""

import psycopg
import pytest

from apps.broker.postgres.pipeline import PLANNING
from apps.broker.postgres.sessions import _READY
from apps.broker.postgres.sql import QUERIES

HOT = ["claim", "ack_persistent", "ack_transient", "release", "close_reply_queue"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", HOT)
def test_a_plan_made_on_empty_tables_reads_messages_by_an_index_condition_only(conninfo, name):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE msgweb.message_persistent, msgweb.message_transient")
        connection.execute(PLANNING)
        if connection.info.server_version >= 160000:
            rows = connection.execute(f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {QUERIES[name]}").fetchall()
        else:
            pytest.skip("EXPLAIN (GENERIC_PLAN) came with PostgreSQL 16")
    lines = [row[0].strip() for row in rows]
    scans = [place for place, line in enumerate(lines) if "Scan" in line and " on message_" in line]
    assert scans, lines
    for place in scans:
        assert "Index" in lines[place], lines
        assert lines[place + 1].startswith("Index Cond:"), lines


#: What asks for ready messages in their order, as it is prepared.
IN_ORDER = {
    "claim": QUERIES["claim"],
    "browse": QUERIES["browse"],
    "ready": _READY.replace("%s", "$1", 1).replace("%s", "$2", 1).replace("%s", "$3", 1),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", IN_ORDER)
def test_one_queues_backlog_is_not_walked_for_anothers_messages(conninfo, name):
    with psycopg.connect(conninfo) as connection:
        if connection.info.server_version < 160000:
            pytest.skip("EXPLAIN (GENERIC_PLAN) came with PostgreSQL 16")
        for persistent in (True, False):
            connection.execute(
                "INSERT INTO msgweb.message (destination, persistent, headers, body)"
                " SELECT 2147483647, %s, '', '' FROM generate_series(1, 20000)",
                [persistent],
            )
        connection.execute("ANALYZE msgweb.message_persistent, msgweb.message_transient")
        connection.execute(PLANNING)
        lines = [row[0].strip() for row in connection.execute(f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {IN_ORDER[name]}")]
        connection.rollback()
    conditions = [lines[place + 1] for place, line in enumerate(lines) if "_destination_priority_" in line]
    assert len(conditions) == 2, lines
    assert all(one.count(" AND ") == 2 and "> lane.floor" in one for one in conditions), lines
