"""TLS, WebSocket and the PROXY protocol, with real sockets and certificates."""

import asyncio
import contextlib
import ctypes
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from apps.stomp.gateway import connections, tls
from tests.installation import until
from tests.stomp_gateway import (
    NAMESPACE,
    OTHER_NAMESPACE,
    SECONDS,
    RunningGateway,
    WireClient,
    gateway,
    queue,
    stomp_database,
)

__all__ = ["gateway", "queue", "stomp_database"]  # fixtures

CONNECT = "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:a:secret\n\n\0"
LOGIN = CONNECT.encode()
SO_ATTACH_FILTER = 26  # Linux


class Files:
    """An authority, and the files of a server's certificate."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca, self.certificate, self.key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self.authority.cert_pem.write_to_path(self.ca)
        self.renew()

    def renew(self) -> None:
        """Another certificate in the same files."""
        made = self.authority.issue_cert("localhost", "127.0.0.1")
        self.certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        made.private_key_pem.write_to_path(self.key)

    @property
    def query(self) -> str:
        """For a listener's URL."""
        return f"certificate={self.certificate}&key={self.key}"

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """A client's side, with a certificate in that name."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if name is not None:
            self.authority.issue_cert(common_name=name).configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def serve(stomp_database: str) -> Iterator[Callable[..., RunningGateway]]:
    with contextlib.ExitStack() as stack:
        yield lambda *urls: stack.enter_context(RunningGateway(stomp_database, listeners=urls))


def secured(running: RunningGateway, context: ssl.SSLContext, port: int | None = None) -> WireClient:
    client = WireClient(port or running.port)
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
    running.keep(client)
    return client


def is_turned_away(client: WireClient) -> bool:
    """Whether nothing answers a log-in. In TLS 1.3 the client's handshake ends before the server has judged it."""
    try:
        client.write(LOGIN)
        return client.socket.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def serial(running: RunningGateway, files: Files) -> str:
    client = secured(running, files.client())
    assert isinstance(client.socket, ssl.SSLSocket)
    found = client.socket.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


# -- several listeners


def test_each_listener_has_its_own_dialect_namespace_and_limits(serve: Callable[..., RunningGateway]) -> None:
    running = serve(
        "stomp://127.0.0.1:0?prefetch=3", f"stomp://127.0.0.1:0?dialect=activemq&namespace={OTHER_NAMESPACE}&frame=2000"
    )
    one, other = WireClient(running.ports[0]), WireClient(running.ports[1])
    running.keep(one, other)
    assert "RabbitMQ" in one.connect()["server"]
    assert "ActiveMQ" in other.connect()["server"]
    assert [shown.namespace for shown in running.authenticator.shown] == [None, OTHER_NAMESPACE]
    one.confirmed("SEND", b"x" * 3000, destination="/queue/of-one")
    other.send("SEND", b"x" * 3000, destination="/queue/of-one")
    other.expect_error("limit_exceeded")


# -- TLS


def test_stomp_over_tls(serve: Callable[..., RunningGateway], files: Files, queue: str) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}")
    client = secured(running, files.client())
    client.connect()
    body = b"x" * 5_000_000
    client.confirmed("SUBSCRIBE", id="1", destination=queue)
    client.confirmed("SEND", body, destination=queue, content_length=len(body))
    assert client.expect("MESSAGE").body == body
    client.send("SEND", b"", destination="/nowhere/x", receipt="r")
    assert client.expect_error("bad_destination")["receipt-id"] == "r"
    client.expect_end()
    assert running.authenticator.shown[-1].certificate is None


def test_a_client_that_reads_and_writes_in_two_threads_is_heard(
    serve: Callable[..., RunningGateway], files: Files
) -> None:
    """stomp.py 8 reads in a thread of its own: a session ticket that came meanwhile made it lose its CONNECT."""
    running = serve(f"stomps://127.0.0.1:0?{files.query}")
    context = files.client()
    for _ in range(60):
        client = secured(running, context)
        client.socket.settimeout(SECONDS)
        heard: list[bytes] = []
        reader = threading.Thread(target=lambda heard=heard, tls=client.socket: heard.append(tls.recv(4096)))
        reader.start()
        client.write(LOGIN)
        reader.join()
        assert heard[0].startswith(b"CONNECTED\n")
        client.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="the delay of acknowledgements is a setting of Linux")
