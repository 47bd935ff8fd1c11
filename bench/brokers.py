"""The brokers that are compared, each started from nothing in a temporary folder and ended with all that is in it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgweb import database
from msgweb.home import REPOSITORY
from msgweb.launcher import programs
from msgweb.launcher.account import Account
from msgweb.launcher.cluster import open_cluster

START_SECONDS = 90.0
STOP_SECONDS = 30.0
STOMP_GREETING = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:%b\npasscode:%b\n\n\0"

#: Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on the system's folders and account; this is inside.
DEBIAN_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


ACTIVEMQ = Path("/usr/share/activemq/bin/activemq.jar")  # Debian's


class BenchError(Exception):
    """The measurement cannot go on; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker.

    Attributes:
        pids: its processes by name; each stands for its whole process tree.
        fsync: how it treats the disk, for the table's foot.
        arguments: stompload's options for it, by scenario; those of "" are for all.
        amqp: where it speaks AMQP, if it does: a port.
    """

    name: str
    version: str
    port: int
    login: str
    passcode: str
    pids: dict[str, int]
    fsync: str
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    amqp: int = 0


@dataclass(frozen=True, slots=True)
class Installation:
    """A prepared Msgweb installation whose Postgres runs.

    Attributes:
        env: the environment of its processes.
        conninfo: libpq connection string of its database.
    """

    home: Path
    env: dict[str, str]
    stomp: int
    version: str
    conninfo: str
    postgres: "subprocess.Popen[bytes]"


@contextmanager
def installation() -> Iterator[Installation]:
    """The embedded Postgres (fsync on) in a temporary folder, migrated.

    Raises:
        BenchError: a process ended, or did not serve in time.
        CannotStart: the embedded Postgres is not there.
    """
    with ExitStack() as stack:
        # In /tmp itself: as root the embedded server runs as somebody else, who must be able to enter.
        home = Path(tempfile.mkdtemp(prefix="msgweb-bench-", dir=_temporary())).resolve()
        stack.callback(_remove_installation, home)
        http, stomp = free_ports(2)
        env = dict(
            os.environ, MSGWEB_HOME=str(home), MSGWEB_HTTP=f"127.0.0.1:{http}", MSGWEB_STOMP=f"127.0.0.1:{stomp}"
        )
        env.pop("DATABASE_URL", None)
        cluster = open_cluster(home)
        log = home / "postgres.log"
        postgres = stack.enter_context(_process("Postgres", programs.command("postgres"), env, log, signal.SIGINT))
        _until(cluster.answers, postgres, "the embedded Postgres", log)
        cluster.make_database()
        ended = subprocess.run(
            [sys.executable, str(REPOSITORY / "manage.py"), "prepare", "--no-samples"],
            cwd=REPOSITORY,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise BenchError(f"manage.py prepare failed:\n{ended.stdout}{ended.stderr}")
        yield Installation(home, env, stomp, cluster.binaries.version, cluster.conninfo(), postgres)


@contextmanager
def gateway(place: Installation, login: str, passcode: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A gateway process of an installation.

    Raises:
        BenchError: it ended, or did not serve in time.
    """
    log = place.home / "stomp.log"
    with _process("gateway", programs.command("stomp"), place.env, log, signal.SIGTERM) as process:
        _until(lambda: _greets(place.stomp, login, passcode), process, "the gateway", log)
        yield process


@contextmanager
def ours() -> Iterator[Broker]:
    """Msgweb as `make run` starts it, without web and worker: embedded Postgres and one gateway.

    Raises:
        BenchError: a process ended, or did not serve in time.
        CannotStart: the embedded Postgres is not there.
    """
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        key = json.loads((place.home / "credentials.json").read_text())["stomp"]
        served = stack.enter_context(gateway(place, key["login"], key["passcode"]))
        version = f"{_commit()}, PostgreSQL {place.version}, Python {sys.version.split()[0]}"
        pids = {"gateway": served.pid, "postgres": place.postgres.pid}
        yield Broker(
            "Msgweb", version, place.stomp, key["login"], key["passcode"], pids, "fsync on, synchronous_commit on"
        )


