"""The world of a chaos run: a Postgres of its own and gateways on it, real processes all, and what is done to them."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from msgweb import database
from msgweb.home import REPOSITORY
from msgweb.launcher import programs
from tests.chaos.history import RECOVERED, Event, Fault, SessionOver
from tests.installation import free_ports

START_SECONDS = 60.0  # a deadline for a loaded machine, not an expectation
LOOK_SECONDS = 0.01  # between two looks at something that cannot call us back
_NAMESPACE = "SELECT n.name FROM accounts_namespace n JOIN accounts_accesskey k ON k.default_namespace_id = n.id"

#: Postgres itself notes which session ended when: a process may learn of it late, or never. One whose process has
#: another by then held nothing: the process was starting when Postgres died, and has started again since.
_NOTES = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.session_over (id bigserial, pid integer NOT NULL, at double precision NOT NULL);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM msgweb.session WHERE pid = OLD.pid AND id > OLD.id) THEN
        INSERT INTO chaos.session_over (pid, at) VALUES (OLD.pid, extract(epoch FROM clock_timestamp()));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER DELETE ON msgweb.session FOR EACH ROW EXECUTE FUNCTION chaos.note();
"""


@dataclass(slots=True)
class Process:
    """One life of a process.

    Attributes:
        name: slot and number of the life, such as `a.2`.
        ended: set with its exit code.
    """

    name: str
    pid: int
    ended: asyncio.Future[int]
    frozen: bool = False

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.done()

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send it a signal, if it is still there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)


@dataclass(slots=True)
class Slot:
    """A place for a process: its name and its port stay, its lives come and go.

    Attributes:
        port: 0 for one that does not listen.
        arguments: for the nursery, to start a life by its name.
    """

    name: str
    port: int
    arguments: Callable[[str], list[str]]
    lives: int = 0
    process: Process | None = None


