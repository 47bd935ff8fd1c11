"""`manage.py runstomp` as a process: start, refusals to start, drain, several processes on one port."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from msgweb.home import REPOSITORY
from msgweb.launcher import programs
from tests.installation import READY_SECONDS, Installation, free_ports, until
from tests.stomp_gateway import SECONDS, Frame, WireClient


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Clients:
    """Clients of an installation's gateway, with its own key."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def new(self) -> WireClient:
        return self._stack.enter_context(contextlib.closing(WireClient(self._installation.stomp.port)))

    def connected(self, **headers: str) -> WireClient:
        client = self.new()
        self.connect(client, **headers)
        return client

    def connect(self, client: WireClient, **headers: str) -> Frame:
        key = self._installation.credentials["stomp"]
        client.send("CONNECT", accept_version="1.2", login=key["login"], passcode=key["passcode"], **headers)
        return client.expect("CONNECTED")


@pytest.fixture
def clients(installation: Installation) -> Iterator[Clients]:
    with Clients(installation) as clients:
        yield clients


def accepts(installation: Installation) -> bool:
    try:
        socket.create_connection((installation.stomp.host, installation.stomp.port), SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def run(installation: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "manage.py"), "runstomp", *arguments],
        cwd=REPOSITORY,
        env=installation.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_serves_with_a_real_key_and_ends_with_0_on_sigterm(installation: Installation, clients: Clients) -> None:
    installation.start("stomp")
    assert f"listening on {installation.stomp}" in installation.log("stomp")
    assert int((installation.home / "run" / "stomp.pid").read_text()) == installation.pid("stomp")
    client = clients.connected()
    client.confirmed("SEND", b"x", destination="/queue/a", persistent="true")
    assert installation.query("SELECT count(*) FROM msgweb.message") == [(1,)]
    refused = clients.new()
    refused.send("CONNECT", accept_version="1.2", login="x", passcode="very secret")
    refused.expect_error("access_refused")
    counted = "SELECT details->'failed log-ins' FROM msgweb.session WHERE kind = 'gateway'"
    until(
        lambda: installation.query(counted) == [(1,)], SECONDS, "the failed log-in is counted where the console looks"
    )
    installation.signal("stomp", signal.SIGTERM)
    client.expect_error("shutting_down")
    client.expect_end()
    client.close()
    assert installation.wait("stomp") == 0
    assert installation.query("SELECT count(*) FROM msgweb.session") == [(0,)]
    assert "very secret" not in installation.log("stomp")


def test_what_a_client_holds_at_sigterm_it_may_finish(installation: Installation, clients: Clients) -> None:
    installation.start("stomp")
    client = clients.connected()
    client.confirmed("SUBSCRIBE", id=0, destination="/queue/a", ack="client")
    client.confirmed("SEND", b"x", destination="/queue/a", persistent="true")
    message = client.expect("MESSAGE")
    installation.signal("stomp", signal.SIGTERM)
    until(lambda: "stopping" in installation.log("stomp"), SECONDS, "it drains")
    client.confirmed("ACK", id=message["ack"])
    client.expect_error("shutting_down")
    client.close()
    assert installation.wait("stomp") == 0
    assert installation.query("SELECT count(*) FROM msgweb.message") == [(0,)]


def test_a_killed_gateways_messages_come_again_from_the_next_one(installation: Installation, clients: Clients) -> None:
    installation.env["MSGWEB_LEASE_SECONDS"] = "2"
    installation.start("stomp")
    client = clients.connected()
    client.confirmed("SUBSCRIBE", id=0, destination="/queue/a", ack="client", prefetch_count="100")
    for number in range(100):
        client.confirmed("SEND", b"%d" % number, destination="/queue/a", persistent="true")
    for number in range(100):
        assert client.expect("MESSAGE").body == b"%d" % number
    installation.kill("stomp")
    installation.start("stomp")
    again = clients.connected()
    again.send("SUBSCRIBE", id=0, destination="/queue/a")
    messages = [again.expect("MESSAGE") for _ in range(100)]
    assert [message.body for message in messages] == [b"%d" % number for number in range(100)]
    assert {message["redelivered"] for message in messages} == {"true"}


