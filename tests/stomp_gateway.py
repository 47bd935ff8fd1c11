"""A STOMP gateway inside the test's process, on a real engine and database, and a client that sees every byte."""

import asyncio
import contextlib
import socket
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pytest
import uvloop

from apps.broker.postgres import PostgresEngine
from apps.stomp.gateway.access import AccountAuthenticator
from apps.stomp.gateway.access_watch import AccessWatch
from apps.stomp.gateway.listeners import parse_listener
from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.gateway.ports import Credentials, Principal, TaskPort
from apps.stomp.gateway.queue_port import Queues
from apps.stomp.gateway.server import Gateway
from msgweb.errors import AccessRefused
from tests.installation import Postgres, Template
from tests.unguarded.base import alias_of
from workers.outside import OutsideDesk

T = TypeVar("T")

SECONDS = 20.0  # a deadline for a loaded machine, not an expectation
NAMESPACE = "firebrand.development"
OTHER_NAMESPACE = "taoshop.development"


class OneKey:
    """An `Authenticator` of one login; the real one has tests of its own."""

    def __init__(self) -> None:
        self.shown: list[Credentials] = []

    def remembered(self, credentials: Credentials) -> Principal | None:
        """It remembers nobody."""
        return None

    async def authenticate(self, credentials: Credentials) -> Principal:
        """`guest` with the passcode `a:secret`, in the namespace that `host` names, else the default one."""
        self.shown.append(credentials)
        if (credentials.login, credentials.passcode) != ("guest", "a:secret"):
            raise AccessRefused("the login or the passcode is wrong, or the key was revoked")
        default = credentials.namespace or NAMESPACE
        return Principal("guest", OTHER_NAMESPACE if credentials.host == OTHER_NAMESPACE else default)

    async def look_again(self, principals: Iterable[Principal]) -> dict[Principal, Principal]:
        """Nothing changes."""
        return {principal: principal for principal in principals}

    def forget(self) -> None:
        """Nothing is remembered."""


class Frame(NamedTuple):
    """A frame from the server. `lines` are the header lines as they came."""

    command: str
    lines: list[bytes]
    body: bytes

    def __getitem__(self, name: Any) -> Any:
        for line in self.lines:
            found, _, value = line.partition(b":")
            if found.decode() == name:
                return value.decode()
        raise KeyError(f"{name} in {self}")

    def get(self, name: str) -> str | None:
        """A header's value, or None."""
        try:
            value: str = self[name]
        except KeyError:
            return None
        return value