def test_the_last_word_of_a_handshake_is_acknowledged_at_once(
    serve: Callable[..., RunningGateway], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with Nagle's algorithm would hold back its CONNECT for as long as TCP puts off the acknowledgement."""
    quick: SimpleQueue[int] = SimpleQueue()

    def look(transport: asyncio.BaseTransport) -> None:
        tls.acknowledge_now(transport)
        quick.put(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

    monkeypatch.setattr(connections, "acknowledge_now", look)
    running = serve(f"stomps://127.0.0.1:0?{files.query}")
    client = secured(running, files.client())
    assert quick.get(timeout=SECONDS) == 1
    client.connect()


@pytest.mark.parametrize("required", ["optional", "required"])
def test_a_client_certificate_is_shown_to_who_checks_log_ins(
    serve: Callable[..., RunningGateway], files: Files, required: str
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}&client-ca={files.ca}&client-certificates={required}")
    secured(running, files.client("shop")).connect()
    certificate = running.authenticator.shown[-1].certificate
    assert certificate is not None
    assert (("commonName", "shop"),) in certificate["subject"]


def test_a_client_without_the_certificate_that_is_required_does_not_come_in(
    serve: Callable[..., RunningGateway], files: Files
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}&client-ca={files.ca}&client-certificates=required")
    client = secured(running, files.client())
    assert is_turned_away(client)


def test_a_certificate_of_another_authority_does_not_come_in(
    serve: Callable[..., RunningGateway], files: Files
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}&client-ca={files.ca}")
    context = files.client()
    trustme.CA().issue_cert(common_name="shop").configure_cert(context)
    assert is_turned_away(secured(running, context))


def test_certificates_are_read_again_and_open_connections_stay(
    serve: Callable[..., RunningGateway], files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}")
    old = secured(running, files.client())
    old.connect()
    before = serial(running, files)
    files.renew()
    assert serial(running, files) == before
    running.run(running.gateway.reload)
    after = serial(running, files)
    assert after != before
    files.key.write_text("garbage")
    running.run(running.gateway.reload)
    assert serial(running, files) == after
    assert "keeps its old certificate" in caplog.text
    old.confirmed("SEND", b"", destination="/queue/still-here")


def test_a_tls_handshake_that_does_not_come_ends_after_the_time_to_log_in(
    serve: Callable[..., RunningGateway], files: Files
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}&login-seconds=0.3")
    client = running.client()
    assert client.socket.recv(1) == b""


# -- WebSocket


@contextlib.contextmanager
def websocket(running: RunningGateway, path: str = "/ws", **options: object) -> Iterator[ClientConnection]:
    scheme = "wss" if "ssl" in options else "ws"
    host = "localhost" if "ssl" in options else "127.0.0.1"
    with connect(f"{scheme}://{host}:{running.port}{path}", proxy=None, compression=None, **options) as client:  # type: ignore[arg-type]
        yield client


def test_what_is_no_websocket_is_recognised_and_ended(
    serve: Callable[..., RunningGateway], caplog: pytest.LogCaptureFixture
) -> None:
    running = serve("ws://127.0.0.1:0")
    with caplog.at_level(logging.INFO):
        for stomp in (b"CONNECT\naccept-version:1.2\n\n\0", b"\r\nSTOMP\r\n"):
            client = running.client()
            client.write(stomp)
            client.expect_error("stomp_on_websocket_port")
            client.expect_end()
        client = running.client()
        client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500)
        client.expect_end()
        until(lambda: "tls_on_plain_port" in caplog.text, SECONDS, "one line in the log")
        assert caplog.text.count("reason=stomp_on_websocket_port") == 2


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", LOGIN, b"\x80 is nothing that anybody speaks, and long enough for a record"]
)
def test_what_is_no_tls_is_ended_and_logged(
    serve: Callable[..., RunningGateway], files: Files, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    running = serve(f"stomps://127.0.0.1:0?{files.query}")
    with caplog.at_level(logging.INFO):
        client = running.client()
        client.write(said)
        with contextlib.suppress(ConnectionResetError):
            assert client.socket.recv(100) == b""
        until(lambda: "plaintext_on_tls_port" in caplog.text, SECONDS, "one line in the log")


def test_a_browser_speaks_text_and_gets_text(serve: Callable[..., RunningGateway], queue: str) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running, subprotocols=[Subprotocol("v11.stomp"), Subprotocol("v12.stomp")]) as client:
        assert client.subprotocol == "v12.stomp"
        client.send(CONNECT)
        assert str(client.recv(SECONDS)).startswith("CONNECTED\n")
        client.send(f"SUBSCRIBE\nid:1\ndestination:{queue}\n\n\0")
        client.send(f"SEND\ndestination:{queue}\n\nGrüße\0")
        message = client.recv(SECONDS)
        assert isinstance(message, str) and "Grüße" in message
        client.send(f"SEND\ndestination:{queue}\n\n".encode() + b"\xff\xfe\0")
        message = client.recv(SECONDS)
        assert isinstance(message, bytes) and b"\xff\xfe\0\n" in message  # no text could hold it


