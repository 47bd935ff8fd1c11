"""Channels of others that an engine hears of on its own listening connection."""

import asyncio

import psycopg
import pytest

from apps.broker.postgres import PostgresEngine

pytestmark = pytest.mark.django_db(transaction=True)

CHANNEL = 'test "channel"'


def test_what_is_notified_there_is_heard_and_a_lost_connection_is_told_of(conninfo: str) -> None:
    async def main() -> list[str | None]:
        engine = PostgresEngine(conninfo)
        heard: list[str | None] = []
        came = asyncio.Event()

        def hear(payload: str | None) -> None:
            heard.append(payload)
            came.set()
            if payload == "bad":
                raise RuntimeError("an error of who attends")

        async def notify(text: str) -> None:
            came.clear()
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute("SELECT pg_notify(%s, %s)", [CHANNEL, text])
            await came.wait()

        engine.attend(CHANNEL, hear)
        await engine.start()
        try:
            async with asyncio.timeout(30):
                await notify("one")
                await notify("bad")
                await notify("two")
                came.clear()
                with psycopg.connect(conninfo, autocommit=True) as other:
                    other.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND application_name LIKE 'msgweb gateway listener %'"
                    )
                await came.wait()
                await notify("three")
        finally:
            await engine.close()
        return heard

    assert asyncio.run(main()) == ["one", "bad", "two", None, "three"]
