"""The embedded Postgres: a cluster of our own under the data folder, reached by a Unix socket alone.

Where things are: `<home>/postgres` is the cluster's place, or a link to it where the server's account cannot enter
`home`. In it lie `data` and, where the wheel cannot be read by that account, a copy of the programs. The socket stands
in `msgweb.database.embedded_socket_dir`, a folder that only the server's account can enter; that is the access control,
so the server trusts whoever reaches it.
"""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psycopg
from psycopg.conninfo import make_conninfo

from msgweb import database
from msgweb.launcher import account as accounts
from msgweb.launcher import binaries as postgres
from msgweb.launcher import processes
from msgweb.launcher.account import Account
from msgweb.launcher.binaries import Binaries
from msgweb.launcher.errors import CannotStart
from msgweb.pidfile import write_pid

STOP_SECONDS = 30.0  # a fast shutdown writes what is dirty in shared memory; after that it is killed, which is safe
OUTSIDE = (Path("/var/lib"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108 -- the last resort, with a random name

#: Written to `data/msgweb.conf` at each start, so that a new version's settings reach an old cluster.
SETTINGS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "wal_buffers": "16MB",
    "synchronous_commit": "on",  # a receipt is a promise
    "max_wal_size": "2GB",  # a checkpoint each few minutes, not each few seconds, under a flood of messages
    "min_wal_size": "256MB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    "jit": "off",  # short statements: compiling them costs more than running them
    "autovacuum_naptime": "10s",  # queue tables turn over in seconds
    "autovacuum_vacuum_cost_delay": "1ms",
    "idle_in_transaction_session_timeout": "'10min'",  # a forgotten transaction would pin every dead row
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_line_prefix": "'%m [%p] '",
}

#: For glibc, unless the environment says otherwise: what a statement frees at its end is kept for the next one, up to
#: so many bytes a process. By itself glibc gives more than 128 KiB back to the kernel, which clears it when
#: it is asked for again, page by page: that was a twentieth of a COPY.
ALLOCATION = {
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and what runs it.

    Attributes:
        place: holds `data`; owned by the server's account.
        durable: False only for tests: skips fsync, so survives a kill but not a power cut.
    """

    home: Path
    place: Path
    account: Account
    binaries: Binaries
    durable: bool = True

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def socket_dir(self) -> Path:
        return database.embedded_socket_dir(self.home)

    def conninfo(self, dbname: str = database.EMBEDDED_DATABASE) -> str:
        """The libpq connection string of one of its databases."""
        return make_conninfo(
            host=str(self.socket_dir), port=database.EMBEDDED_PORT, dbname=dbname, user=database.EMBEDDED_ROLE
        )

    # -- creating

    def create(self) -> None:
        """Initialize the data folder, unless it is there.

        Under another name first: `initdb` that was interrupted leaves a folder that looks like a cluster.

        Raises:
            CannotStart: `initdb` failed.
        """
        if (self.data / "PG_VERSION").exists():
            return
        draft = self.place / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.binaries.major >= 17 else []
        command = [
            *(self.binaries.path("initdb"), "-D", str(draft), "-U", database.EMBEDDED_ROLE),
            *("--auth=trust", "--encoding=UTF8", "--locale=C", *locale, "--no-instructions"),
            *([] if self.durable else ["--no-sync"]),
        ]
        ended = subprocess.run(
            command,
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **self.account.subprocess_options(),
        )
        if ended.returncode:
            reason = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CannotStart(f"The database could not be created in {self.place}: {reason}")
        with (draft / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude 'msgweb.conf'\n")
        draft.rename(self.data)

    def configure(self) -> None:
        """Write our settings beside PostgreSQL's own."""
        settings = dict(SETTINGS, unix_socket_directories=f"'{self.socket_dir}'", port=str(database.EMBEDDED_PORT))
        if self._understands("wal_compression=lz4"):
            settings["wal_compression"] = "lz4"
        if not self.durable:
            settings["fsync"] = "off"
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        path = self.data / "msgweb.conf"
        path.write_text(f"# Rewritten at each start; put settings of your own into postgresql.conf, below.\n{text}")
        self.account.own(path)

    def _understands(self, setting: str) -> bool:
        """Whether this build knows a value, such as a compression that it may have been built without."""
        (self.data / "msgweb.conf").touch()
        return self.account.can_run(
            [self.binaries.path("postgres"), "-C", setting.split("=")[0], "-D", str(self.data), "-c", setting]
        )

    # -- running

    def serve(self) -> NoReturn:
        """Become the server: this process turns into `postgres`, so that its parent watches the real one.

        Raises:
            CannotStart: the cluster cannot be created, or its socket's folder belongs to somebody else.
        """
        self.clear_leftovers()
        self.create()
        make_private(self.socket_dir, self.account)
        self.configure()
        write_pid("postgres")
        os.umask(0o077)
        os.chdir(self.place)
        self.account.become()
        program = self.binaries.path("postgres")
        os.execve(program, [program, "-D", str(self.data)], {**ALLOCATION, **os.environ})  # noqa: S606

    def clear_leftovers(self) -> None:
        """End a server of an earlier run on this data folder, and remove what a killed one left.

        PostgreSQL refuses to start while the pid in `postmaster.pid` is alive, though after a crash or a reboot it may
        be a stranger's. Its processes have the data folder as their working folder, so those are asked instead.
        """
        old = processes.working_in(self.data, "postgres")
        if old:
            recorded = self._recorded_pid()
            processes.end([pid for pid in old if pid == recorded], signal.SIGINT, STOP_SECONDS)
            processes.end(processes.working_in(self.data, "postgres"), signal.SIGQUIT, 5.0)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self.socket_dir.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n")[0])
        except (FileNotFoundError, ValueError):
            return None

    def answers(self) -> bool:
        """Whether the server takes connections."""
        try:
            psycopg.connect(self.conninfo("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until the server takes connections; False when it did not within that time."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.03)
        return True

    def make_database(self, name: str = database.EMBEDDED_DATABASE) -> None:
        """Create a database, unless it is there. The server must be up."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if there is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def open_cluster(home: Path, *, durable: bool = True) -> Cluster:
    """The cluster of a data folder; its place is made when missing, not yet its data.

    Raises:
        CannotStart: no PostgreSQL, another major version's data, or no folder that the server's account can enter.
    """
    account = accounts.server_account()
    place = _place(home, account)
    binaries = postgres.choose(place / "data")
    return Cluster(home, place, account, postgres.readable(binaries, account, place), durable)


def _place(home: Path, account: Account) -> Path:
    """`<home>/postgres`, followed where it is a link; made here or, where the account cannot enter, outside.

    Outside it gets a random name: a fixed one could be taken by somebody else, or hold the data of a repository that
    stood here before.
    """
    link = home / "postgres"
    if link.is_symlink() or link.exists():
        place = link.resolve()
        if not place.is_dir():
            raise CannotStart(f"The database's folder {place}, where {link} points to, is missing.")
        if not account.can_enter(place):
            raise CannotStart(f"The account {account.name} cannot enter the database's folder {place}.")
        return place
    if account.other:
        # The account needs to pass through, not to look around: whatever is secret in it has a mode of its own.
        home.chmod(stat.S_IMODE(home.stat().st_mode) | 0o011)
    if account.can_enter(home):
        link.mkdir(mode=0o700)
        account.own(link)
        return link
    for parent in OUTSIDE:
        if not account.can_enter(parent):
            continue
        try:
            place = Path(tempfile.mkdtemp(prefix="msgweb-", dir=parent))
        except OSError:
            continue
        account.own(place)
        link.symlink_to(place)
        return place
    raise CannotStart(
        f"The account {account.name}, under which PostgreSQL must run, cannot enter {home}; "
        "set MSGWEB_HOME to a folder that it can enter."
    )


def make_private(folder: Path, account: Account) -> None:
    """Make a folder that only the account can enter, at a place where anybody could have made one before us.

    Raises:
        CannotStart: it is there and not ours.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or found.st_uid not in (account.uid, os.geteuid()):
            raise CannotStart(f"{folder} is in the way and belongs to somebody else; remove it.") from None
        folder.chmod(0o700)
    account.own(folder)
