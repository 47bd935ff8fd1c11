"""Open connections hear of it when access changes: a key revoked or expired, a permission or a password changed."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import psycopg

from apps.stomp.gateway.ports import Authenticator, Principal
from msgweb.errors import Unavailable

logger = logging.getLogger(__name__)

CHANNEL = "msgweb_access"  # of the triggers in apps/accounts/migrations/sql/0003_audit.sql
LOOK_SECONDS = 5.0  # without a word: what expires says none, and a pooler may eat notifications
RETRY_FIRST, RETRY_LAST = 0.1, 5.0


class Connected(Protocol):
    """Those who are connected: the gateway."""

    def principals(self) -> set[Principal]:
        """Who they are."""

    def access_changed(self, changed: Mapping[Principal, Principal | None]) -> None:
        """What somebody may do is another thing now; None: the log-in is gone."""


class AccessWatch:
    """Looks again at who is connected, when Postgres notifies and every few seconds. Belongs to one event loop.

    Args:
        conninfo: of a database connection of its own, which listens.
        look_seconds: so often it looks, also without a word.
        looked: called after each look.
    """

    def __init__(
        self,
        conninfo: str,
        authenticator: Authenticator,
        connected: Connected,
        look_seconds: float = LOOK_SECONDS,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._conninfo = conninfo
        self._authenticator = authenticator
        self._connected = connected
        self._seconds = look_seconds
        self._looked = looked
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin. A database that is away is waited for."""
        self._tasks = [asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._look_always())]

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, application_name="msgweb gateway access"
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    pause = RETRY_FIRST
                    self._note_change()  # what was missed meanwhile
                    async for _ in connection.notifies():
                        self._note_change()
            except psycopg.Error as error:
                logger.warning("cannot listen for changes of access now: %s", str(error).strip().partition("\n")[0])
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_LAST)

    def _note_change(self) -> None:
        self._authenticator.forget()
        self._changed.set()

    async def _look_always(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass  # time to look, without a word
            self._changed.clear()
            try:
                await self._look()
            except Unavailable:
                continue  # who is connected stays so; the engine tells them what does not work
            except Exception:
                logger.exception("cannot look at who may do what; trying again")
            else:
                self._looked()

    async def _look(self) -> None:
        principals = self._connected.principals()
        if not principals:
            return
        now = await self._authenticator.look_again(principals)
        changed: dict[Principal, Principal | None] = {
            principal: now.get(principal) for principal in principals if now.get(principal) != principal
        }
        if changed:
            self._connected.access_changed(changed)