def half_a_message(running: RunningGateway, first: bytes, sent: int) -> WireClient:
    """A WebSocket by hand: a message, then half of one of 16 MiB."""
    client = running.client()
    client.write(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.socket.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    if first:  # masked with zeros, which change nothing
        client.write(struct.pack("!BBH4x", 0x82, 0x80 | 126, len(first)) + first)
        assert b"CONNECTED\n" in client.socket.recv(65536)
    client.write(struct.pack("!BBQ4x", 0x82, 0x80 | 127, 16 * 1024 * 1024) + b"x" * sent)
    return client


def test_before_log_in_half_a_message_is_small_as_half_a_frame_is(serve: Callable[..., RunningGateway]) -> None:
    client = half_a_message(serve("ws://127.0.0.1:0"), b"", 100_000)
    client.socket.settimeout(SECONDS)
    assert b"limit_exceeded" in client.socket.recv(65536)


def test_half_a_message_counts_among_what_clients_do_not_finish(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0")
    client = half_a_message(running, LOGIN, 3_000_000)
    until(lambda: running.gateway.hoards.kept >= 3_000_000, SECONDS, "it is counted")
    client.close()
    until(lambda: running.gateway.hoards.kept == 0, SECONDS, "it is gone")


def test_a_client_that_speaks_binary_gets_binary(serve: Callable[..., RunningGateway], queue: str) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running) as client:
        assert client.subprotocol is None
        client.send(LOGIN)
        answer = client.recv(SECONDS)
        assert isinstance(answer, bytes) and answer.startswith(b"CONNECTED\n")


def test_frames_may_be_cut_over_messages_and_fragments(serve: Callable[..., RunningGateway], queue: str) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running) as client:
        for letter in CONNECT:
            client.send(letter)
        client.recv(SECONDS)
        client.send(iter(["SEND\ndestination:", queue, "\nrece", "ipt:r\n\nbody\0", "\n"]))
        assert "receipt-id:r" in str(client.recv(SECONDS))


def test_an_error_arrives_before_the_close(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running) as client:
        client.send(CONNECT)
        client.recv(SECONDS)
        client.send("SEND\ndestination:/nowhere/x\nreceipt:r\n\n\0")
        assert "code:bad_destination" in str(client.recv(SECONDS))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(SECONDS)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


def test_heart_beats_go_over_a_websocket(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running) as client:
        client.send(CONNECT.replace("login:", "heart-beat:0,100\nlogin:"))
        client.recv(SECONDS)
        assert client.recv(SECONDS) == "\n"


