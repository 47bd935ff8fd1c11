"""A Postgres of a test's own, which it may kill, stop and starve."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from msgweb import database
from msgweb.home import REPOSITORY
from msgweb.launcher import programs
from tests.installation import READY_SECONDS, connects, until


class OwnPostgres:
    """A cluster of this test's own, so that it can be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"} | {
            "MSGWEB_HOME": str(home)
        }
        self.conninfo = make_conninfo(database.conninfo(home), dbname="postgres")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return (self.home / "postgres").resolve() / "data"

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        with (self.home / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                programs.command("postgres"),
                cwd=REPOSITORY,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: connects(self.conninfo), READY_SECONDS, "Postgres takes connections")

    def kill(self) -> None:
        """SIGKILL to Postgres, every process of it, and wait for the end of the one that we started."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def stop(self) -> None:
        """An orderly end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A running cluster of the test's own."""
    home = Path(tempfile.mkdtemp(prefix="msgweb-chaos-"))
    server = OwnPostgres(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.data.parent, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(database.embedded_socket_dir(home), ignore_errors=True)
