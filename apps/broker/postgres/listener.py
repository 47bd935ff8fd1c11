"""LISTEN, on a connection of its own: wake-ups, topic messages of other processes, sessions that come and go."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psycopg

from apps.broker.engine import Message
from apps.broker.postgres import topics
from apps.broker.postgres.pipeline import connect, first_line
from msgweb.errors import Unavailable

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LAST = 0.05, 1.0


class Listener:
    """Hears what other processes say.

    Args:
        name: the connection's application_name.
        own: the session and the writer's backend, whose own notifications are passed over.
        ready: is told in which queues something became ready, from which id on (0: any), and whether it is of a group;
            None means anywhere (after a reconnect).
        published: is told topic messages.
        sessions_changed: a process came or went; or `catalogue`: that changed; or `due`: a delayed message was sent.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        own: Callable[[], tuple[int, int]],
        ready: Callable[[list[tuple[int, int, bool]] | None], None],
        published: Callable[[Message], None],
        sessions_changed: Callable[[str], None],
    ) -> None:
        self._conninfo = conninfo
        self._name = name
        self._own = own
        self._ready = ready
        self._published = published
        self._sessions_changed = sessions_changed
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            connection = await self._connect()
        except psycopg.Error as error:
            raise Unavailable(f"the database cannot be used: {first_line(error)}") from error
        self._task = asyncio.get_running_loop().create_task(self._listen(connection))

    async def close(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await connect(self._conninfo, self._name)
        try:
            for channel in ("msgweb_ready", "msgweb_topic", "msgweb_session"):
                await connection.execute(f"LISTEN {channel}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _listen(self, connection: psycopg.AsyncConnection[Any]) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                if connection.closed:
                    connection = await self._connect()
                    pause = RETRY_FIRST
                    self._ready(None)
                    self._sessions_changed("")
                    self._sessions_changed("catalogue")
                async for notification in connection.notifies():
                    await self._heard(connection, notification)
                raise psycopg.OperationalError("the connection ended")
            except psycopg.Error as error:
                if pause == RETRY_FIRST:  # once an outage
                    logger.warning("cannot listen now: %s", first_line(error))
                await connection.close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_LAST)
            finally:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    await connection.close()

    async def _heard(self, connection: psycopg.AsyncConnection[Any], notification: psycopg.Notify) -> None:
        session, backend = self._own()
        if notification.pid == backend:
            return
        try:
            if notification.channel == "msgweb_ready":
                self._ready([_parse_ready(one) for one in notification.payload.split(",")])
            elif notification.channel == "msgweb_topic":
                sender, content = topics.parse_payload(notification.payload)
                if sender != session:
                    await self._fan_out(content)
            else:
                self._sessions_changed(notification.payload)
        except ValueError as error:
            logger.warning("a notification on %s makes no sense: %s", notification.channel, error)
        except psycopg.Error as error:
            logger.warning("a large topic message could not be read: %s", first_line(error))

    async def _fan_out(self, content: bytes | int) -> None:
        if isinstance(content, int):
            async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                cursor = await connection.execute("SELECT payload FROM msgweb.topic_message WHERE id = %s", [content])
                row = await cursor.fetchone()
            if row is None:
                logger.warning("a large topic message was gone before it could be read")
                return
            content = bytes(row[0])
        for message in topics.unpack(content):
            self._published(message)


def _parse_ready(text: str) -> tuple[int, int, bool]:
    """`<queue>`, `<queue>:<first id>`, `<queue>:<first id>g`.

    Raises:
        ValueError: somebody else notified on our channel.
    """
    queue, _, first = text.partition(":")
    return int(queue), int(first.rstrip("g") or 0), first.endswith("g")