@pytest.mark.parametrize(
    ("query", "origin", "welcome"),
    [
        ("", None, True),
        ("", "http://127.0.0.1:8000", True),
        ("", "https://evil.example", False),
        ("?origins=https://shop.example", "https://shop.example", True),
        ("?origins=https://shop.example", "http://127.0.0.1:8000", False),
        ("?origins=https://shop.example", None, True),
        ("?origins=*", "https://anybody.example", True),
    ],
)
def test_pages_of_other_origins_are_turned_away(
    serve: Callable[..., RunningGateway], query: str, origin: str | None, welcome: bool
) -> None:
    running = serve(f"ws://127.0.0.1:0{query}")
    if welcome:
        with websocket(running, origin=origin) as client:
            client.send(CONNECT)
            assert str(client.recv(SECONDS)).startswith("CONNECTED\n")
    else:
        with pytest.raises(InvalidStatus) as refused, websocket(running, origin=origin):
            pass
        assert refused.value.response.status_code == 403


def test_another_path_is_not_found(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0/stomp")
    with pytest.raises(InvalidStatus) as refused, websocket(running, "/ws"):
        pass
    assert refused.value.response.status_code == 404
    with websocket(running, "/stomp"):
        pass


def test_plain_http_is_told_what_this_is(serve: Callable[..., RunningGateway]) -> None:
    running = serve("ws://127.0.0.1:0")
    client = running.client()
    client.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while part := client.socket.recv(1000):
        answer += part
    assert answer.startswith(b"HTTP/1.1 426 ")


def test_a_websocket_over_tls(serve: Callable[..., RunningGateway], files: Files) -> None:
    running = serve(f"wss://127.0.0.1:0?{files.query}")
    with websocket(running, ssl=files.client()) as client:
        client.send(CONNECT)
        assert str(client.recv(SECONDS)).startswith("CONNECTED\n")


def test_what_a_client_sent_before_it_closed_is_done(
    serve: Callable[..., RunningGateway], gateway: RunningGateway, queue: str
) -> None:
    running = serve("ws://127.0.0.1:0")
    with websocket(running) as client:
        client.send(CONNECT)
        client.recv(SECONDS)
        client.send(f"SEND\ndestination:{queue}\npersistent:true\n\nlast\0")
    reader = gateway.connected()
    reader.confirmed("SUBSCRIBE", id="1", destination=queue)
    assert reader.expect("MESSAGE").body == b"last"


# -- the PROXY protocol

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(family: int, block: bytes, command: int = 0x21) -> bytes:
    return V2 + struct.pack("!BBH", command, family, len(block)) + block


IPV4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4711, 61613)
IPV6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + struct.pack("!HH", 4711, 61613)


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 61613\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 61613\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
        (v2(0x11, IPV4), "203.0.113.7"),
        (v2(0x11, IPV4 + b"\x03\0\4abcd"), "203.0.113.7"),
        (v2(0x21, IPV6), "2001:db8::7"),
        (v2(0x00, b"", 0x20), "127.0.0.1"),
        (v2(0x31, bytes(216)), "127.0.0.1"),
    ],
)
def test_a_balancer_says_who_the_client_is(serve: Callable[..., RunningGateway], header: bytes, peer: str) -> None:
    running = serve("stomp://127.0.0.1:0?proxy=true")
    client = running.client()
    client.write(header + LOGIN)
    client.expect("CONNECTED")
    assert running.authenticator.shown[-1].peer == peer


def test_a_proxy_header_may_come_byte_by_byte_and_tls_after_it(
    serve: Callable[..., RunningGateway], files: Files
) -> None:
    running = serve(f"stomps://127.0.0.1:0?proxy=true&{files.query}")
    client = running.client()
    for byte in b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 61613\r\n":
        client.write(bytes([byte]))
    client.socket = files.client().wrap_socket(client.socket, server_hostname="localhost")
    client.connect()
    assert running.authenticator.shown[-1].peer == "203.0.113.7"