class WireClient:
    """A blocking STOMP client on a bare socket. It reads as PECL stomp does: a frame ends with NUL LF, exactly."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._rest = b""
        self._early: deque[Frame] = deque()

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def send(self, command: str, /, body: bytes = b"", **headers: Any) -> None:
        """A frame; underscores in header names of lower case become hyphens."""
        names = {name: name.replace("_", "-") if name.islower() else name for name in headers}
        lines = "".join(f"{names[name]}:{value}\n" for name, value in headers.items())
        self.write(f"{command}\n{lines}\n".encode() + body + b"\0")

    def connect(self, version: str = "1.2", **headers: Any) -> Frame:
        """CONNECT with the good login; the CONNECTED."""
        self.send("CONNECT", accept_version=version, login="guest", passcode="a:secret", **headers)
        return self.expect("CONNECTED")

    def confirmed(self, command: str, /, body: bytes = b"", **headers: Any) -> None:
        """A frame with a receipt, and its RECEIPT. Messages that come before it are kept for `read`."""
        receipt = uuid.uuid4().hex
        self.send(command, body, receipt=receipt, **headers)
        while (frame := self._read()).command == "MESSAGE":
            self._early.append(frame)
        assert (frame.command, frame.get("receipt-id")) == ("RECEIPT", receipt), frame

    def read(self) -> Frame:
        """The next frame. Fails on a beat before it, on a wrong end, and at the end of the stream."""
        return self._early.popleft() if self._early else self._read()

    def _read(self) -> Frame:
        head = self._until(b"\n\n")
        lines = head.split(b"\n")
        assert lines[0].isalpha() and lines[0].isupper(), f"a command was expected: {head!r}"
        frame = Frame(lines[0].decode(), lines[1:], b"")
        length = frame.get("content-length")
        body = self._until(b"\0") if length is None else self._take(int(length))
        end = b"\n" if length is None else b"\0\n"
        assert self._take(len(end)) == end, "a frame ends with NUL LF"
        return frame._replace(body=body)

    def expect(self, command: str) -> Frame:
        """The next frame, which must be of that command."""
        frame = self.read()
        assert frame.command == command, frame
        return frame

    def expect_error(self, code: str) -> Frame:
        """The next frame, which must be an ERROR with that code and a message."""
        frame = self.expect("ERROR")
        assert frame["code"] == code, frame
        assert frame["message"]
        assert b"Traceback" not in frame.body
        return frame

    def expect_end(self) -> None:
        """The server says nothing more and closes its side."""
        assert not self._rest and not self._early
        assert self.socket.recv(100) == b""

    def beat(self) -> None:
        """The next byte, which must be a heart-beat."""
        assert self._take(1) == b"\n"

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        if self._rest or self._early:
            return False
        self.socket.settimeout(seconds)
        try:
            self._rest = self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(SECONDS)
        return False

    def close(self) -> None:
        """Close the socket without a word."""
        self.socket.close()

    def _fill(self) -> None:
        data = self.socket.recv(1 << 18)
        assert data, f"the server closed the connection after {self._rest!r}"
        self._rest += data

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._fill()
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._fill()
        found, _, self._rest = self._rest.partition(mark)
        return found


class RunningGateway:
    """A gateway on an event loop in a thread of its own.

    Attributes:
        port: where it listens, first; `ports` are those of all listeners.
    """

    def __init__(
        self,
        conninfo: str,
        options: GatewayOptions | None = None,
        tasks: TaskPort | None = None,
        listeners: Sequence[str] = ("stomp://127.0.0.1:0",),
        accounts: bool = False,
        jobs: bool = False,
    ) -> None:
        """With `accounts`, log-in is by the real keys of Django's database, and changes of access are heard. With
        `jobs`, clients may work on jobs."""
        self._conninfo = conninfo
        self._listeners = [parse_listener(url, options) for url in listeners]
        self._tasks = tasks
        self._accounts = accounts
        self._jobs = jobs
        self._clients: list[WireClient] = []
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")

    def __enter__(self) -> "RunningGateway":
        self._thread.start()
        self.run(self._start)
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self._clients:
            client.close()
        self.run(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the gateway's loop."""

        async def call() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(SECONDS)

    def client(self) -> WireClient:
        """A client that has said nothing yet; closed at the end."""
        client = WireClient(self.port)
        self._clients.append(client)
        return client

    def keep(self, *clients: WireClient) -> None:
        """Close them at the end."""
        self._clients += clients

    def connected(self, version: str = "1.2", **headers: Any) -> WireClient:
        """A client that is logged in."""
        client = self.client()
        client.connect(version, **headers)
        return client

    async def _start(self) -> None:
        self.engine = PostgresEngine(self._conninfo, kind="gateway")
        await self.engine.start()
        self.authenticator: Any = AccountAuthenticator() if self._accounts else OneKey()
        self.queues = Queues(alias_of(self._conninfo))
        self.desk = OutsideDesk(self._conninfo, poll_seconds=0.2)
        work = self.desk if self._jobs else None
        self.gateway = Gateway(self.engine, self.authenticator, self._tasks, self.queues, work=work)
        self.ports = [await self.gateway.listen(listener) for listener in self._listeners]
        self.port = self.ports[0]
        self.watch = AccessWatch(self._conninfo, self.authenticator, self.gateway)
        if self._accounts:
            self.watch.start()
            self.gateway.sharing.start()

    async def _stop(self) -> None:
        await self.watch.close()
        await self.gateway.drain(0)
        await self.desk.close()
        if self._accounts:
            self.authenticator.close()
        await self.engine.close()
        self.queues.close()


@pytest.fixture(scope="session")
def stomp_database(postgres: Postgres, template: Template) -> Iterator[str]:
    """A migrated database for the gateways of this session; its destinations are shared, so name them uniquely."""
    with postgres.copy_of(template) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def gateway(stomp_database: str) -> Iterator[RunningGateway]:
    """A gateway with the default options, for all tests."""
    with RunningGateway(stomp_database) as running:
        yield running


@pytest.fixture
def queue() -> str:
    """A queue of the test's own."""
    return f"/queue/test.{uuid.uuid4().hex}"


@pytest.fixture
def topic() -> str:
    """A topic of the test's own."""
    return f"/topic/test.{uuid.uuid4().hex}"


@contextlib.contextmanager
def gateway_with(conninfo: str, **options: Any) -> Iterator[RunningGateway]:
    """A gateway of the test's own, with options of its own."""
    with RunningGateway(conninfo, GatewayOptions(**options)) as running:
        yield running
