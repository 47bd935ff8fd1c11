"""The embedded Postgres: created, started after every kind of crash, and refused with a clear sentence."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from msgweb.database import embedded_socket_dir
from msgweb.home import REPOSITORY
from msgweb.launcher.binaries import installed
from msgweb.launcher.cluster import Cluster, open_cluster
from msgweb.launcher.errors import CannotStart
from tests.installation import until


class Server:
    """An embedded server in a data folder, run as the supervisor runs it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Cluster:
        self.process = self.spawn()
        cluster = open_cluster(self.home)
        until(lambda: cluster.answers() or self.process.poll() is not None, 30, "the server answers")
        assert self.process.poll() is None, self.process.communicate()[0]
        return cluster

    def spawn(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "msgweb.launcher", "postgres", "--no-fsync"],
            cwd=REPOSITORY,
            env=dict(os.environ, MSGWEB_HOME=str(self.home)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def refused(self) -> str:
        """Start it, expecting it to end at once; what it says."""
        process = self.spawn()
        output = process.communicate(timeout=30)[0]
        assert process.returncode == 1, output
        return output

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(how)
            self.process.communicate(timeout=30)
            self.process = None


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's folder, which only its user can enter: as root the server runs as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="msgweb-cluster-")).resolve()
    yield folder
    place = (folder / "postgres").resolve()
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(embedded_socket_dir(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    server = Server(home)
    yield server
    server.stop()


def test_a_cluster_is_created_and_only_its_account_can_reach_it(server: Server) -> None:
    cluster = server.start()
    cluster.make_database()
    cluster.make_database()  # the second time it is there
    with psycopg.connect(cluster.conninfo()) as connection:
        row = connection.execute("SELECT current_setting('synchronous_commit'), current_setting('listen_addresses')")
        assert row.fetchone() == ("on", "")
    sockets = embedded_socket_dir(server.home)
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700


def test_it_keeps_memory_as_it_is_told_and_the_environment_has_the_last_word(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    server.start()
    assert server.process is not None
    given = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    assert {b"MALLOC_TRIM_THRESHOLD_=16777216", b"MALLOC_TOP_PAD_=4096"} <= set(given)


def test_data_survives_a_kill_and_the_killed_server_does_not_block_the_next_one(server: Server) -> None:
    cluster = server.start()
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop(signal.SIGKILL)
    cluster = server.start()
    with psycopg.connect(cluster.conninfo("postgres")) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_stale_pid_file_with_the_pid_of_a_stranger_does_not_block_the_start(server: Server) -> None:
    cluster = server.start()
    server.stop()
    stranger = os.getpid()  # alive, and no Postgres
    for path in (cluster.data / "postmaster.pid", cluster.socket_dir / ".s.PGSQL.5432.lock"):
        path.write_text(f"{stranger}\n{cluster.data}\n0\n5432\n{cluster.socket_dir}\n\n\n")
    server.start()


def test_a_server_that_an_earlier_run_left_is_ended_before_the_next_starts(server: Server) -> None:
    server.start()
    left = server.process
    assert left is not None
    cluster = server.start()  # which may be the first one's answer
    assert left.communicate(timeout=10)[0]
    assert left.returncode is not None
    until(cluster.answers, 30, "the next one answers")


def test_an_interrupted_creation_is_begun_anew(server: Server, home: Path) -> None:
    place = open_cluster(home).place
    (place / "data.new").mkdir()
    (place / "data.new" / "PG_VERSION").write_text("18\n")
    server.start()


def test_a_data_folder_of_another_major_version_is_refused_in_one_sentence(server: Server, home: Path) -> None:
    data = open_cluster(home).data
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    said = server.refused()
    assert said.startswith(f"msgweb: The data folder {data} was made by PostgreSQL 9, but here is only")
    assert said.count("\n") == 1


def test_a_folder_in_the_place_of_the_socket_that_is_not_ours_is_refused(server: Server, home: Path) -> None:
    sockets = embedded_socket_dir(home)
    sockets.symlink_to(home)
    try:
        assert "belongs to somebody else" in server.refused()
    finally:
        sockets.unlink()


@pytest.mark.needs("root")
def test_below_a_closed_folder_the_cluster_stands_outside_and_is_found_again(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    inner = closed / "home"
    inner.mkdir()
    server = Server(inner)
    try:
        cluster = server.start()
        assert not cluster.place.is_relative_to(home)
        assert (inner / "postgres").resolve() == cluster.place
        server.stop()
        assert open_cluster(inner).place == cluster.place
    finally:
        server.stop()
        shutil.rmtree((inner / "postgres").resolve())
        shutil.rmtree(embedded_socket_dir(inner), ignore_errors=True)


@pytest.mark.needs("root")
def test_programs_below_a_closed_folder_are_copied_to_where_the_account_can_run_them(home: Path) -> None:
    from msgweb.launcher.account import server_account
    from msgweb.launcher.binaries import Binaries, readable

    found = next(installed())
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    (closed / "postgresql").symlink_to(found.folder.parent)
    hidden = Binaries(closed / "postgresql" / "bin", found.major, found.version)
    store = home / "store"
    store.mkdir(mode=0o755)
    home.chmod(0o711)
    account = server_account()
    usable = readable(hidden, account, store)
    assert usable.folder.is_relative_to(store)
    assert account.can_run([usable.path("initdb"), "--version"])
    assert readable(hidden, account, store) == usable


def test_a_missing_place_is_named(home: Path) -> None:
    (home / "postgres").symlink_to(home / "gone")
    with pytest.raises(CannotStart, match="is missing"):
        open_cluster(home)
