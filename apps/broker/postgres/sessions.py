"""A process's lease, on a connection of its own; and the burial of those whose lease is over.

A session is alive while its lease lies ahead and its connection holds an advisory lock. When a process dies, the
kernel closes that connection and the lock is free at once: whoever notices ends the session at once if it can see that
the process is gone, having run beside it on one machine; else it waits `LOCK_GRACE` (a live process reconnects within
it). A machine that vanishes without closing anything is found by its lease.
"""

import asyncio
import logging
import math
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from apps.broker.engine import SessionId
from apps.broker.horizon import Horizon
from apps.broker.postgres.horizon import HorizonWatch
from apps.broker.postgres.listener import Listener
from apps.broker.postgres.names import Ready
from apps.broker.postgres.pipeline import POOLED_TEXT, Connection, connect, first_line
from apps.broker.postgres.scheduler import run_due
from apps.broker.postgres.statistics import StatisticsWriter
from msgweb.errors import PooledDatabase, Unavailable

logger = logging.getLogger(__name__)
_jitter = random.Random()  # its own: the global one belongs to the program around us

LOCK_CLASS = 1297568599  # "MWSW": the first key of the sessions' advisory locks
LOCK_GRACE = 3.0  # seconds that a lock may be missing before its session counts as dead
ROUND = 1.0  # seconds between two looks at the others
LOCK_TRIES = 10
RETRY = 0.1  # seconds until the next look after a failure or a call for one
DUE_SLACK = 0.001  # seconds after a message's time at which it is looked for
DUE_GAP = 0.005  # seconds between two looks for messages whose time has come
THOROUGH = 60.0  # seconds between two polls that trust nothing that this process knows
TIDY = 60.0  # seconds between two tidyings

_LOCKLESS = """
SELECT s.id, s.pid, s.details->>'machine' FROM msgweb.session s WHERE s.id <> %(own)s AND NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = %(lock)s AND l.objid = s.id::oid
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_READY = """
SELECT lane.destination, min(found.place), bool_or(found.grouped)
FROM unnest(%s::int4[], %s::int2[], %s::int8[]) AS lane (destination, priority, floor),
LATERAL (
    SELECT coalesce(m.position, m.id) AS place, m.group_key IS NOT NULL AS grouped FROM msgweb.message m
    WHERE m.destination = lane.destination AND m.session IS NULL AND m.priority = lane.priority
      AND coalesce(m.position, m.id) > lane.floor
    ORDER BY coalesce(m.position, m.id) LIMIT 1) AS found
GROUP BY lane.destination
"""
_TIDY = """
WITH RECURSIVE used (destination) AS (
    (SELECT destination FROM msgweb.message WHERE session IS NULL ORDER BY destination LIMIT 1)
    UNION ALL
    SELECT (SELECT m.destination FROM msgweb.message m WHERE m.session IS NULL AND m.destination > used.destination
            ORDER BY m.destination LIMIT 1)
    FROM used WHERE used.destination IS NOT NULL)
DELETE FROM msgweb.message m USING used
WHERE m.session IS NULL AND m.destination = used.destination
  AND NOT EXISTS (SELECT FROM msgweb.destination d WHERE d.id = used.destination)
"""


def _machine() -> str:
    """What processes have in common that see each other's process ids: the boot, and the namespace of the ids. Empty
    where that cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


MACHINE = _machine()