def test_a_host_that_names_a_namespace(installation: Installation, clients: Clients) -> None:
    installation.start("stomp")
    installation.query("INSERT INTO accounts_namespace (name, created_at) VALUES ('shop.closed', now())")
    client = clients.new()
    key = installation.credentials["stomp"]
    client.send("CONNECT", accept_version="1.2", login=key["login"], passcode=key["passcode"], host="shop.closed")
    client.expect_error("access_refused")
    there, default = clients.connected(host="taoshop.development"), clients.connected(host="localhost")
    there.confirmed("SEND", b"x", destination="/queue/a", persistent="true")
    default.confirmed("SUBSCRIBE", id=0, destination="/queue/a")
    assert default.silent(0.3)
    there.confirmed("SUBSCRIBE", id=0, destination="/queue/a")
    assert there.expect("MESSAGE").body == b"x"


def test_it_may_be_started_with_its_standard_streams_closed(installation: Installation, clients: Clients) -> None:
    closing = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *programs.command("stomp")]
    with subprocess.Popen(closing, cwd=REPOSITORY, env=installation.env, start_new_session=True) as gateway:
        try:
            pid_file = installation.home / "run" / "stomp.pid"
            until(lambda: gateway.poll() is not None or pid_file.exists(), READY_SECONDS, "the gateway serves")
            for _ in range(5):
                client = clients.connected()
                client.confirmed("SEND", b"x", destination="/queue/a", persistent="true")
                client.close()
            assert {os.readlink(f"/proc/{gateway.pid}/fd/{number}") for number in range(3)} == {os.devnull}
        finally:
            gateway.terminate()
        assert gateway.wait(READY_SECONDS) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_taken_port_is_one_clear_sentence(installation: Installation, processes: str) -> None:
    with socket.socket() as taken:
        taken.bind((installation.stomp.host, installation.stomp.port))
        taken.listen()
        ended = run(installation, "--processes", processes)
    assert ended.returncode == 1
    assert f"{installation.stomp} is taken" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_that_is_away_is_one_clear_sentence(installation: Installation) -> None:
    installation.env["DATABASE_URL"] = "host=/nonexistent dbname=x"
    ended = run(installation)
    assert ended.returncode == 1
    assert "the database cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [("--listen", "nonsense"), ("--listen", "x:99999"), ("--processes", "0")])
def test_wrong_arguments_are_one_clear_sentence(installation: Installation, arguments: tuple[str, ...]) -> None:
    ended = run(installation, *arguments)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and ended.stderr.startswith("CommandError: ")


def test_several_processes_share_the_port_and_stop_together(installation: Installation, clients: Clients) -> None:
    installation.start("stomp", arguments=("--processes", "2"))
    parent = installation.pid("stomp")
    assert int((installation.home / "run" / "stomp.pid").read_text()) == parent
    assert len(children(parent)) == 2
    assert installation.query("SELECT count(*) FROM msgweb.session") == [(2,)]
    consumer = clients.connected()
    consumer.confirmed("SUBSCRIBE", id=0, destination="/queue/a")
    for number in range(20):  # each connection lands in one process or the other
        producer = clients.connected()
        producer.confirmed("SEND", b"%d" % number, destination="/queue/a", persistent="true")
        assert consumer.expect("MESSAGE").body == b"%d" % number
        producer.close()
    both = children(parent)
    assert installation.stop("stomp") == 0
    assert not any(alive(child) for child in both)


def test_a_key_that_is_revoked_in_sql_ends_its_connections_in_every_process(
    installation: Installation, clients: Clients
) -> None:
    installation.start("stomp", arguments=("--processes", "2"))
    both = [clients.connected() for _ in range(10)]  # each connection lands in one process or the other
    for client in both:
        client.confirmed("SEND", destination="/topic/x")
    login = installation.credentials["stomp"]["login"]
    installation.query("UPDATE accounts_accesskey SET revoked_at = now() WHERE login = %s", (login,))
    for client in both:
        client.expect_error("access_refused")
        client.expect_end()
    again = clients.new()
    again.send("CONNECT", accept_version="1.2", login=login, passcode=installation.credentials["stomp"]["passcode"])
    again.expect_error("access_refused")
    assert (
        installation.query("SELECT actor, kind FROM accounts_auditentry WHERE action = 'changed'")[0][1] == "access key"
    )
    assert installation.stop("stomp") == 0