@pytest.mark.parametrize(
    "garbage",
    [
        LOGIN,
        b"PROXY TCP4 nowhere 10.0.0.1 4711 61613\r\n",
        b"PROXY TCP4\r\n" + b" " * 20,
        b"PROXY " + b"x" * 200,
        V2 + b"\x11\x11\0\0",
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_proxy_header_ends_the_connection(serve: Callable[..., RunningGateway], garbage: bytes) -> None:
    running = serve("stomp://127.0.0.1:0?proxy=true&login-seconds=5")
    client = running.client()
    client.write(garbage)
    with contextlib.suppress(ConnectionResetError):  # it did not read all
        assert client.socket.recv(100) == b""


def test_a_proxy_header_that_does_not_come_ends_after_the_time_to_log_in(
    serve: Callable[..., RunningGateway],
) -> None:
    running = serve("stomp://127.0.0.1:0?proxy=true&login-seconds=0.3")
    client = running.client()
    client.write(b"PROX")
    assert client.socket.recv(1) == b""


# -- heart-beats of who works


@pytest.mark.parametrize("patient", ["true", "false"])
def test_a_client_that_works_may_miss_its_beats_where_the_listener_is_patient(
    stomp_database: str, monkeypatch: pytest.MonkeyPatch, queue: str, patient: str
) -> None:
    monkeypatch.setattr("apps.stomp.protocol.heartbeat.TOLERANCE_MS", 100)
    with RunningGateway(stomp_database, listeners=[f"stomp://127.0.0.1:0?patient={patient}"]) as running:
        client = running.client()
        client.connect(heart_beat="100,0")
        client.send("SEND", b"work", destination=queue)
        client.send("SUBSCRIBE", id="1", destination=queue, ack="client")
        message = client.expect("MESSAGE")
        if patient == "false":
            client.expect_error("heart_beat_missed")
            return
        assert client.silent(1.0)  # five times as long as it may be silent while it holds nothing
        client.confirmed("ACK", id=message["ack"])
        client.expect_error("heart_beat_missed")


def test_a_client_at_work_whose_machine_has_vanished_is_ended_though_the_listener_is_patient(
    serve: Callable[..., RunningGateway], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.stomp.gateway.channels.VANISHED_SECONDS", 1.0)
    monkeypatch.setattr("apps.stomp.protocol.heartbeat.TOLERANCE_MS", 100)
    running = serve("stomp://127.0.0.1:0")
    client = running.client()
    client.connect(heart_beat="100,100")
    client.send("SUBSCRIBE", id="1", destination=queue, ack="client")
    client.send("SEND", destination=queue)
    until(lambda: [one for one in running.gateway.connections if one.held], SECONDS, "it holds a message")
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # a filter that lets nothing in
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    client.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    until(lambda: not running.gateway.connections, SECONDS, "the gateway gives it up")


def test_the_default_namespace_of_a_listener_is_for_who_names_none(serve: Callable[..., RunningGateway]) -> None:
    running = serve(f"stomp://127.0.0.1:0?namespace={OTHER_NAMESPACE}", "stomp://127.0.0.1:0")
    queue = "/queue/of-the-other"
    sender = running.client()
    sender.connect(host="mq.example")
    sender.confirmed("SEND", b"a", destination=queue)
    plain = WireClient(running.ports[1])
    running.keep(plain)
    plain.connect(host=OTHER_NAMESPACE)
    plain.confirmed("SUBSCRIBE", id="1", destination=queue)
    assert plain.expect("MESSAGE").body == b"a"
    assert NAMESPACE != OTHER_NAMESPACE


def test_a_listener_that_cannot_have_its_files_says_so(stomp_database: str, tmp_path: Path) -> None:
    from apps.stomp.gateway.acceptors import Acceptor, bind
    from apps.stomp.gateway.listeners import BadListener, parse_listener

    listener = parse_listener(f"stomps://127.0.0.1:0?certificate={tmp_path}/none.pem")

    async def accept() -> None:
        with bind(listener) as bound, pytest.raises(BadListener, match=r"none\.pem"):
            Acceptor(listener, bound, lambda _: asyncio.Protocol())

    asyncio.run(accept())