@contextmanager
def ours_in_both_dialects() -> Iterator[list[Broker]]:
    """One Msgweb with a listener for each dialect.

    Raises:
        BenchError: a process ended, or did not serve in time.
        CannotStart: the embedded Postgres is not there.
    """
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        key = json.loads((place.home / "credentials.json").read_text())["stomp"]
        (other,) = free_ports(1)
        place.env["MSGWEB_STOMP_LISTENERS"] = f"stomp://127.0.0.1:{other}?dialect=activemq"
        served = stack.enter_context(gateway(place, key["login"], key["passcode"]))
        first = Broker(
            "Msgweb",
            f"{_commit()}, PostgreSQL {place.version}",
            place.stomp,
            key["login"],
            key["passcode"],
            {"gateway": served.pid, "postgres": place.postgres.pid},
            "fsync on, synchronous_commit on",
        )
        yield [first, replace(first, name="Msgweb, dialect=activemq", port=other)]


def why_no_rabbitmq() -> str | None:
    """What is missing for the peer, in one line, or None."""
    if not _rabbitmq_server():
        return "RabbitMQ is not installed, so there is nothing to compare with: apt-get install rabbitmq-server"
    if not shutil.which("epmd"):
        return "Erlang's epmd, which RabbitMQ needs, is not in PATH: apt-get install erlang-base"
    return None


def _rabbitmq_server() -> str | None:
    return str(DEBIAN_RABBITMQ) if DEBIAN_RABBITMQ.exists() else shutil.which("rabbitmq-server")