def answer(port: int, path: str) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def first_of_free_ports(count: int) -> int:
    """The first of some ports in a row that are free."""
    while True:
        first = free_ports(1)[0]
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@pytest.mark.parametrize("processes", [1, 2])
def test_the_next_gateway_has_the_ports_while_the_one_before_lets_its_clients_finish(
    installation: Installation, clients: Clients, processes: int
) -> None:
    status = first_of_free_ports(processes)
    arguments = ("--processes", str(processes), "--status", f"127.0.0.1:{status}", "--drain-seconds", "60")
    installation.start("stomp", arguments=arguments)
    assert [answer(status + one, "/readyz") for one in range(processes)] == [200] * processes
    busy = clients.connected()
    busy.confirmed("SUBSCRIBE", id=0, destination="/queue/a", ack="client")
    busy.confirmed("SEND", b"x", destination="/queue/a", persistent="true")
    message = busy.expect("MESSAGE")
    installation.signal("stomp", signal.SIGTERM)
    until(lambda: 503 in [answer(status + one, "/readyz") for one in range(processes)], SECONDS, "it drains")
    until(lambda: not accepts(installation), SECONDS, "its port is free")
    installation.start("stomp2", arguments=arguments)
    clients.connected().confirmed("SEND", b"y", destination="/queue/a", persistent="true")
    busy.confirmed("ACK", id=message["ack"])
    busy.expect_error("shutting_down")
    busy.close()
    assert installation.wait("stomp") == 0
    for one in range(processes):
        until(lambda one=one: answer(status + one, "/readyz") == 200, SECONDS, "the next one says that it is ready")  # type: ignore[misc]
    assert answer(status, "/metrics") == 200
    assert installation.stop("stomp2", 70) == 0


def test_sighup_brings_every_process_its_new_certificate_and_ends_nobody(
    installation: Installation, tmp_path: Path
) -> None:
    authority = trustme.CA()
    file = tmp_path / "both.pem"

    def renew() -> None:
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)

    renew()
    port = free_ports(1)[0]
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())

    def secured() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), SECONDS)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def serials() -> set[object]:
        """Each connection lands in one process or the other."""
        found = set()
        for _ in range(10):
            with secured() as client:
                found.add((client.getpeercert() or {})["serialNumber"])
        return found

    installation.start(
        "stomp", arguments=("--processes", "2", "--listen", f"stomps://127.0.0.1:{port}?certificate={file}")
    )
    (before,) = serials()
    with secured() as old:
        renew()
        installation.signal("stomp", signal.SIGHUP)
        until(lambda: before not in serials(), SECONDS, "every process has the new one")
        (after,) = serials()
        file.write_text("garbage")
        installation.signal("stomp", signal.SIGHUP)
        until(lambda: installation.log("stomp").count("keeps its old certificate") == 2, SECONDS, "both say so")
        assert serials() == {after}
        old.sendall(b"CONNECT\nlogin:nobody\npasscode:x\n\n\0")
        assert old.recv(1000).startswith(b"ERROR\n")  # it is still heard
    assert installation.stop("stomp") == 0


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_while_the_processes_start_is_no_failure(installation: Installation, how: signal.Signals) -> None:
    """SIGHUP would end a process that has no use for it yet."""
    parent = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "manage.py"), "runstomp", "--processes", "2"],
        cwd=REPOSITORY,
        env=installation.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: children(parent.pid), SECONDS, "a child")
        parent.send_signal(how)
        if how is signal.SIGHUP:
            pid = installation.home / "run" / "stomp.pid"

            def serves() -> bool:
                parent.send_signal(how)
                return pid.exists()

            until(serves, SECONDS, "it serves all the same")
            parent.terminate()
        output, _ = parent.communicate(timeout=SECONDS)
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
    assert parent.returncode == 0, output
    assert "ended with" not in output


def test_a_process_that_dies_is_started_again(installation: Installation, clients: Clients) -> None:
    installation.start("stomp", arguments=("--processes", "2"))
    parent = installation.pid("stomp")
    before = children(parent)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(children(parent)) - set(before)) == 1, SECONDS, "another child")
    until(lambda: len(children(parent)) == 2, SECONDS, "two children")
    for _ in range(10):
        clients.connected().confirmed("SEND", b"x", destination="/topic/x")
    assert installation.stop("stomp") == 0


def test_the_children_do_not_outlive_their_parent(installation: Installation) -> None:
    installation.start("stomp", arguments=("--processes", "2"))
    both = children(installation.pid("stomp"))
    installation.kill("stomp")
    until(lambda: not any(alive(child) for child in both), SECONDS, "the children end")
    installation.start("stomp")
