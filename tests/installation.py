"""Whole installations for tests: a database, a data folder and ports of their own, and our real processes on them."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from msgweb import database
from msgweb.home import REPOSITORY, Listen
from msgweb.launcher import programs
from tests import environment

READY_SECONDS = 60.0  # a deadline for a loaded machine, not an expectation

#: Chance that no seed decides: all test processes of a run share theirs.
PORTS = random.SystemRandom()


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something outside this process, which cannot call us back.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on. They lie below those that systems give to outgoing connections, of
    which one could take a port before our process listens on it; by chance, since other tests run beside these."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            each = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # it is taken
                each.bind(("127.0.0.1", PORTS.randrange(12_000, 32_000)))
                ports.append(each.getsockname()[1])
        return ports


class Postgres:
    """The Postgres server of the test session."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo

    def on(self, name: str) -> str:
        """The libpq connection string of one of its databases."""
        return make_conninfo(self.conninfo, dbname=name)

    def execute(self, statement: str, *names: str) -> None:
        """Run a statement outside transactions, with identifiers filled in for {}."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    @contextlib.contextmanager
    def migrated_template(self) -> Iterator["Template"]:
        """A database that `manage.py prepare --no-samples` has made, to be copied."""
        name = f"msgweb_template_{uuid.uuid4().hex[:12]}"
        self.execute("CREATE DATABASE {}", name)
        home = Path(tempfile.mkdtemp(prefix="template-", dir=environment.HOME))
        try:
            manage(dict(os.environ, DATABASE_URL=self.on(name), MSGWEB_HOME=str(home)), "prepare", "--no-samples")
            yield Template(name, json.loads((home / "credentials.json").read_text()))
        finally:
            self.execute("DROP DATABASE {} WITH (FORCE)", name)

    @contextlib.contextmanager
    def copy_of(self, template: "Template") -> Iterator[str]:
        """A copy of the template, as a connection string; it is dropped at the end."""
        name = f"msgweb_{uuid.uuid4().hex[:12]}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, template.name)
        try:
            yield self.on(name)
        finally:
            self.execute("DROP DATABASE {} WITH (FORCE)", name)


class Template:
    """A prepared database and the credentials that open it."""

    def __init__(self, name: str, credentials: dict[str, Any]) -> None:
        self.name = name
        self.credentials = credentials


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """`DATABASE_URL`'s server, else an embedded one that lives as long as the context."""
    url = os.environ.get("DATABASE_URL")
    if url:
        yield Postgres(url)
        return
    command = [*programs.command("postgres"), "--no-fsync"]
    log = environment.HOME / "postgres.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    conninfo = make_conninfo(database.conninfo(environment.HOME), dbname="postgres")
    try:
        until(
            lambda: server.poll() is not None or connects(conninfo), READY_SECONDS, "the embedded Postgres takes calls"
        )
        assert server.poll() is None, log.read_text()
        yield Postgres(conninfo)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(database.embedded_socket_dir(environment.HOME), ignore_errors=True)


def connects(conninfo: str) -> bool:
    """Whether a Postgres takes connections there."""
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


def manage(env: dict[str, str], *arguments: str) -> str:
    """Run a management command; its output.

    Raises:
        AssertionError: it failed; the message is all that it said.
    """
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "manage.py"), *arguments],
        cwd=REPOSITORY,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, f"manage.py {' '.join(arguments)}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


