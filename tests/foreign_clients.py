"""STOMP clients of other authors, in their own languages, and what they need; see `tests/acceptance/clients`.

Each client is a program with three steps, which says its facts one a line: `talk` (send, receive, ack, nack, commit,
abort), `beat` (wait idly, with heart-beats in both directions) and `reconnect` (lose the server, go on).
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from msgweb.home import REPOSITORY
from tests.programs import Program

FOLDER = REPOSITORY / "tests/acceptance/clients"
INSTALL_SECONDS = 300


@dataclass(frozen=True)
class ForeignClient:
    """A client library.

    Attributes:
        name: of the library, for the test's id.
        needs: what it needs beside Python, as `conftest.NEEDS` calls it.
        command: how its program is started.
        version: of STOMP.
        websocket: it comes over WebSocket, not over bare TCP.
        tls: it can, with what is installed here.
        nacks, beats: whether the library can at all, in this version.
        note: a header's value that it is to pass through, in JSON; a simpler one where the library itself would garble
            the hardest.
        arguments: of the program, beside those that all have.
        provide: installs what it is made of into a folder, and says which variables the program needs.
    """

    name: str
    needs: str | None
    command: tuple[str, ...]
    version: str
    nacks: bool = True
    beats: bool = True
    note: str = r'"a:b\\c\nd"'
    websocket: bool = False
    tls: bool = True
    arguments: tuple[str, ...] = ()
    provide: "Callable[[Path], dict[str, str]] | None" = None

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


def stomp_py_8(cache: Path) -> dict[str, str]:
    """stomp.py 8 from the package index, in front of the release that the server's own client uses."""
    lock = FOLDER / "stomp_py_8.txt"
    folder = cache / f"stomp_py-{_digest(lock)}"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    _once(folder, (*pip, "--require-hashes", "-r", str(lock), "--target", "."))
    return {"PYTHONPATH": str(folder)}


