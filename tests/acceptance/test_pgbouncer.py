"""A real PgBouncer between an installation and Postgres: in session mode all works, in others it is refused."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from msgweb.home import REPOSITORY
from tests.conftest import PGBOUNCER
from tests.installation import Installation, connects, free_ports, until
from tests.stomp_gateway import WireClient
from tests.working import SECONDS, Jobs, start

pytestmark = pytest.mark.needs("pgbouncer")

Pooled = Callable[[str], None]


@pytest.fixture
def pooled(installation: Installation, tmp_path: Path) -> Iterator[Pooled]:
    """Puts a PgBouncer of a mode before the installation's database."""
    servers: list[subprocess.Popen[bytes]] = []

    def put(mode: str) -> None:
        (port,) = free_ports(1)
        to = {name: value for name, value in conninfo_to_dict(installation.database).items() if name != "dbname"}
        target = " ".join(f"{name}={value}" for name, value in {"port": 5432, **to}.items())
        settings = tmp_path / "pgbouncer.ini"
        mode, _, choice = mode.partition(", ")
        settings.write_text(
            f"[databases]\n* = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 60\n"
            f"{choice}\n"
        )
        # It refuses to be root; into the folder of an embedded server's socket only that server's account can.
        folder = Path(str(to.get("host", "")))
        account = folder.owner() if folder.is_absolute() else "nobody"
        not_root = ["-u", account] if os.geteuid() == 0 else []
        with (tmp_path / "pgbouncer.log").open("wb") as output:
            servers.append(
                subprocess.Popen(
                    [str(PGBOUNCER), *not_root, str(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            )
        url = make_conninfo(
            host="127.0.0.1",
            port=port,
            dbname=str(conninfo_to_dict(installation.database)["dbname"]),
            user=str(to["user"]),
            sslmode="disable",
            gssencmode="disable",
        )
        try:
            until(lambda: connects(url), SECONDS, "PgBouncer takes calls")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(tmp_path / 'pgbouncer.log').read_text()}") from None
        installation.env["DATABASE_URL"] = url

    yield put
    for server in servers:
        server.kill()
        server.wait(SECONDS)


def test_in_session_mode_messages_and_jobs_go_their_way_and_the_processes_listen(
    installation: Installation, pooled: Pooled, tmp_path: Path
) -> None:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    jobs = Jobs(installation, tmp_path)
    pooled("session")
    installation.start("stomp")
    start(jobs)

    def listening() -> list[tuple[str, bool]]:
        """By what they have told after the time for the first probe was over."""
        return installation.query(
            "SELECT kind, (details->>'polling')::bool FROM msgweb.session"
            " WHERE seen_at > started_at + interval '4 s' ORDER BY kind"
        )

    def writers() -> list[int]:
        named = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name ~ '^msgweb .* writer ' AND datname = current_database()"
        )
        return [pid for (pid,) in installation.query(named)]

    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"
    before = writers()
    assert len(before) == 2
    with psycopg.connect(installation.database, autocommit=True) as connection:
        for pid in before:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: len(set(writers()) - set(before)) == 2, SECONDS, "they connect again")
    assert jobs.end(jobs.ask("samples.add", a=2))["result"] == {"sum": 3}
    credentials = installation.credentials["stomp"]
    client = WireClient(installation.stomp.port)
    login = {"login": credentials["login"], "passcode": credentials["passcode"]}
    client.send("CONNECT", accept_version="1.2", **login)
    client.expect("CONNECTED")
    client.confirmed("SUBSCRIBE", id="1", destination="/queue/pooled")
    client.confirmed("SEND", b"hello", destination="/queue/pooled")
    assert client.read().body == b"hello"
    client.socket.close()
    until(lambda: len(listening()) == 2, SECONDS, "they renew their leases")
    assert listening() == [("gateway", False), ("worker", False)]
    assert [installation.stop("stomp"), installation.stop("worker")] == [0, 0]
    assert "do not arrive" not in installation.logs()


def test_in_transaction_mode_a_django_project_asks_for_jobs_and_sends(
    installation: Installation, pooled: Pooled, tmp_path: Path
) -> None:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    jobs = Jobs(installation, tmp_path)
    pooled("transaction")
    jobs.ask_many("samples.add", 20, a=1)
    code = (
        "import sys\nimport django\ndjango.setup()\nfrom apps.broker import outbox\n"
        "for number in range(20):\n    outbox.send(sys.argv[1], '/queue/pooled', str(number))\n"
    )
    jobs.python(code, jobs.namespace)
    assert jobs.query("SELECT count(*) FROM jobs_job") == [(20,)]
    assert jobs.waiting("pooled") == 20


@pytest.mark.parametrize(
    "command",
    [("runstomp",), ("runstomp", "--processes", "2"), ("runworker", "--queue", "samples")],
    ids=["gateway", "gateways", "worker"],
)
@pytest.mark.parametrize("mode", ["transaction", "transaction, server_round_robin = 1", "statement"])
def test_in_another_mode_a_process_says_why_it_cannot_and_ends(
    installation: Installation, pooled: Pooled, mode: str, command: tuple[str, ...]
) -> None:
    pooled(mode)
    ended = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=REPOSITORY,
        env=installation.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == os.EX_CONFIG, said
    assert "pooled_database: " in said and "pool_mode = session" in said
    assert "Traceback" not in said
    assert installation.query("SELECT is_called FROM msgweb.session_id_seq") == [(False,)], "a session was opened"
    assert left_in(installation) == ([(0,)], [], [("on",)])


def left_in(installation: Installation) -> tuple[list[tuple[object, ...]], ...]:
    """What could have been left in the sessions that the pooler lends out: locks, channels, settings."""
    locks = installation.query(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database"
        " WHERE datname = current_database())"
    )
    with psycopg.connect(installation.env["DATABASE_URL"], autocommit=True, prepare_threshold=None) as lent:
        channels = lent.execute("SELECT pg_listening_channels()").fetchall()
        settings = lent.execute("SHOW enable_seqscan").fetchall()
    return locks, channels, settings