class SessionKeeper:
    """Opens a session, renews its lease, and buries the dead.

    Args:
        process: how the application_name of each of this process's connections ends.
        listener: of this process; it is probed by the lease's connection.
        horizon_seconds: who pins the horizon of transactions for longer is told of.
        details: what the console shows of this process; called at each renewal.
        lanes: where to look whether something waits (the poll behind the notifications): queue, priority, id after
            which; thoroughly: from the beginning.
        renewed: called after each renewal of the lease.
        found_ready: is told where something does.
        lost: called when the session was ended by others.
    """

    def __init__(
        self,
        conninfo: str,
        kind: str,
        lease: float,
        process: str,
        listener: Listener,
        horizon_seconds: float,
        details: Callable[[], dict[str, Any]],
        lanes: Callable[[bool], list[tuple[int, int, int]]],
        found_ready: Callable[[list[Ready]], None],
        renewed: Callable[[], None],
        lost: Callable[[SessionId], Awaitable[None]],
    ) -> None:
        self._conninfo = conninfo
        self._kind = kind
        self._lease = lease
        self._process = process
        self._listener = listener
        self._horizon = HorizonWatch(horizon_seconds)
        self._details = details
        self._lanes = lanes
        self._found_ready = found_ready
        self._on_renewal = renewed
        self._lost = lost
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._turn = asyncio.Lock()
        self._lockless: dict[int, float] = {}
        self.statistics = StatisticsWriter(lambda: ())
        self._pause = ROUND
        self._tidied = self._trusted = self._rounded = -_jitter.uniform(0, TIDY)
        self._renewed = 0.0
        self._changed = False
        self.session = SessionId(0)
        self.peers = True
        #: The writer's batch number below which outcomes are of no more interest.
        self.settled_batch: Callable[[], int] = lambda: 0

    @property
    def horizon(self) -> Horizon:
        """Who pins the horizon of transactions."""
        return self._horizon.horizon

    async def open(self) -> None:
        """Connect and open a session.

        Raises:
            Unavailable: the database does not answer, or the migrations are missing.
            PooledDatabase: the connection has no session of the server to itself.
        """
        try:
            async with self._turn:
                await self._open()
        except psycopg.Error as error:
            raise Unavailable(f"the database cannot be used: {first_line(error)}") from error
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    async def succeed(self, lost: SessionId) -> bool:
        """Open another session after `lost`; False if that was done already.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._turn:
            if self.session != lost:
                return False
            try:
                await self._open()
            except psycopg.Error as error:
                raise Unavailable(f"the database cannot be used: {first_line(error)}") from error
            return True

    async def close(self) -> None:
        """End the session: what it holds is ready again."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection and not self._connection.closed:
            try:
                await self.statistics.write(self._connection, math.inf)
                await self._connection.execute("SELECT msgweb.bury_sessions(ARRAY[%s::int4], false)", [self.session])
            except psycopg.Error as error:
                logger.warning("the session ends by its lease, the database is away: %s", error)
            await self._connection.close()

    def look(self) -> None:
        """Look at the others now: this process's details changed."""
        self._renewed = 0.0
        self._look.set()

    def look_for_due(self) -> None:
        """A delayed message was sent: learn when it is due."""
        self._pause = 0.0
        self._look.set()

    def others_changed(self) -> None:
        """Somebody came or went."""
        self._changed = True
        self.peers = True  # until the next look says otherwise: a wake-up too many costs nothing
        self.look()

    async def _open(self) -> None:
        connection = await self._connect()
        # The lock before the row: a start that fails in between leaves nothing, and nobody sees the row without it.
        cursor = await connection.execute(
            "SELECT id, pg_advisory_lock(%s, id)"
            " FROM nextval(pg_get_serial_sequence('msgweb.session', 'id')) AS drawn, int4(drawn) AS id",
            [LOCK_CLASS],
        )
        session, _ = await cursor.fetchone() or (0, None)
        await connection.execute(
            "INSERT INTO msgweb.session (id, kind, host, pid, process, details, expires_at) OVERRIDING SYSTEM VALUE"
            " VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))",
            [session, self._kind, socket.gethostname(), os.getpid(), self._process, self._described(), self._lease],
        )
        await connection.execute("SELECT pg_notify('msgweb_session', '')")
        self.session = SessionId(session)  # last: from here to the voiding of what was held nothing may be awaited

    def _described(self) -> Jsonb:
        return Jsonb({**self._details(), "machine": MACHINE})

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.broken:
            if self._connection is not None:
                await self._connection.close()
            self._lockless.clear()  # others may be reconnecting just as we are: their grace begins now
            self._connection = await connect(self._conninfo, f"msgweb {self._kind} session {self._process}")
            cursor = await self._connection.execute("SELECT pg_backend_pid()")
            await self._check((await cursor.fetchone() or (0,))[0], self._connection)
            if self.session:
                await self._lock(self._connection)
        return self._connection

    async def _check(self, server_pid: int, connection: Connection) -> None:
        """Whether it is still the session that the connection began with, and not the listener's. A pooler that lends
        its sessions out in turn fails the one, and one that lends the last one used fails the other.

        Raises:
            PooledDatabase: so it is.
        """
        heard = self._listener.connection
        if server_pid != connection.server_pid or (heard is not None and server_pid == heard.server_pid):
            await connection.close()
            raise PooledDatabase(POOLED_TEXT)

    async def _lock(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Take the session's lock again. Who holds it can only be our own connection that broke on this side while the
        server has not noticed: that backend is ended.

        Raises:
            psycopg.OperationalError: the lock is not to be had; try later.
        """
        key = {"lock": LOCK_CLASS, "session": self.session}
        for _ in range(LOCK_TRIES):
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%(lock)s, %(session)s)", key)
            if (await cursor.fetchone() or (False,))[0]:
                return
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND classid = %(lock)s AND objid = %(session)s::int4::oid AND pid <> pg_backend_pid()"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                key,
            )
            await asyncio.sleep(RETRY)
        await connection.close()
        raise psycopg.OperationalError("the session's lock is still held")

    async def _keep(self) -> None:
        failing = False
        while True:
            try:
                async with self._turn:
                    lost = not await self._round()
                if lost:
                    await self._lost(self.session)
                failing = False
            except (psycopg.Error, Unavailable) as error:
                if not failing:  # once an outage
                    code = f"{error.code}: " if isinstance(error, PooledDatabase) else ""
                    logger.warning("%sthe lease cannot be renewed now: %s", code, first_line(error))
                failing = True
                self._renewed = 0.0
                await asyncio.sleep(RETRY)  # soon: others wait LOCK_GRACE for us
                continue
            except Exception:
                logger.exception("keeping the session failed in an unforeseen way; it is tried again")
            try:
                pause = self._pause if self._pause < ROUND else ROUND * _jitter.uniform(0.8, 1.2)
                async with asyncio.timeout(max(pause, DUE_GAP)):  # wait_for may swallow the cancellation by `close`
                    await self._look.wait()
                await asyncio.sleep(
                    RETRY if self._renewed == 0.0 else DUE_GAP
                )  # many calls that come at once are one look
            except TimeoutError:
                pass
            self._look.clear()

    async def _round(self) -> bool:
        """Renew when due, bury the dead, poll. False: the session is no more."""
        connection = await self._connect()
        now = asyncio.get_running_loop().time()
        await self._sweep(connection)
        if now - self._rounded < ROUND / 2 and self._renewed:
            return True
        self._rounded = now
        if channel := self._listener.probe(now):
            try:
                await connection.execute("SELECT pg_notify(%s, '')", [channel])
            except BaseException:
                self._listener.withdraw_probe()
                raise
        if await self._horizon.look(connection, self.session, now):
            self._renewed = -math.inf  # the console is to show it
        if now - self._renewed >= self._lease / 3:
            self._renewed = now
            self._changed = False
            cursor = await connection.execute(
                "UPDATE msgweb.session SET seen_at = clock_timestamp(), details = %s,"
                " expires_at = clock_timestamp() + make_interval(secs => %s) WHERE id = %s"
                " RETURNING (SELECT count(*) FROM msgweb.session)",
                [self._described(), self._lease, self.session],
            )
            row = await cursor.fetchone()
            if row is None:
                return False
            self.peers = row[0] > 1 or self._changed  # somebody who came meanwhile may not be in the count
            await connection.execute(
                "DELETE FROM msgweb.batch WHERE session = %s AND number < %s", [self.session, self.settled_batch()]
            )
            self._on_renewal()
        await self._bury(connection, now)
        thoroughly = now - self._trusted >= THOROUGH
        lanes = self._lanes(thoroughly)
        if thoroughly:
            self._trusted = now
        if lanes:
            cursor = await connection.execute(_READY, [list(column) for column in zip(*lanes, strict=True)])
            self._found_ready([Ready(row[0], row[1], row[2]) for row in await cursor.fetchall()])
        await self.statistics.write(connection, now)
        if now - self._tidied >= TIDY:
            self._tidied = now
            await self._tidy(connection)
        return True

    async def _sweep(self, connection: Connection) -> None:
        """Let come what is due, and go what has expired."""
        cursor = await connection.execute(
            "SELECT extract(epoch FROM next_due - clock_timestamp())::float8, more, ready, pg_backend_pid()"
            " FROM msgweb.sweep()"
        )
        due, more, ready, server_pid = await cursor.fetchone() or (None, False, [], connection.server_pid)
        await self._check(server_pid, connection)
        scheduled = await run_due(connection)
        times = [ROUND, *(max(one, 0.0) + DUE_SLACK for one in (due, scheduled) if one is not None)]
        self._pause = 0.0 if more else min(times)
        if ready:
            self._found_ready([Ready(one) for one in ready])

    async def _bury(self, connection: psycopg.AsyncConnection[Any], now: float) -> None:
        cursor = await connection.execute(_LOCKLESS, {"own": self.session, "lock": LOCK_CLASS})
        lockless = await cursor.fetchall()
        self._lockless = {one: self._lockless.get(one, now) for one, _, _ in lockless}
        dead = [
            one
            for one, pid, machine in lockless
            if now - self._lockless[one] >= LOCK_GRACE or (machine == MACHINE != "" and not _runs(pid))
        ]
        cursor = await connection.execute("SELECT msgweb.bury_sessions(%s::int4[])", [dead])
        for (buried,) in await cursor.fetchall():
            logger.warning("session %s is dead; what it held is ready again", buried)

    async def _tidy(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Remove what outlived its use: sent to ended reply queues, large topic messages, outcomes of dead sessions."""
        await connection.execute(_TIDY)
        await connection.execute("SELECT msgweb.tidy_queues()")
        await connection.execute("DELETE FROM msgweb.topic_message WHERE at < now() - interval '1 minute'")
        await connection.execute(
            "DELETE FROM msgweb.batch b WHERE b.at < now() - interval '1 hour'"
            " AND NOT EXISTS (SELECT FROM msgweb.session s WHERE s.id = b.session)"
        )


def _runs(pid: int) -> bool:
    """Whether that process lives. One that has ended and waits for its parent to ask for its status does not: the
    parent of an orphan may take seconds, or in a container never ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return status.rpartition(b") ")[2][:1] not in (b"Z", b"X")