@contextmanager
def rabbitmq() -> Iterator[Broker]:
    """RabbitMQ with its STOMP plugin and its defaults otherwise; touches no service and no folder of the system.

    It listens on loopback alone, with an epmd of its own: one that it starts by itself would stay behind.

    Raises:
        BenchError: it ended, or did not serve in time.
    """
    program = _rabbitmq_server()
    assert program is not None
    account = _rabbitmq_account()
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="rabbitmq-bench-", dir=_temporary())).resolve()
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        amqp, stomp, distribution, epmd_port = free_ports(4)
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
            f"stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n"
            "disk_free_limit.absolute = 1GB\n"
            "log.file.level = warning\n"
        )
        (home / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
        (home / "env.conf").touch()
        (home / "mnesia").mkdir()
        (home / "log").mkdir()
        for path in (home, *home.rglob("*")):
            account.own(path)
        env = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        env |= {
            "HOME": str(home),  # with an Erlang cookie of its own
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": f"msgweb_bench_{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(amqp),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(home / "none" / "*.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
        }
        epmd = ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"]
        as_account = account.subprocess_options()
        stack.enter_context(_process("epmd", epmd, env, home / "epmd.log", signal.SIGTERM, home, as_account))
        log = home / "server.log"
        server = stack.enter_context(_process("RabbitMQ", [program], env, log, signal.SIGTERM, home, as_account))
        _until(lambda: _greets(stomp, "guest", "guest"), server, "RabbitMQ", log)
        name = f"{_package_version('rabbitmq-server')}, Erlang {_package_version('erlang-base')}"
        pids = {"rabbitmq": server.pid}
        yield Broker("RabbitMQ", name, stomp, "guest", "guest", pids, "its defaults: durable classic queues", amqp=amqp)


def quorum(rabbitmq: Broker) -> Broker:
    """The same RabbitMQ with its replicated queues, of one replica here: they log to disk in groups."""
    headers = ("--send-header", "x-queue-type:quorum", "--subscribe-header", "x-queue-type:quorum")
    durable = ("--send-header", "durable:true", "--subscribe-header", "durable:true")
    more = ("--send-header", "auto-delete:false", "--subscribe-header", "auto-delete:false")
    return replace(rabbitmq, name="RabbitMQ quorum", fsync="quorum queues", arguments={"": headers + durable + more})


def why_no_activemq() -> str | None:
    """What is missing for the second peer, in one line, or None."""
    if not ACTIVEMQ.exists() or not shutil.which("java"):
        return "ActiveMQ is not installed, so it is not in the table: apt-get install activemq"
    return None


@contextmanager
def activemq() -> Iterator[Broker]:
    """ActiveMQ with STOMP over NIO and its KahaDB store; touches no service and no folder of the system.

    Two settings differ from its defaults, since without them it measures something else: no thread for each
    destination, and TCP_NODELAY.

    Raises:
        BenchError: it ended, or did not serve in time.
    """
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="activemq-bench-", dir=_temporary())).resolve()
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        (port,) = free_ports(1)
        (home / "conf").mkdir()
        (home / "conf" / "activemq.xml").write_text(_ACTIVEMQ_XML.replace("PORT", str(port)))
        command = [
            *(
                "java",
                "-Xmx1G",
                "-Dorg.apache.activemq.UseDedicatedTaskRunner=false",
                "-Djava.util.logging.config.file=",
            ),
            *(
                f"-Dactivemq.home={ACTIVEMQ.parent.parent}",
                f"-Dactivemq.base={home}",
                f"-Dactivemq.conf={home / 'conf'}",
            ),
            *("-jar", str(ACTIVEMQ), "start", f"xbean:file:{home / 'conf' / 'activemq.xml'}"),
        ]
        log = home / "server.log"
        server = stack.enter_context(_process("ActiveMQ", command, dict(os.environ), log, signal.SIGTERM, home))
        _until(lambda: _greets(port, "guest", "guest"), server, "ActiveMQ", log)
        arguments = {"": ("--prefetch-header", "activemq.prefetchSize"), "rpc": ("--reply", "temp")}
        version = _package_version("activemq")
        pids = {"activemq": server.pid}
        yield Broker("ActiveMQ", version, port, "guest", "guest", pids, "its defaults: KahaDB, synced", arguments)


_ACTIVEMQ_XML = """<beans xmlns="http://www.springframework.org/schema/beans"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
    http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
    http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <bean class="org.springframework.beans.factory.config.PropertyPlaceholderConfigurer"/>
  <broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" brokerName="localhost"
    dataDirectory="${activemq.base}/data">
    <persistenceAdapter><kahaDB directory="${activemq.base}/data/kahadb"/></persistenceAdapter>
    <transportConnectors><transportConnector name="stomp"
      uri="stomp+nio://127.0.0.1:PORT?transport.closeAsync=false&amp;transport.tcpNoDelay=true"/></transportConnectors>
  </broker>
</beans>
"""


def _rabbitmq_account() -> Account:
    """Whom it runs as: ourselves, or the package's own account where we are root."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), str(os.geteuid()), other=False)
    import pwd

    try:
        entry = pwd.getpwnam("rabbitmq")
    except KeyError:
        return Account(0, 0, "root", other=False)
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, other=True)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def _process(
    name: str,
    command: list[str],
    env: dict[str, str],
    log: Path,
    how: signal.Signals,
    folder: Path = REPOSITORY,
    options: dict[str, Any] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own (a Ctrl-C reaches us alone), ended by that signal and at last by force."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(options or {}),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{name} did not stop within {STOP_SECONDS:g} s and was killed", file=sys.stderr)
        try:
            os.killpg(process.pid, signal.SIGKILL)  # whatever of its children is left
        except ProcessLookupError:
            pass  # nothing is
        process.wait()


def _until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str, log: Path) -> None:
    """Wait for something in another process, which cannot call us back."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None:
            raise BenchError(f"{what} ended with code {process.returncode}:\n{log.read_text(errors='replace')}")
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not serve in {START_SECONDS:g} s:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def _greets(port: int, login: str, passcode: str) -> bool:
    """Whether a STOMP server there lets us in."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(STOMP_GREETING % (login.encode(), passcode.encode()))
            return connection.recv(4096).startswith(b"CONNECTED")
    except OSError:
        return False


def _remove_installation(home: Path) -> None:
    place = (home / "postgres").resolve()
    sockets = database.embedded_socket_dir(home)
    for folder in (home, place, sockets):
        shutil.rmtree(folder, ignore_errors=True)


def _temporary() -> str:
    """Where any account can enter; both brokers write to this one disk."""
    return "/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()


def _said(*command: str) -> str:
    try:
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    except OSError:
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def _commit() -> str:
    return f"commit {_said('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}"


def _package_version(package: str) -> str:
    return _said("dpkg-query", "-W", "-f", "${Version}", package) or "of unknown version"