class World:
    """Postgres and gateways. Belongs to one event loop.

    Args:
        gateways: how many.
        lease: seconds; the shortest that the product allows is 1.
        grace: seconds that a session may be without its lock before it counts as dead; the product's own is 3.

    Attributes:
        slots: gateways, and what runs have added.
        events: what was done to the servers, and when sessions ended.
    """

    def __init__(self, gateways: int = 2, lease: float = 2.0, grace: float = 1.0) -> None:
        self._lives: Counter[str] = Counter()
        self.home = Path(tempfile.mkdtemp(prefix="msgweb-chaos-"))
        self.events: list[Event] = []
        self.kills: dict[str, int] = {}
        ports = free_ports(gateways)
        self.slots = {name: _gateway(name, port) for name, port in zip("abcdefgh", ports, strict=False)}
        self.lease = lease
        self.login = self.passcode = ""
        self._env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | {
            "MSGWEB_HOME": str(self.home),
            "MSGWEB_LEASE_SECONDS": str(lease),
            "CHAOS_LOCK_GRACE": str(grace),
            "PYTHONWARNINGS": "default",
        }
        self.conninfo = make_conninfo(
            host=str(database.embedded_socket_dir(self.home)),
            port=database.EMBEDDED_PORT,
            user=database.EMBEDDED_ROLE,
            dbname=database.EMBEDDED_DATABASE,
        )
        self._nursery: asyncio.subprocess.Process | None = None
        self._asked: list[asyncio.Future[int]] = []
        self._processes: dict[int, Process] = {}
        self._postgres: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._notes_read: set[int] = set()
        self._names: dict[int, str] = {}
        self._turn = asyncio.Lock()

    # -- its life

    async def __aenter__(self) -> "World":
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> None:
        self._nursery = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.nursery"),
            cwd=REPOSITORY,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._listen())
        await self.start_postgres()
        async with await self._connect("postgres") as connection:
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database.EMBEDDED_DATABASE)))
        prepare = await asyncio.create_subprocess_exec(
            *(sys.executable, str(REPOSITORY / "manage.py"), "prepare", "--no-samples"),
            cwd=REPOSITORY,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await prepare.communicate()
        assert prepare.returncode == 0, said.decode()
        async with await self._connect() as connection:
            await connection.execute(_NOTES)
        stomp = json.loads((self.home / "credentials.json").read_text())["stomp"]
        self.login, self.passcode = stomp["login"], stomp["passcode"]
        ((self.namespace,),) = await self.query(_NAMESPACE)
        await self.heal()

    async def close(self) -> None:
        """End everything."""
        if self._nursery is not None:
            assert self._nursery.stdin is not None
            self._nursery.stdin.close()
            await self._nursery.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        place = (self.home / "postgres").resolve()
        for path in (self.home, place, database.embedded_socket_dir(self.home)):
            shutil.rmtree(path, ignore_errors=True)

    async def _listen(self) -> None:
        assert self._nursery is not None
        assert self._nursery.stdout is not None
        while line := await self._nursery.stdout.readline():
            said = json.loads(line)
            if "pid" in said:
                self._asked.pop(0).set_result(said["pid"])
            elif "ended" in said and (process := self._processes.pop(said["ended"], None)):
                process.ended.set_result(said["code"])

    async def _start(self, name: str, arguments: list[str]) -> Process:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[int] = loop.create_future()
        self._asked.append(asked)
        request = {"start": arguments, "log": str(self.log_path(name))}
        self._nursery.stdin.write(json.dumps(request).encode() + b"\n")
        pid = await asyncio.wait_for(asked, START_SECONDS)
        process = self._processes[pid] = Process(name, pid, loop.create_future())
        self._names[pid] = name
        return process

    def log_path(self, name: str) -> Path:
        """The log of a process; all lives of a slot share one."""
        return self.home / f"{name.partition('.')[0]}.log"

    async def _connect(self, dbname: str | None = None) -> psycopg.AsyncConnection[Any]:
        conninfo = self.conninfo if dbname is None else make_conninfo(self.conninfo, dbname=dbname)
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)

    async def query(self, statement: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Rows, from a connection of the question's own.

        Raises:
            psycopg.Error: Postgres is away.
        """
        async with await self._connect() as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    # -- processes

    async def start_postgres(self) -> None:
        """Start it, and wait until it takes connections."""
        process = self._postgres = await self._start("postgres", [*programs.command("postgres"), "--no-fsync"])
        await self._until(process, self._takes_connections)

    async def _takes_connections(self) -> bool:
        try:
            await (await self._connect("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    async def start(self, slot: Slot) -> None:
        """Start a slot's next life, and wait until it listens, if it does."""
        # No two lives have a name in common, in whichever runs they are: what Postgres notes of one may come late.
        slot.lives = self._lives[slot.name] = self._lives[slot.name] + 1
        name = f"{slot.name}.{slot.lives}"
        process = await self._start(name, slot.arguments(name))
        if slot.port:
            await self._until(process, lambda: _listens(slot.port))
        slot.process = process

    async def _until(self, process: Process, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not await condition():
            log = self.log_path(process.name)
            assert process.alive, f"{process.name} ended at its start:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{process.name} does not serve"
            await asyncio.sleep(LOOK_SECONDS)

    def server(self, name: str) -> str | None:
        """The present life of a slot, as histories name it."""
        process = self.slots[name].process
        return process.name if process is not None and process.alive else None

    async def heal(self) -> None:
        """Everything runs again."""
        async with self._turn:
            for process in self._processes.values():
                if process.frozen:
                    process.signal(signal.SIGCONT)
                    process.frozen = False
            if self._postgres is None or not self._postgres.alive:
                await self.start_postgres()
            for slot in self.slots.values():
                if slot.process is None or not slot.process.alive:
                    await self.start(slot)

    # -- faults

    def _note(self, kind: str, server: str) -> None:
        self.events.append(Fault(time.monotonic(), kind, server))
        self.kills[kind] = self.kills.get(kind, 0) + 1

    async def strike(self, kind: str, slot: Slot, chance: random.Random) -> None:
        """Do something bad, and put it right again. One at a time."""
        async with self._turn:
            process = slot.process
            assert process is not None
            match kind:
                case "gateway-kill" | "worker-kill":
                    self._note(kind, process.name)
                    process.signal(signal.SIGKILL)
                    await process.ended
                    await self.start(slot)
                case "gateway-term" | "worker-term":
                    self._note(kind, process.name)
                    process.signal(signal.SIGTERM)
                    await asyncio.wait_for(process.ended, START_SECONDS)
                    await self.start(slot)
                case "gateway-freeze" | "worker-freeze":
                    self._note(kind, process.name)
                    process.frozen = True
                    process.signal(signal.SIGSTOP)
                    await asyncio.sleep(self.lease * chance.uniform(0.2, 2.0))
                    process.signal(signal.SIGCONT)
                    process.frozen = False
                case "postgres-kill":
                    await self._kill_postgres(whole=chance.random() < 0.5)
                case "backend-kill":
                    await self._kill_backends(process, chance)
                case _:
                    raise AssertionError(kind)

    async def _kill_postgres(self, *, whole: bool) -> None:
        """SIGKILL to the postmaster, or to all of its processes. Those that are left end by themselves, or are ended
        by the next start."""
        assert self._postgres is not None
        self._note("postgres-kill", "postgres")
        self._postgres.signal(signal.SIGKILL, group=whole)
        await self._postgres.ended
        await self.start_postgres()
        self.events.append(Fault(time.monotonic(), RECOVERED, "postgres"))

    async def _kill_backends(self, process: Process, chance: random.Random) -> None:
        """pg_terminate_backend for some of a gateway's connections."""
        rows = await self.query(
            "SELECT a.pid FROM pg_stat_activity a JOIN msgweb.session s ON a.application_name LIKE '%%' || s.process"
            " WHERE s.pid = %s ORDER BY a.backend_start",
            (process.pid,),
        )
        pids = [pid for (pid,) in rows]
        if pids:
            self._note("backend-kill", process.name)
            chosen = chance.sample(pids, chance.randint(1, len(pids)))
            await self.query("SELECT pg_terminate_backend(pid) FROM unnest(%s::int4[]) AS pid", (chosen,))

    # -- what Postgres noted

    async def read_notes(self) -> None:
        """Make events of the sessions that ended since the last call."""
        offset = time.monotonic() - time.time()
        for number, pid, at in await self.query("SELECT id, pid, at FROM chaos.session_over"):
            if number not in self._notes_read:
                self._notes_read.add(number)
                self.events.append(SessionOver(at + offset, self.name_of(pid)))

    def name_of(self, pid: int) -> str:
        """A process's name in histories."""
        return self._names.get(pid, str(pid))


def _gateway(name: str, port: int) -> Slot:
    arguments = ["runstomp", "--listen", f"127.0.0.1:{port}", "--drain-seconds", "0.5"]
    return Slot(name, port, lambda _: arguments)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
