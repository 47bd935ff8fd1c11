"""`make run`, without make: the whole installation, its stops, kills and refusals."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from msgweb import database
from msgweb.home import REPOSITORY
from msgweb.launcher import processes
from msgweb.launcher.launch import read_supervisor_pid
from tests.installation import free_ports, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

START_SECONDS = 90.0
NAMES = ("web", "stomp", "worker", "postgres")


class Launcher:
    """`python -m msgweb.launcher run` with a data folder and ports of its own, and the embedded Postgres."""

    def __init__(self, home: Path) -> None:
        self.home = home
        http, stomp = free_ports(2)
        self.env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | {
            "MSGWEB_HOME": str(home),
            "MSGWEB_HTTP": f"127.0.0.1:{http}",
            "MSGWEB_STOMP": f"127.0.0.1:{stomp}",
        }
        self.process: subprocess.Popen[str] | None = None
        self.said: list[str] = []
        self._reader: threading.Thread | None = None

    def spawn(self, *prefix: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "msgweb.launcher", "run"],
            cwd=REPOSITORY,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.said = []
        process = self.process = self.spawn()
        ready = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    self.said.append(line)
                    if line.startswith("Stop it with"):
                        ready.set()
            ready.set()

        self._reader = threading.Thread(target=read)
        self._reader.start()
        assert ready.wait(START_SECONDS), "".join(self.said)
        assert process.poll() is None, "".join(self.said) + self.logs()

    def refused(self, *prefix: str) -> str:
        """Start it, expecting it to end at once with code 1 and one sentence: that sentence."""
        process = self.spawn(*prefix)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 1, output
        sentences = [line for line in output.splitlines() if line.startswith("msgweb: ")]
        assert len(sentences) == 1, output
        assert output.splitlines()[-1] == sentences[0], output
        assert "Traceback" not in output
        return sentences[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(40)

    def pids(self) -> dict[str, int]:
        return {name: int((self.home / "run" / f"{name}.pid").read_text()) for name in NAMES}

    def credentials(self) -> dict[str, dict[str, Any]]:
        return json.loads((self.home / "credentials.json").read_text())

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.env['MSGWEB_HTTP']}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def leftovers(self) -> list[int]:
        return processes.launched_in(self.home) + processes.working_in(self.home / "postgres" / "data", "postgres")

    def logs(self) -> str:
        return "\n".join(f"--- {log}\n{log.read_text()[-3000:]}" for log in (self.home / "run").glob("**/*.log"))

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
        if self._reader is not None:
            self._reader.join(10)
        processes.end(self.leftovers(), signal.SIGKILL, 5)
        sockets = database.embedded_socket_dir(self.home)
        for folder in (sockets, sockets.with_name(f"{sockets.name}-run"), self.home):
            shutil.rmtree(folder, ignore_errors=True)  # what a failed test has left


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    # Not pytest's folder, which only its user can enter: as root the embedded server runs as somebody else.
    launcher = Launcher(Path(tempfile.mkdtemp(prefix="msgweb-launcher-")).resolve())
    yield launcher
    launcher.close()


def test_a_first_start_is_ready_says_how_to_get_in_and_stops_with_postgres_last(launcher: Launcher) -> None:
    launcher.start()
    assert launcher.ready()
    said = "".join(launcher.said)
    credentials = launcher.credentials()
    assert f"open http://{launcher.env['MSGWEB_HTTP']}/" in said
    for secret in (credentials["web"]["password"], credentials["stomp"]["passcode"]):
        assert secret in said
    assert stat.S_IMODE((launcher.home / "credentials.json").stat().st_mode) == 0o600
    assert {part: sorted(values) for part, values in credentials.items()} == {
        "web": ["password", "url", "username"],
        "stomp": ["host", "login", "namespace", "passcode", "port"],
        "api": ["token", "url"],
    }
    assert credentials["api"]["token"] == f"{credentials['stomp']['login']}.{credentials['stomp']['passcode']}"
    for pid in launcher.pids().values():
        os.kill(pid, 0)
    conninfo = database.conninfo(launcher.home)
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM jobs_job").fetchone() == (1,)

    assert "runs already" in launcher.refused()

    assert launcher.stop(signal.SIGINT) == 0
    assert launcher.leftovers() == []
    assert not list((launcher.home / "run").glob("*.pid"))
    assert not database.embedded_socket_dir(launcher.home).exists()
    log = (launcher.home / "run" / "supervisord.log").read_text()
    stopped = re.findall(r"stopped: (\w+)", log)
    assert sorted(stopped) == sorted(NAMES)
    assert stopped[-1] == "postgres"


@pytest.mark.chaos
def test_whatever_is_killed_is_started_again_and_without_its_supervisor_all_stops(launcher: Launcher) -> None:
    launcher.start()
    for name in NAMES:
        before = launcher.pids()[name]
        os.kill(before, signal.SIGKILL)
        until(lambda: launcher.pids()[name] != before and launcher.ready(), 60, f"{name} is back")  # noqa: B023
    supervisor = read_supervisor_pid(launcher.home / "run")
    assert supervisor is not None
    assert launcher.process is not None
    os.kill(supervisor, signal.SIGKILL)
    assert launcher.process.wait(40) == 1
    assert launcher.leftovers() == []


@pytest.mark.chaos
def test_killing_all_of_it_or_its_heads_never_blocks_the_next_start_and_data_survives(launcher: Launcher) -> None:
    launcher.start()
    credentials = launcher.credentials()
    data = launcher.home / "postgres" / "data"

    # Its heads: launcher and supervisor; web, gateway, worker and Postgres go on without them.
    supervisor = read_supervisor_pid(launcher.home / "run")
    assert launcher.process is not None
    assert supervisor is not None
    launcher.process.kill()
    os.kill(supervisor, signal.SIGKILL)
    launcher.process.wait()
    assert launcher.leftovers()
    launcher.start()
    assert launcher.credentials() == credentials

    # All of it, and the pids go to strangers.
    launcher.process.kill()
    launcher.process.wait()
    for pid in [read_supervisor_pid(launcher.home / "run") or 0, *launcher.leftovers()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not launcher.leftovers(), 10, "all are gone")
    for name in NAMES:
        (launcher.home / "run" / f"{name}.pid").write_text(f"{os.getpid()}\n")
    (launcher.home / "run" / "supervisord.pid").write_text(f"{os.getpid()}\n")
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n0\n5432\n\n\n\n")
    launcher.start()
    assert launcher.ready()
    assert launcher.credentials() == credentials
    with psycopg.connect(database.conninfo(launcher.home)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs_job").fetchone() == (1,)
    assert launcher.stop() == 0


@pytest.mark.parametrize("variable", ["MSGWEB_HTTP", "MSGWEB_STOMP"])
def test_a_taken_port_is_named_before_anything_starts(launcher: Launcher, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        launcher.env[variable] = f"127.0.0.1:{taken.getsockname()[1]}"
        said = launcher.refused()
    assert "is taken by another program" in said
    assert variable in said
    assert not (launcher.home / "postgres").exists()


def test_an_address_that_cannot_be_read_is_named(launcher: Launcher) -> None:
    launcher.env["MSGWEB_HTTP"] = "8000"
    assert "MSGWEB_HTTP must be host:port" in launcher.refused()


def test_a_data_folder_of_another_version_is_refused(launcher: Launcher) -> None:
    data = launcher.home / "postgres" / "data"
    data.mkdir(parents=True)
    launcher.home.chmod(0o755)
    (data.parent).chmod(0o755)
    (data / "PG_VERSION").write_text("9\n")
    assert "was made by PostgreSQL 9" in launcher.refused()


def test_a_folder_that_cannot_be_written_to_is_named(launcher: Launcher) -> None:
    launcher.home.chmod(0o555)
    # Nothing is read-only for root, so root gives up its privileges, not its name.
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    said = launcher.refused(*prefix)
    launcher.home.chmod(0o755)
    assert "Cannot write to" in said
    assert "MSGWEB_HOME" in said


def test_a_file_in_the_place_of_the_folder_is_named(launcher: Launcher) -> None:
    (launcher.home / "file").touch()
    launcher.env["MSGWEB_HOME"] = str(launcher.home / "file")
    assert "Cannot write to" in launcher.refused()