def stompjs(cache: Path) -> dict[str, str]:
    """The npm packages; the programs that use them lie beside them, where Node looks for their imports."""
    source = FOLDER / "stompjs"
    folder = cache / f"stompjs-{_digest(*sorted(source.iterdir()))}"
    _once(folder, ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"), *source.iterdir())
    return {"STOMPJS": str(folder)}


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _once(folder: Path, command: tuple[str, ...], *files: Path) -> None:
    """Make the folder with these files and the command, unless it is there; all or nothing."""
    if folder.is_dir():
        return
    making = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for file in files:
        shutil.copy(file, making)
    done = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        shutil.rmtree(making)
        report = pytest.fail if os.environ.get("MSGWEB_REQUIRE_ALL") == "1" else pytest.skip
        report(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    try:
        making.rename(folder)
    except OSError:
        assert folder.is_dir(), f"{folder} could not be made"  # another session was quicker
        shutil.rmtree(making)


def _ruby(version: str) -> ForeignClient:
    old = version == "1.0"
    return ForeignClient(
        "ruby-stomp",
        "ruby-stomp",
        ("ruby", str(FOLDER / "stomp_gem.rb")),
        version,
        nacks=not old,
        beats=not old,
        note='"a:b"' if old else r'"a:b\nd"',
    )


def _stomp_py(release: str, version: str) -> ForeignClient:
    old = version == "1.0"
    return ForeignClient(
        f"stomp.py-{release}",
        None,
        (sys.executable, str(FOLDER / "stomp_py.py")),
        version,
        nacks=not old,
        beats=not old,
        note='"a:b"' if old else r'"a:b\\c\nd"',
        provide=stomp_py_8 if release == "8" else None,
    )


def _stompjs(version: str, transport: str) -> ForeignClient:
    note = r'"a:b\nd"' if version == "1.2" else '"plain"'
    return ForeignClient(
        f"stompjs-{transport}",
        "npm",
        ("node", "node.mjs"),
        version,
        note=note,
        websocket=transport == "ws",
        tls=transport == "ws",
        arguments=(transport,),
        provide=stompjs,
    )


PHP = ("php", "-d", "display_errors=stderr")

CLIENTS = [
    ForeignClient("php-socket", "php", (*PHP, str(FOLDER / "socket.php")), "1.2"),
    # Debian builds it without TLS. It speaks 1.0 alone, which has no heart-beats, and takes a blank line before a
    # command for an error.
    ForeignClient("php-pecl", "php", (*PHP, str(FOLDER / "pecl.php")), "1.0", beats=False, tls=False, note=r'"a:b\\c"'),
    *(_stomp_py("9", version) for version in ("1.0", "1.1", "1.2")),
    *(_stomp_py("8", version) for version in ("1.0", "1.1", "1.2")),
    *(_ruby(version) for version in ("1.0", "1.1", "1.2")),
    # It neither escapes nor unescapes, and cuts the blanks around a colon off.
    *(
        ForeignClient("net-stomp", "net-stomp", ("perl", str(FOLDER / "net_stomp.pl")), version, note="plain")
        for version in ("1.1", "1.2")
    ),
    *(_stompjs(version, transport) for transport in ("tcp", "ws") for version in ("1.1", "1.2")),
]


#: A heart-beat on the wire: over WebSocket it is a message of one byte, which a client masks.
BEATS = {
    ("client", False): re.compile(rb"\n"),
    ("server", False): re.compile(rb"\n"),
    ("client", True): re.compile(rb"[\x81\x82]\x81.{5}", re.DOTALL),
    ("server", True): re.compile(rb"[\x81\x82]\x01\n"),
}


class Proxy:
    """A TCP proxy of one connection that sees what passes.

    Attributes:
        port: where the client is to connect.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._passed = {"client": bytearray(), "server": bytearray()}
        self._changed = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def forget(self) -> None:
        """Start counting anew."""
        with self._changed:
            for passed in self._passed.values():
                passed.clear()

    def await_beats(self, side: str, beat: "re.Pattern[bytes]", count: int, seconds: float) -> None:
        """Wait until that side ("client" or "server") has sent so many since `forget`, and nothing else.

        Raises:
            AssertionError: it did not in time, or it sent something else.
        """
        passed = self._passed[side]
        with self._changed:
            enough = self._changed.wait_for(lambda: len(beat.findall(passed)) >= count, seconds)
            assert enough, f"{count} beats of the {side} were expected, and {bytes(passed)!r} came"
            rest = beat.sub(b"", passed)
            assert not rest, f"beats alone were expected of the {side}: {bytes(passed)!r}"

    def close(self) -> None:
        """End both connections."""
        for one in (self._listening, *self._sockets):
            _end(one)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:
            return  # closed before anybody came
        server = socket.create_connection(("127.0.0.1", self._server_port))
        self._sockets += [client, server]
        for side, source, target in (("client", client, server), ("server", server, client)):
            thread = threading.Thread(target=self._pump, args=(self._passed[side], source, target))
            self._threads.append(thread)
            thread.start()

    def _pump(self, passed: bytearray, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                with self._changed:
                    passed += data
                    self._changed.notify_all()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of them has gone


def _end(one: socket.socket) -> None:
    """Close a socket that another thread may be waiting on."""
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was not connected, or no longer
    one.close()


class Conversations:
    """Starts clients, and ends those that a test leaves behind."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._started: list[Program] = []

    def start(
        self,
        client: ForeignClient,
        step: str,
        port: int,
        login: str,
        passcode: str,
        queue: str,
        authority: Path | None = None,
    ) -> Program:
        """Start one step; over TLS, where an authority is to be trusted."""
        variables = self.provided(client.provide) if client.provide is not None else {}
        program = Program(
            [*client.command, step, str(port), login, passcode, queue, client.version, *client.arguments],
            {**os.environ, **variables, **({"STOMP_CA": str(authority)} if authority is not None else {})},
            cwd=Path(variables["STOMPJS"]) if "STOMPJS" in variables else None,
        )
        self._started.append(program)
        return program

    def provided(self, provide: Callable[[Path], dict[str, str]]) -> dict[str, str]:
        """Where what a client is made of was installed."""
        return provide(self._cache)

    def close(self) -> None:
        """End them all."""
        for program in self._started:
            program.close()


@pytest.fixture
def conversations(pytestconfig: pytest.Config) -> Iterator[Conversations]:
    """Foreign clients; what they are made of is installed once and kept in pytest's cache."""
    assert pytestconfig.cache is not None
    conversations = Conversations(pytestconfig.cache.mkdir("clients"))
    yield conversations
    conversations.close()
