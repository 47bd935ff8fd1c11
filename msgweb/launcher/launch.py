"""Start the whole installation, wait until it is ready, keep it, stop it.

Order: end what a killed run left, check folder and ports, start the supervisor (and with it Postgres), prepare the
database, start the serving processes, wait for /readyz. To stop: the serving processes together, then Postgres.
"""

import contextlib
import errno
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from msgweb import database
from msgweb.home import REPOSITORY, Listen
from msgweb.launcher import account, processes, programs
from msgweb.launcher.cluster import Cluster, make_private, open_cluster
from msgweb.launcher.errors import CannotStart
from msgweb.pidfile import PROCESS_NAMES, pid_path, read_pid

POSTGRES_SECONDS = 60.0  # a recovery after a crash may have 2 GB of log to read
READY_SECONDS = 60.0
DRAIN_SECONDS = 2.0  # what a job in progress gets before it is handed back


class Installation:
    """One installation on this machine, from the launcher's side. Use as a context: leaving it stops everything."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.listen = programs.listening()
        self.cluster: Cluster | None = None
        self._socket_dir = database.embedded_socket_dir(home)
        self._socket_dir = self._socket_dir.with_name(f"{self._socket_dir.name}-run")
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock: Any = None

    # -- starting

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            CannotStart: with the one sentence that says why.
        """
        self._make_folders()
        self._take_lock()
        self._end_leftovers()
        for variable, listen in self.listen.items():
            check_free(variable, listen)
        if not os.environ.get("DATABASE_URL"):
            self.cluster = open_cluster(self.home)
            self.cluster.clear_leftovers()  # or an old server on its way out would be taken for the new one
        for name in PROCESS_NAMES:
            pid_path(name).unlink(missing_ok=True)
        for log in (self.run / "log").glob("*.log"):
            log.replace(log.with_suffix(".log.old"))
        self._start_supervisor()
        if self.cluster is not None:
            self._await_postgres(self.cluster)
        self._prepare()
        self._call("startProcessGroup", "serving", False)
        self._await_ready()

    def _make_folders(self) -> None:
        try:
            for folder in (self.home, self.run, self.run / "log", self.home / "media"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.run / f"probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CannotStart(
                f"Cannot write to {self.home}: {error.strerror}; set MSGWEB_HOME to a folder that you can write to."
            ) from error

    def _take_lock(self) -> None:
        """Held as long as this process lives, whatever ends it."""
        self._lock = (self.run / "launcher.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise CannotStart(
                f"Msgweb runs already from {self.home} (process {holder}); open {self.url} or stop it first."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _end_leftovers(self) -> None:
        left = processes.launched_in(self.home)
        supervisor = read_supervisor_pid(self.run)
        # The supervisor first and at once: it would start again what we end.
        processes.end([pid for pid in left if pid == supervisor], signal.SIGKILL, 5)
        processes.end([pid for pid in processes.launched_in(self.home) if not _is_postgres(pid)], signal.SIGTERM, 3)

    def _start_supervisor(self) -> None:
        make_private(self._socket_dir, account.Account(os.geteuid(), os.getegid(), "", other=False))
        control = self._socket_dir / "supervisor.sock"
        control.unlink(missing_ok=True)
        config = self.run / "supervisord.conf"
        config.write_text(programs.supervisor_config(self.run, control, embedded=self.cluster is not None))
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
            cwd=REPOSITORY,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=(self.run / "supervisord.out").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches the launcher alone, which stops things in their order
        )
        transport = SupervisorTransport(serverurl=f"unix://{control}")
        self._rpc = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
        self._wait(lambda: control.exists() and self._alive(), 20, "the supervisor", self.run / "supervisord.out")

    def environment(self) -> dict[str, str]:
        """The environment of everything that this launcher starts."""
        variables = {name: str(listen) for name, listen in self.listen.items()}
        return dict(
            os.environ,
            **variables,
            **{processes.MARK: str(self.home)},
            MSGWEB_HOME=str(self.home),
            DJANGO_SETTINGS_MODULE="msgweb.settings",
            PYTHONUNBUFFERED="1",
        )

    def _await_postgres(self, cluster: Cluster) -> None:
        log = self.log("postgres")

        def answers() -> bool:
            state = self._call("getProcessInfo", "postgres")
            if state["statename"] == "BACKOFF" and time.monotonic() > hopeless:
                raise CannotStart(f"The embedded Postgres does not start: {_last_line(log)}; see {log}.")
            return cluster.answers()

        # Tries that fail are repeated for a while: what was killed a moment ago may still be on its way out.
        hopeless = time.monotonic() + 10
        self._wait(answers, POSTGRES_SECONDS, "the embedded Postgres", log)
        cluster.make_database()

    def _prepare(self) -> None:
        ended = subprocess.run(
            [sys.executable, str(REPOSITORY / "manage.py"), "prepare"],
            cwd=REPOSITORY,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        (self.run / "log" / "prepare.log").write_text(ended.stdout)
        if ended.returncode:
            log = self.log("prepare")
            raise CannotStart(f"The database could not be prepared: {_reason(log)}; see {log}.")

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        # A process records its pid once it serves, which may be a moment after it is counted as alive.
        while (answer := self.readiness()) != [] or not all(pid_path(name).exists() for name in programs.SERVING):
            self._check_supervisor()
            if time.monotonic() > deadline:
                missing = " and ".join(["web"] if answer is None else answer or ["a pid file"])
                raise CannotStart(
                    f"Not ready within {READY_SECONDS:g} s, still missing: {missing}; see {self.run / 'log'}."
                )
            time.sleep(0.05)

    def readiness(self) -> list[str] | None:
        """What /readyz misses: nothing when ready, None while web does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}readyz", timeout=5):  # noqa: S310 -- our own http address
                return []
        except urllib.error.HTTPError as error:
            with error:
                try:
                    return [str(part) for part in json.load(error)["missing"]]
                except (ValueError, KeyError, TypeError):
                    return None
        except (OSError, http.client.HTTPException):
            return None

    # -- running

    @property
    def url(self) -> str:
        """The console's address, for a person on this machine."""
        listen = self.listen["MSGWEB_HTTP"]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
        return f"http://{Listen(host, listen.port)}/"

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.run / "log" / f"{name}.log"

    def credentials(self) -> dict[str, dict[str, Any]]:
        """The content of credentials.json."""
        found: dict[str, dict[str, Any]] = json.loads((self.home / "credentials.json").read_text())
        return found

    def keep(self) -> None:
        """Wait until the supervisor ends by itself, which it does not unless somebody ends it.

        Raises:
            CannotStart: it was ended from outside.
        """
        assert self._supervisor is not None
        self._supervisor.wait()
        self._check_supervisor()

    # -- stopping

    def stop(self) -> None:
        """Stop the serving processes together, then Postgres, then the supervisor. Ends in seconds, whatever runs."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
                self._call("stopProcessGroup", "serving", False)
                if not self._serving_ended(DRAIN_SECONDS):
                    self._call("signalProcess", "serving:worker", "TERM")  # the second one: hand the job back
                    self._serving_ended(15)
            self._supervisor.terminate()  # Postgres is all that is left for it to stop
            try:
                self._supervisor.wait(40)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
        if self._lock is not None:
            self._end_leftovers()
            if self.cluster is not None:
                self.cluster.clear_leftovers()
                shutil.rmtree(self.cluster.socket_dir, ignore_errors=True)
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            for name in PROCESS_NAMES:
                pid_path(name).unlink(missing_ok=True)
            self._lock.close()

    def _serving_ended(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = [info["statename"] for info in self._call("getAllProcessInfo") if info["group"] == "serving"]
            if all(state in ("STOPPED", "EXITED", "FATAL") for state in states):
                return True
            time.sleep(0.05)
        return False

    # -- inside

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._rpc, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in (Faults.NOT_RUNNING, Faults.ALREADY_STARTED, Faults.SHUTDOWN_STATE):
                return []
            raise

    def _alive(self) -> bool:
        try:
            self._call("getPID")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _check_supervisor(self) -> None:
        assert self._supervisor is not None
        if self._supervisor.poll() is not None:
            raise CannotStart(
                f"The supervisor ended with code {self._supervisor.returncode}; see {self.run / 'supervisord.log'}."
            )

    def _wait(self, condition: Any, seconds: float, what: str, log: Path) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._check_supervisor()
            sentence = _said_by_us(log)
            if sentence:
                raise CannotStart(sentence)
            if time.monotonic() > deadline:
                raise CannotStart(f"Not ready within {seconds:g} s: {what}; see {log}.")
            time.sleep(0.03)


@contextlib.contextmanager
def running(home: Path) -> Iterator[Installation]:
    """A started installation, stopped at the end.

    Raises:
        CannotStart: with the one sentence that says why.
    """
    installation = Installation(home)
    try:
        installation.start()
        yield installation
    finally:
        # A second Ctrl-C must not leave half of it running.
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(how, signal.SIG_IGN)
        installation.stop()


def check_free(variable: str, listen: Listen) -> None:
    """Whether we could listen there.

    Raises:
        CannotStart: no.
    """
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        reason = (
            "is taken by another program"
            if error.errno == errno.EADDRINUSE
            else f"cannot be used ({error.strerror or error})"
        )
        raise CannotStart(f"{listen} {reason}; choose another with {variable}=host:port.") from error


def read_supervisor_pid(run: Path) -> int | None:
    """The recorded pid of the supervisor; it may be stale."""
    try:
        return int((run / "supervisord.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_postgres(pid: int) -> bool:
    """Ended by the cluster, which knows how."""
    try:
        return (processes.PROC / str(pid) / "comm").read_text().strip() == "postgres"
    except OSError:
        return read_pid("postgres") == pid


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no reason given"


def _reason(log: Path) -> str:
    """The line of a traceback that names the error; what a database adds below it says less."""
    found = re.findall(r"^[\w.]+(?:Error|Exception|\w+Failed): (.+)$", log.read_text(errors="replace"), re.MULTILINE)
    return str(found[-1]).rstrip(".") if found else _last_line(log)


def _said_by_us(log: Path) -> str | None:
    """The sentence with which our own part of a process gave up, if it did."""
    try:
        found = re.findall(r"^msgweb: (.+)$", log.read_text(errors="replace"), re.MULTILINE)
    except FileNotFoundError:
        return None
    return str(found[-1]) if found else None
