"""A change of access is heard by who is connected, from a real Postgres."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import psycopg
import pytest

from apps.accounts.permissions import Access
from apps.stomp.gateway.access_watch import AccessWatch
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import Unavailable
from tests.stomp_gateway import stomp_database

__all__ = ["stomp_database"]  # a fixture

SECONDS = 20.0  # a deadline for a loaded machine, not an expectation
NEVER = 3600.0

ADA = Principal("ada", "a.b")
BOB = Principal("bob", "a.b")
LESS = Principal("ada", "a.b", Access(frozenset({"a.b"}), ()))


class World:
    """An authenticator, and those who are connected."""

    def __init__(self) -> None:
        self.now: dict[Principal, Principal] = {ADA: ADA, BOB: BOB}
        self.forgotten = 0
        self.away = False
        self.looks = 0
        self.looked = asyncio.Event()
        self.heard: asyncio.Queue[Mapping[Principal, Principal | None]] = asyncio.Queue()

    async def authenticate(self, credentials: Credentials) -> Principal:
        raise NotImplementedError

    async def look_again(self, principals: Iterable[Principal]) -> dict[Principal, Principal]:
        self.looks += 1
        self.looked.set()
        if self.away:
            raise Unavailable("away")
        return {principal: self.now[principal] for principal in principals if principal in self.now}

    def forget(self) -> None:
        self.forgotten += 1

    def principals(self) -> set[Principal]:
        return {ADA, BOB}

    def access_changed(self, changed: Mapping[Principal, Principal | None]) -> None:
        self.heard.put_nowait(changed)

    async def next_look(self) -> None:
        """Wait for one more."""
        self.looked.clear()
        await asyncio.wait_for(self.looked.wait(), SECONDS)


def watched(conninfo: str, seconds: float, work: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        watch = AccessWatch(conninfo, world, world, seconds)
        watch.start()
        try:
            await world.next_look()  # the first, once it listens
            await work(world)
        finally:
            await watch.close()

    asyncio.run(run())


async def notify(conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("NOTIFY msgweb_access")


def test_a_notification_ends_the_memory_and_tells_only_what_has_changed(stomp_database: str) -> None:
    async def work(world: World) -> None:
        before = world.forgotten
        world.now = {ADA: LESS, BOB: BOB}
        await notify(stomp_database)
        assert await asyncio.wait_for(world.heard.get(), SECONDS) == {ADA: LESS}
        assert world.forgotten > before
        world.now = {ADA: ADA}
        await notify(stomp_database)
        assert await asyncio.wait_for(world.heard.get(), SECONDS) == {BOB: None}

    watched(stomp_database, NEVER, work)


def test_it_looks_by_itself_and_a_database_that_is_away_ends_nobodys_connection(stomp_database: str) -> None:
    async def work(world: World) -> None:
        world.away = True
        world.now = {}
        await world.next_look()
        await world.next_look()
        assert world.heard.empty()
        world.away = False
        assert await asyncio.wait_for(world.heard.get(), SECONDS) == {ADA: None, BOB: None}

    watched(stomp_database, 0.02, work)


def test_who_listens_comes_back_after_its_connection_is_killed_and_looks_then(stomp_database: str) -> None:
    async def work(world: World) -> None:
        world.now = {BOB: BOB}  # nobody says so
        async with await psycopg.AsyncConnection.connect(stomp_database, autocommit=True) as connection:
            killed = await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'msgweb gateway access' AND datname = current_database()"
            )
            assert killed.rowcount >= 1
        assert await asyncio.wait_for(world.heard.get(), SECONDS) == {ADA: None}
        world.now = {ADA: ADA}
        await notify(stomp_database)
        assert await asyncio.wait_for(world.heard.get(), SECONDS) == {BOB: None}

    watched(stomp_database, NEVER, work)


@pytest.mark.parametrize("conninfo", ["host=127.0.0.1 port=1 dbname=none connect_timeout=1"])
def test_a_database_that_is_away_at_the_start_is_waited_for(conninfo: str) -> None:
    async def work(world: World) -> None:
        await world.next_look()

    watched(conninfo, 0.02, work)
