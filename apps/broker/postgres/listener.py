"""LISTEN, on a connection of its own: wake-ups, topic messages of other processes, sessions that come and go."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq

from apps.broker.engine import Message
from apps.broker.postgres import topics
from apps.broker.postgres.names import HIGHEST, Ready
from apps.broker.postgres.pipeline import connect, first_line, watchable
from msgweb.errors import Unavailable

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LAST = 0.05, 1.0


class Listener:
    """Hears what other processes say.

    Args:
        name: the connection's application_name.
        own: the session and the writer's backend, whose own notifications are passed over.
        ready: is told where something became ready; None means anywhere (after a reconnect).
        published: is told topic messages.
        sessions_changed: a process came or went; or `catalogue`: that changed; or `due`: a delayed message was sent.

    Attributes:
        deaf: the connection is lost; what others do is not known.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        own: Callable[[], tuple[int, int]],
        ready: Callable[[list[Ready] | None], None],
        published: Callable[[Message], None],
        sessions_changed: Callable[[str], None],
    ) -> None:
        self.deaf = True
        self._conninfo = conninfo
        self._name = name
        self._own = own
        self._ready = ready
        self._published = published
        self._sessions_changed = sessions_changed
        self._loop = asyncio.get_running_loop()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._fd = -1
        self._task: asyncio.Task[None] | None = None
        self._topics: asyncio.Queue[bytes | int | None] = asyncio.Queue()  # behind a large one; None: deaf
        self._fetching = 0  # of these, and the one that is being fetched

    async def start(self) -> None:
        """Listen.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            await self._connect()
        except psycopg.Error as error:
            raise Unavailable(f"the database cannot be used: {first_line(error)}") from error
        self._task = self._loop.create_task(self._work())

    async def close(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    def hear(self) -> None:
        """Take what has arrived. Also called before each batch: a claim that knew less than others had said by then
        could take a message before an earlier one."""
        if self.deaf or self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            while notification := pgconn.notifies():
                self._heard(notification)
        except psycopg.Error as error:
            logger.warning("cannot listen now: %s", first_line(error))
            self._grow_deaf()
            self._topics.put_nowait(None)

    async def _connect(self) -> None:
        connection = await connect(self._conninfo, self._name)
        try:
            for channel in ("msgweb_ready", "msgweb_topic", "msgweb_session"):
                await connection.execute(f"LISTEN {channel}")
        except BaseException:
            await connection.close()
            raise
        self._connection, self._fd = connection, watchable(connection.pgconn)
        self.deaf = False
        self._loop.add_reader(self._fd, self.hear)
        self._loop.call_soon(self.hear)  # what came with the answers

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if not self.deaf:
                self._grow_deaf()
            await connection.close()

    def _grow_deaf(self) -> None:
        self.deaf = True
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    async def _work(self) -> None:
        """Read what does not fit a notification, in order; connect again when the connection is lost."""
        while True:
            content = await self._topics.get()
            if content is None:
                await self._disconnect()
                await self._reconnect()
                continue
            try:
                await self._fan_out(content)
            except psycopg.Error as error:
                logger.warning("a large topic message could not be read: %s", first_line(error))
            finally:
                self._fetching -= 1

    async def _reconnect(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self._connect()
            except psycopg.Error:
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_LAST)
                continue
            self._ready(None)
            self._sessions_changed("")
            self._sessions_changed("catalogue")
            return

    def _heard(self, notification: pq.PGnotify) -> None:
        session, backend = self._own()
        if notification.be_pid == backend:
            return
        payload = notification.extra.decode()
        try:
            if notification.relname == b"msgweb_ready":
                self._ready([_parse_ready(one) for one in payload.split(",")])
            elif notification.relname == b"msgweb_topic":
                sender, content = topics.parse_payload(payload)
                if sender == session:
                    return
                if isinstance(content, int) or self._fetching:
                    self._fetching += 1
                    self._topics.put_nowait(content)
                else:
                    self._publish(content)
            else:
                self._sessions_changed(payload)
        except ValueError as error:
            logger.warning("a notification on %s makes no sense: %s", notification.relname.decode(), error)

    def _publish(self, packed: bytes) -> None:
        for message in topics.unpack(packed):
            self._published(message)

    async def _fan_out(self, content: bytes | int) -> None:
        if isinstance(content, int):
            async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                cursor = await connection.execute("SELECT payload FROM msgweb.topic_message WHERE id = %s", [content])
                row = await cursor.fetchone()
            if row is None:
                logger.warning("a large topic message was gone before it could be read")
                return
            content = bytes(row[0])
        self._publish(content)


def _parse_ready(text: str) -> Ready:
    """`<queue>`, or `<queue>:<place>`, `g` behind where there may be groups, and `p<priority>` at the end.

    Raises:
        ValueError: somebody else notified on our channel.
    """
    queue, _, rest = text.partition(":")
    place, _, priority = rest.partition("p")
    return Ready(int(queue), int(place.rstrip("g") or 0), place.endswith("g"), int(priority or HIGHEST))