class Installation:
    """One installation.

    Attributes:
        home: its data folder.
        database: its database, a libpq connection string.
        http, stomp: where web and gateway listen.
        env: the environment of its processes; change it before starting them.
        credentials: the content of its credentials.json.
    """

    def __init__(self, home: Path, database_url: str, credentials: dict[str, Any]) -> None:
        self.home = home
        self.database = database_url
        http, stomp = free_ports(2)
        self.http = Listen("127.0.0.1", http)
        self.stomp = Listen("127.0.0.1", stomp)
        self.env = dict(
            os.environ,
            DATABASE_URL=database_url,
            MSGWEB_HOME=str(home),
            MSGWEB_HTTP=str(self.http),
            MSGWEB_STOMP=str(self.stomp),
            PYTHONWARNINGS="default",  # the tests' own filter would end our processes at a library's warning
        )
        self.credentials = {
            "web": {**credentials["web"], "url": f"http://{self.http}/"},
            "stomp": {**credentials["stomp"], "host": self.stomp.host, "port": self.stomp.port},
            "api": {**credentials["api"], "url": f"http://{self.http}/api/"},
        }
        (home / "credentials.json").write_text(json.dumps(self.credentials))
        (home / "credentials.json").chmod(0o600)
        (home / "run").mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    @contextlib.contextmanager
    def fresh(cls, postgres: Postgres, template: Template, home: Path) -> Iterator["Installation"]:
        """One with nothing started yet, on a copy of the template; all that was started on it is ended after it."""
        with postgres.copy_of(template) as database:
            installation = cls(home, database, template.credentials)
            try:
                yield installation
            finally:
                installation.close()

    # -- processes

    def start(self, *names: str, arguments: tuple[str, ...] = ()) -> None:
        """Start `web`, `stomp`, `worker` or several of them (all when none is named), and wait until they serve.

        Args:
            names: `worker2` and so on are further workers; likewise for the others (a second one needs `arguments`
                that give it another port).
            arguments: added to the command of each.
        """
        self.launch(*names, arguments=arguments)
        for name in names or programs.SERVING:
            until(lambda name=name: not self.running(name) or self._serves(name), READY_SECONDS, f"{name} serves")  # type: ignore[misc]
            assert self.running(name), f"{name} ended at its start:\n{self.log(name)}"

    def launch(self, *names: str, arguments: tuple[str, ...] = ()) -> None:
        """The same without waiting: for processes that may end as soon as they serve."""
        for name in names or programs.SERVING:
            assert not self.running(name), f"{name} runs already"
            self._pid_file(name).unlink(missing_ok=True)
            with self._log_path(name).open("ab") as output:
                self._processes[name] = subprocess.Popen(
                    [*programs.command(_kind(name)), *arguments],
                    cwd=REPOSITORY,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def wait_ready(self) -> None:
        """Wait until /readyz says 200."""
        try:
            until(lambda: self.status("/readyz") == 200, READY_SECONDS, "/readyz answers 200")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def kill(self, name: str) -> None:
        """SIGKILL the process itself (not its children), and wait for its end."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(10)

    def stop(self, name: str, seconds: float = 20) -> int:
        """SIGTERM, and wait; the exit code."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{name} did not stop within {seconds:g} s:\n{self.log(name)}") from None

    def signal(self, name: str, how: signal.Signals) -> None:
        """Send a signal to the process."""
        self._processes[name].send_signal(how)

    def wait(self, name: str, seconds: float = READY_SECONDS) -> int:
        """Wait until the process ends by itself; the exit code."""
        return self._processes.pop(name).wait(seconds)

    def pid(self, name: str) -> int:
        """The process's id, as its parent knows it."""
        return self._processes[name].pid

    def running(self, name: str) -> bool:
        """Whether it was started and has not ended."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def log(self, name: str) -> str:
        """All that the process has written."""
        try:
            return self._log_path(name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def logs(self) -> str:
        """The logs of all processes, for a failure's message."""
        return "\n".join(f"--- {path.stem}\n{path.read_text(errors='replace')}" for path in self.home.glob("*.log"))

    def close(self) -> None:
        """End everything at once, children too."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self._processes.clear()

    # -- asking it

    def manage(self, *arguments: str) -> str:
        """Run a management command on this installation; its output."""
        return manage(self.env, *arguments)

    def query(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL on its database, in a transaction of its own; the rows, if it returns any."""
        with psycopg.connect(self.database) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def status(self, path: str) -> int | None:
        """The HTTP status of a GET, or None while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def _serves(self, name: str) -> bool:
        if not self._pid_file(name).exists():
            return False
        return _kind(name) != "web" or self.status("/healthz") == 200

    def _pid_file(self, name: str) -> Path:
        return self.home / "run" / f"{_kind(name)}.pid"

    def _log_path(self, name: str) -> Path:
        return self.home / f"{name}.log"


def _kind(name: str) -> str:
    return name.rstrip("0123456789")
