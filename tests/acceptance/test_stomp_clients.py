"""The STOMP clients that people have, against real gateways: each sends, receives, acks, nacks, transacts, beats, and
goes on after the gateway was killed. What each says is in `tests/acceptance/clients`."""

import functools
import shutil
import threading
from collections.abc import Iterable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from playwright.sync_api import Browser, Page, sync_playwright

from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.protocol.heartbeat import HeartBeat
from tests.foreign_clients import BEATS, CLIENTS, Conversations, ForeignClient, Proxy, conversations, stompjs
from tests.installation import Installation, free_ports
from tests.stomp_gateway import SECONDS, RunningGateway, WireClient, queue, stomp_database

__all__ = ["conversations", "queue", "stomp_database"]  # fixtures

GUEST = ("guest", "a:secret")


@pytest.fixture(scope="module")
def both(stomp_database: str) -> Iterator[RunningGateway]:
    """A gateway that listens for TCP and for WebSocket, and beats often."""
    options = GatewayOptions(heart_beat=HeartBeat(100, 100))
    listeners = ("stomp://127.0.0.1:0", "ws://127.0.0.1:0/ws")
    with RunningGateway(stomp_database, options, listeners=listeners) as running:
        yield running


def each(clients: list[ForeignClient]) -> Any:
    """A parameter for each client, skipped where what it needs is missing."""
    return [
        pytest.param(client, marks=[pytest.mark.needs(client.needs)] if client.needs else [], id=str(client))
        for client in clients
    ]


def newest(clients: Iterable[ForeignClient]) -> list[ForeignClient]:
    """Each library once, in the newest version of STOMP that it speaks."""
    return list({client.name: client for client in clients}.values())


@pytest.mark.parametrize("client", each(CLIENTS))
def test_it_sends_receives_acks_nacks_and_transacts(
    client: ForeignClient, conversations: Conversations, both: RunningGateway, queue: str
) -> None:
    program = conversations.start(client, "talk", both.ports[client.websocket], *GUEST, queue)
    assert program.wait() == 0, program.output
    assert program.lines == said_in_talk(client.version, client.note, nacks=client.nacks)
    assert_nothing_is_left(both, queue)


def said_in_talk(version: str, note: str, *, nacks: bool = True) -> list[str]:
    """What a client says in the step `talk`."""
    first = [f"connected {version}", "sent", "received one two drei ß", f"note {note}"]
    return [*first, *(["again drei ß true"] if nacks else []), "committed four five", "bye"]


def assert_nothing_is_left(gateway: RunningGateway, queue: str) -> None:
    """Neither what was acked nor what was aborted is in the queue."""
    wire = gateway.connected()
    wire.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    wire.confirmed("SEND", b"the only one", destination=queue)
    assert wire.expect("MESSAGE").body == b"the only one"


@pytest.mark.parametrize("client", each([client for client in CLIENTS if client.beats]))
def test_it_beats_and_is_beaten_to_while_it_waits(
    client: ForeignClient, conversations: Conversations, both: RunningGateway, queue: str
) -> None:
    proxy = Proxy(both.ports[client.websocket])
    try:
        program = conversations.start(client, "beat", proxy.port, *GUEST, queue)
        program.wait_for("idle")
        proxy.forget()
        for side in ("client", "server"):
            proxy.await_beats(side, BEATS[side, client.websocket], 4, SECONDS)
        both.connected().confirmed("SEND", b"enough", destination=queue)
        assert program.wait() == 0, program.output
        assert program.lines == ["idle", "woken enough", "bye"]
    finally:
        proxy.close()


