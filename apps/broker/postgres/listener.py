"""LISTEN, on a connection of its own: wake-ups, topic messages of other processes, sessions that come and go.

A connection can live while what is notified does not arrive: behind a pooler that lends sessions out, a proxy, a
firewall. So the process says something to itself now and then, by another connection; what is not heard within
`PATIENCE` means that it polls (`deaf`), until it is heard.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping

import psycopg
from psycopg import pq, sql

from apps.broker.engine import Message
from apps.broker.postgres import topics
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.names import HIGHEST, Ready
from apps.broker.postgres.pipeline import Connection, connect, first_line, watchable
from msgweb.errors import Unavailable

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LAST = 0.05, 1.0
PATIENCE = 2.0  # seconds within which a probe is heard
PROBE_SECONDS = 15.0  # between two probes; each is one notification that wakes nobody else
PROBE_AGAIN_SECONDS = 5.0  # while they are not heard


class Listener:
    """Hears what other processes say.

    Args:
        name: the connection's application_name.
        own: the session and the writer's backend, whose own notifications are passed over.
        ready: is told where something became ready; None means anywhere (after a reconnect).
        published: is told topic messages.
        sessions_changed: a process came or went; or `catalogue`: that changed; or `due`: a delayed message was sent.
        hearing_changed: notifications arrive no longer, or again; not called where the connection is lost.
        attended: further channels, and who is told what comes there; None: what has come meanwhile is not known.

    Attributes:
        deaf: the connection is lost, or notifications do not arrive; what others do is not known.
        connection: None while there is none.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        own: Callable[[], tuple[int, int]],
        ready: Callable[[list[Ready] | None], None],
        published: Callable[[Message], None],
        sessions_changed: Callable[[str], None],
        hearing_changed: Callable[[], None],
        attended: Mapping[str, Callable[[str | None], None]],
    ) -> None:
        self.deaf = self._lost = True
        self.connection: Connection | None = None
        self._conninfo = conninfo
        self._name = name
        self._own = own
        self._ready = ready
        self._published = published
        self._sessions_changed = sessions_changed
        self._hearing_changed = hearing_changed
        self._attended = {name.encode(): heard for name, heard in attended.items()}
        self._probing = f"msgweb_probe_{uuid.uuid4().hex[:16]}"  # the channel: only this process listens to it
        self._probed_at = float("-inf")
        self._open = False  # a probe was sent and has not been heard
        self._silent = False  # and was not in time
        self._loop = asyncio.get_running_loop()
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
        if self._lost or self.connection is None:
            return
        pgconn = self.connection.pgconn
        try:
            pgconn.consume_input()
            while notification := pgconn.notifies():
                self._heard(notification)
        except psycopg.Error as error:
            logger.warning("cannot listen now: %s", first_line(error))
            self._lose()
            self._topics.put_nowait(None)

    def probe(self, now: float) -> str | None:
        """The channel to notify on now, by another connection of this process; None: it is not time. Called every
        second or so.

        Args:
            now: by the event loop's clock.
        """
        self.hear()  # after a pause of this process it may have come in time and not been read
        if self._lost:
            return None
        wait = PROBE_SECONDS if not self._open else PROBE_AGAIN_SECONDS if self._silent else PATIENCE
        if now - self._probed_at < wait:
            return None
        if self._open and not self._silent:
            self._silent = self.deaf = True
            logger.warning(
                "notifications of Postgres do not arrive, so this process polls, which takes up to some seconds, and"
                " misses the topic messages of other processes; connect it to Postgres itself, or through a pooler in"
                " session mode"
            )
            self._hearing_changed()
        self._probed_at = now
        self._open = True
        return self._probing

    def withdraw_probe(self) -> None:
        """The notification that `probe` asked for could not be sent."""
        self._open = False
        self._probed_at = float("-inf")

    def _heard_probe(self) -> None:
        self._open = False
        if self._silent:
            self._silent = False
            self.deaf = self._lost
            logger.warning("notifications of Postgres arrive again; this process listens")
            self._look_around()
            self._hearing_changed()

    async def _connect(self) -> None:
        connection = await connect(self._conninfo, self._name)
        try:
            further = [name.decode() for name in self._attended]
            for channel in ("msgweb_ready", "msgweb_topic", "msgweb_session", self._probing, *further):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except BaseException:
            await connection.close()
            raise
        self.connection, self._fd = connection, watchable(connection.pgconn)
        self._lost = False
        self.deaf = self._silent
        self._open = False
        self._probed_at = float("-inf")  # what lies between may be another thing now
        self._loop.add_reader(self._fd, self.hear)
        self._loop.call_soon(self.hear)  # what came with the answers

    async def _disconnect(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            if not self._lost:
                self._lose()
            await connection.close()

    def _lose(self) -> None:
        self.deaf = self._lost = True
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
            self._look_around()
            return

    def _look_around(self) -> None:
        """What was said meanwhile is not known."""
        self._ready(None)
        self._sessions_changed("")
        self._sessions_changed("catalogue")
        for heard in self._attended.values():
            guarded(heard, None)

    def _heard(self, notification: pq.PGnotify) -> None:
        session, backend = self._own()
        if notification.be_pid == backend:
            return
        payload = notification.extra.decode()
        try:
            if notification.relname == self._probing.encode():
                self._heard_probe()
            elif notification.relname == b"msgweb_ready":
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
            elif (heard := self._attended.get(notification.relname)) is not None:
                guarded(heard, payload)
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
