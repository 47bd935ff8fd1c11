"""SIGKILL in mid-traffic: what was receipted arrives, what arrives again says so."""

import asyncio
import contextlib
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
from tests.chaos.traffic import Traffic
from tests.installation import READY_SECONDS, Installation, Postgres, connects, until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
TOTAL = 20_000


def traffic_on(installation: Installation) -> Traffic:
    """Traffic through an installation's gateway."""
    stomp = installation.credentials["stomp"]
    return Traffic(stomp["host"], stomp["port"], stomp["login"], stomp["passcode"], "/queue/chaos", TOTAL)


def test_a_killed_gateway_loses_nothing_that_was_receipted_and_marks_what_it_repeats(
    installation: Installation,
) -> None:
    installation.start("stomp")
    traffic = traffic_on(installation)

    def fault(_: Traffic) -> None:
        installation.kill("stomp")
        installation.start("stomp")

    asyncio.run(traffic.run(fault, fault_at=TOTAL // 3))
    assert len(traffic.receipted) > TOTAL * 0.9  # at most two windows of 200 are open
    assert traffic.receipted <= traffic.seen.keys()
    assert not traffic.unmarked_repeats()


class OwnPostgres:
    """A cluster of this test's own, so that it can be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"} | {
            "MSGWEB_HOME": str(home)
        }
        self.conninfo = make_conninfo(database.conninfo(home), dbname="postgres")
        self._process: subprocess.Popen[bytes] | None = None

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
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(database.embedded_socket_dir(home), ignore_errors=True)


def test_a_killed_postgres_loses_nothing_that_was_receipted_and_marks_what_it_repeats(
    own_postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Postgres(own_postgres.conninfo).migrated_template() as template:
        installation = Installation(
            tmp_path_factory.mktemp("killed"), Postgres(own_postgres.conninfo).on(template.name), template.credentials
        )
        with contextlib.closing(installation):
            installation.start("stomp")
            traffic = traffic_on(installation)

            def fault(_: Traffic) -> None:
                own_postgres.kill()
                own_postgres.start()

            asyncio.run(traffic.run(fault, fault_at=TOTAL // 3))
            assert installation.running("stomp")
        assert len(traffic.receipted) == TOTAL  # no client lost its connection: the gateway lived on
        assert traffic.receipted <= traffic.seen.keys()
        assert not traffic.unmarked_repeats()
