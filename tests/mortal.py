"""A Postgres of a test's own, which it may kill."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from msgweb import database
from msgweb.home import REPOSITORY
from msgweb.launcher import programs
from tests.installation import READY_SECONDS, connects, manage, until


class Mortal:
    """A Postgres that may be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        self.env["MSGWEB_HOME"] = str(home)
        where = {"host": str(database.embedded_socket_dir(home)), "port": database.EMBEDDED_PORT}
        self.conninfo = make_conninfo("", **where, user=database.EMBEDDED_ROLE, dbname=database.EMBEDDED_DATABASE)

    @classmethod
    @contextlib.contextmanager
    def prepared(cls) -> Iterator["Mortal"]:
        """One that `manage.py prepare --no-samples` has been run on; `home` has the credentials."""
        # In /tmp itself: as root the server runs as somebody else, who must be able to enter.
        postgres = cls(Path(tempfile.mkdtemp(prefix="msgweb-mortal-")))
        postgres.start()
        try:
            elsewhere = make_conninfo(postgres.conninfo, dbname="postgres")
            with psycopg.connect(elsewhere, autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {database.EMBEDDED_DATABASE}")
            manage(postgres.env, "prepare", "--no-samples")
            yield postgres
        finally:
            postgres.close()

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it takes connections."""
        with (self.home / "postgres.log").open("ab") as output:
            command = [*programs.command("postgres"), "--no-fsync"]
            self._process = subprocess.Popen(command, cwd=REPOSITORY, env=self.env, stdout=output, stderr=output)
        until(lambda: connects(make_conninfo(self.conninfo, dbname="postgres")), READY_SECONDS, "Postgres answers")

    def copied(self, name: str) -> str:
        """A copy of its database, as a connection string. Nobody may be connected to that."""
        with psycopg.connect(make_conninfo(self.conninfo, dbname="postgres"), autocommit=True) as admin:
            template = sql.Identifier(database.EMBEDDED_DATABASE)
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), template))
        return make_conninfo(self.conninfo, dbname=name)

    def kill(self) -> None:
        """End the postmaster with SIGKILL, and start it again."""
        self._process.kill()
        self._process.wait()
        self.start()

    def close(self) -> None:
        """End it, with all that is in it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(READY_SECONDS)
        for path in (self.home, (self.home / "postgres").resolve(), database.embedded_socket_dir(self.home)):
            shutil.rmtree(path, ignore_errors=True)