@pytest.mark.parametrize("client", each(newest(client for client in CLIENTS if client.tls)))
def test_it_does_the_same_over_tls(
    client: ForeignClient, conversations: Conversations, stomp_database: str, queue: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = f"certificate={tmp_path / 'server.pem'}&key={tmp_path / 'server.pem'}"
    listener = f"wss://127.0.0.1:0/ws?{files}" if client.websocket else f"stomps://127.0.0.1:0?{files}"
    with RunningGateway(stomp_database, listeners=(listener,)) as gateway:
        program = conversations.start(client, "talk", gateway.port, *GUEST, queue, tmp_path / "ca.pem")
        assert program.wait() == 0, program.output
        assert program.lines == said_in_talk(client.version, client.note, nacks=client.nacks)


SURVIVED = ["holding second", "again second true", "received third", "bye"]


class Killed:
    """An installation whose gateway, with a port for TCP and one for WebSocket, is to be killed under a client."""

    queue = "/queue/orders"

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.ports = (installation.stomp.port, *free_ports(1))
        key = installation.credentials["stomp"]
        self.key: tuple[str, str] = (key["login"], key["passcode"])
        self._start()
        wire = WireClient(self.ports[0])
        wire.send("CONNECT", accept_version="1.2", login=self.key[0], passcode=self.key[1])
        wire.expect("CONNECTED")
        for body in (b"first", b"second"):
            wire.confirmed("SEND", body, destination=self.queue, persistent="true")
        wire.close()

    def _start(self) -> None:
        listeners = (f"stomp://127.0.0.1:{self.ports[0]}", f"ws://127.0.0.1:{self.ports[1]}/ws")
        self._installation.start("stomp", arguments=tuple(word for url in listeners for word in ("--listen", url)))

    def kill_and_start(self) -> None:
        """SIGKILL, and another gateway on the same ports."""
        self._installation.kill("stomp")
        self._start()

    def left(self) -> int:
        """How many messages the database holds."""
        [(count,)] = self._installation.query("SELECT count(*) FROM msgweb.message")
        return int(count)


@pytest.fixture
def killed(installation: Installation) -> Killed:
    return Killed(installation)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("client", each(newest(CLIENTS)))
def test_it_goes_on_where_it_was_after_the_gateway_was_killed(
    client: ForeignClient, conversations: Conversations, killed: Killed
) -> None:
    program = conversations.start(client, "reconnect", killed.ports[client.websocket], *killed.key, killed.queue)
    program.wait_for("holding second")
    killed.kill_and_start()
    assert program.wait() == 0, program.output
    assert program.lines == SURVIVED
    assert killed.left() == 0


class Tab:
    """A browser's tab with the page that drives stompjs."""

    def __init__(self, page: Page, address: str) -> None:
        self._page = page
        page.set_default_timeout(SECONDS * 1000)
        page.goto(f"{address}/browser.html")
        page.wait_for_function("window.ready")

    def start(self, step: str, port: int, login: str, passcode: str, queue: str, version: str = "1.2") -> None:
        """Start one step."""
        self._page.evaluate("asked => start(...asked)", [step, port, login, passcode, queue, version])

    def wait_for(self, fact: str) -> list[str]:
        """Everything said so far, once the fact or an error is among it."""
        self._page.wait_for_function("fact => facts.some(one => one === fact || one.startsWith('error'))", arg=fact)
        said: list[str] = self._page.evaluate("facts")
        return said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def tab(browser: Browser, conversations: Conversations) -> Iterator[Tab]:
    folder = conversations.provided(stompjs)["STOMPJS"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    page = browser.new_page()
    try:
        yield Tab(page, f"http://127.0.0.1:{server.server_port}")
    finally:
        page.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.needs("chromium", "npm")
@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_browser_sends_receives_acks_nacks_and_transacts(
    version: str, tab: Tab, both: RunningGateway, queue: str
) -> None:
    tab.start("talk", both.ports[1], *GUEST, queue, version)
    assert tab.wait_for("bye") == said_in_talk(version, r'"a:b\nd"' if version == "1.2" else '"plain"')
    assert_nothing_is_left(both, queue)


@pytest.mark.needs("chromium", "npm")
def test_a_browser_beats_and_is_beaten_to_while_it_waits(tab: Tab, both: RunningGateway, queue: str) -> None:
    proxy = Proxy(both.ports[1])
    try:
        tab.start("beat", proxy.port, *GUEST, queue)
        tab.wait_for("idle")
        proxy.forget()
        for side in ("client", "server"):
            proxy.await_beats(side, BEATS[side, True], 4, SECONDS)
        both.connected().confirmed("SEND", b"enough", destination=queue)
        assert tab.wait_for("bye") == ["idle", "woken enough", "bye"]
    finally:
        proxy.close()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.needs("chromium", "npm")
def test_a_browser_goes_on_where_it_was_after_the_gateway_was_killed(tab: Tab, killed: Killed) -> None:
    tab.start("reconnect", killed.ports[1], *killed.key, killed.queue)
    tab.wait_for("holding second")
    killed.kill_and_start()
    assert tab.wait_for("bye") == SURVIVED
    assert killed.left() == 0
