"""The hot statements' plans, made at the worst moment: after a VACUUM that found the tables empty."""

import psycopg
import pytest

from apps.broker.postgres.pipeline import PLANNING
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
