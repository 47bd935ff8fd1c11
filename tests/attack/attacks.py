"""The attacks. Each does all that it means to do and returns a sentence of what it did and saw."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SECONDS = 30.0  # a deadline for a loaded machine, not an expectation
MIB = 1024 * 1024
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2
GUESSER = "127.0.0.2"
HTTP = b"GET /console HTTP/1.1\r\nHost: msgweb\r\nAccept: */*\r\n\r\n"


class Target(NamedTuple):
    """The gateway, and a key that opens it."""

    port: int
    login: str
    passcode: str

    @property
    def connect_frame(self) -> bytes:
        """CONNECT with the good key."""
        return f"CONNECT\naccept-version:1.2\nlogin:{self.login}\npasscode:{self.passcode}\n\n\0".encode()


@dataclass(frozen=True)
class Attack:
    """One kind.

    Attributes:
        name: a few words, for the table.
        run: does it; its argument says how much, 1.0 for the full measure.
        most: by how many bytes the gateway may grow at most, at the full measure.
        answered: every one of its clients is told by an ERROR.
    """

    name: str
    run: Callable[[Target, float], str]
    most: int
    answered: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace(",", "")


def dial(target: Target, *, logged_in: bool = False, source: str = "127.0.0.1") -> socket.socket:
    """A connection to the gateway, from that address of this machine."""
    client = socket.create_connection(("127.0.0.1", target.port), SECONDS, (source, 0))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if logged_in:
        client.sendall(target.connect_frame)
        answer = b""
        while not answer.endswith(b"\0\n"):
            data = client.recv(4096)
            assert data, answer
            answer += data
        assert answer.startswith(b"CONNECTED"), answer
    return client


def vanish(client: socket.socket) -> None:
    """Close with a reset, which leaves nothing behind on this machine either."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def rest_of(client: socket.socket) -> bytes:
    """All that still comes, until the server ends the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            answer += data
    return answer


@contextlib.contextmanager
def crowd(target: Target, count: int, *, logged_in: bool = False) -> Iterator[list[socket.socket]]:
    """So many connections at once."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(dial(target, logged_in=logged_in))
        yield clients
    finally:
        for client in clients:
            vanish(client)


def push(client: socket.socket, chunk: bytes, most: int) -> int:
    """Send the chunk again and again until the server has had enough, or `most` bytes are out; how many went."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.sendall(chunk)
            sent += len(chunk)
    return sent


def trickle(target: Target, measure: float) -> str:
    """Many clients that send a byte now and then, half of them before they have logged in."""
    count, turns = int(150 * measure), int(60 * measure)
    slow = b"SEND\ndestination:/queue/attack.trickle\ncontent-length:100000\n\n" + b"x" * 1000
    with crowd(target, count) as strangers, crowd(target, count, logged_in=True) as clients:
        for turn in range(turns):
            for stranger in strangers:
                stranger.sendall(target.connect_frame[turn : turn + 1])
            for client in clients:
                client.sendall(slow[turn : turn + 1])
    return f"{2 * count} connections, {turns} bytes each, byte by byte"


def deaf(target: Target, measure: float) -> str:
    """Consumers that never read, of a topic and of a queue, while a lot is sent to both."""
    count, messages, size = int(20 * measure), int(300 * measure), 100_000
    with crowd(target, count, logged_in=True) as topical, crowd(target, count, logged_in=True) as queued:
        for client in topical:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"SUBSCRIBE\nid:0\ndestination:/topic/attack.deaf\n\n\0")
        for client in queued:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"SUBSCRIBE\nid:0\ndestination:/queue/attack.deaf\nack:auto\n\n\0")
        publisher = dial(target, logged_in=True)
        body = b"x" * size
        for place in ("topic", "queue"):
            frame = f"SEND\ndestination:/{place}/attack.deaf\nreceipt:r\ncontent-length:{size}\n\n".encode()
            for _ in range(messages):
                publisher.sendall(frame + body + b"\0")
                answer = b""
                while not answer.endswith(b"\0\n"):
                    answer += publisher.recv(4096)
                assert answer.startswith(b"RECEIPT"), answer
        vanish(publisher)
    return f"{2 * count} consumers that never read; {2 * messages * size // MIB} MiB sent"


def several(count: int, attack: Callable[[int], T]) -> list[T]:
    """Do it so many times, eight at a time."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(attack, range(count)))


def bomb(client: socket.socket, head: bytes, chunk: bytes, most: int) -> tuple[int, str]:
    """Send without end, whatever is answered; how many bytes went, and what came back."""
    client.sendall(head)
    sent = push(client, chunk, most)
    answer = "ERROR" if b"limit_exceeded" in rest_of(client) else "the end"
    vanish(client)
    return sent, answer


def header_bombs(target: Target, measure: float) -> str:
    """Headers without end: many small ones, one long one, before log-in and after it."""

    def one(number: int) -> tuple[int, str]:
        head = b"SEND\n" if number % 2 == 0 else b"CONNECT\n"
        chunk = (b"name:" + b"v" * 90 + b"\n") * 600 if number % 4 < 2 else b"v" * 60_000
        return bomb(dial(target, logged_in=number % 2 == 0), head, chunk, 50 * MIB)

    return _bombs(several(int(60 * measure), one))


def _bombs(done: list[tuple[int, str]]) -> str:
    sent = sum(size for size, _ in done) / len(done) / 1024
    return f"{len(done)} connections, 8 at a time; {sent:.0f} KiB got through each; {told(Counter(a for _, a in done))}"


def connects(target: Target, measure: float) -> str:
    """Connections by four threads: silent ones, half a greeting, a log-in, a page that looks in and leaves."""
    total, threads = int(10_000 * measure), 4
    greetings = (b"", b"CONNECT\naccept-ver", target.connect_frame, target.connect_frame + b"DISCONNECT\n\n\0")

    def some(part: int) -> None:
        for number in range(part, total, threads):
            client = dial(target)
            client.sendall(greetings[number // threads % 4])
            vanish(client)

    workers = [threading.Thread(target=some, args=(part,)) for part in range(threads)]
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return f"{total} connections, {total / (time.monotonic() - begun):.0f} a second"


def wrong_passcodes(target: Target, measure: float) -> str:
    """Log-ins that cannot be, all at once, from an address of their own: failures count by address."""
    count = int(200 * measure)
    answers: Counter[str] = Counter()
    clients = [dial(target, source=GUESSER) for _ in range(count)]
    for number, client in enumerate(clients):
        client.sendall(f"CONNECT\naccept-version:1.2\nlogin:{target.login}\npasscode:{number}\n\n\0".encode())
    for client in clients:
        answers["ERROR" if b"ERROR" in rest_of(client) else "the end"] += 1
        vanish(client)
    return f"{count} log-ins; {told(answers)}"


def open_and_idle(target: Target, measure: float) -> str:
    """Connections that are opened, logged in and left alone."""
    count = int(2_000 * measure)
    with crowd(target, count, logged_in=True):
        pass
    return f"{count} connections at once, logged in"


def garbage(target: Target, measure: float) -> str:
    """Random bytes, before log-in and after it."""
    chance = random.Random(17)
    count = int(400 * measure)
    answers: Counter[str] = Counter()
    for number in range(count):
        client = dial(target, logged_in=number % 2 == 0)
        with contextlib.suppress(ConnectionError):
            client.sendall(chance.randbytes(chance.randrange(1, 20_000)))
            client.shutdown(socket.SHUT_WR)
        answers["ERROR" if b"ERROR" in rest_of(client) else "the end"] += 1
        vanish(client)
    return f"{count} connections; {told(answers)}"


def half_frames(target: Target, measure: float) -> str:
    """A conversation that is cut off after each of its bytes, by an end or by a reset."""
    whole = target.connect_frame + (
        b"SUBSCRIBE\nid:0\ndestination:/queue/attack.half\nack:client\n\n\0"
        b"BEGIN\ntransaction:t\n\n\0"
        b"SEND\ndestination:/queue/attack.half\ntransaction:t\ncontent-length:5\n\nhe\0lo\0"
        b"ACK\nid:1\ntransaction:t\n\n\0COMMIT\ntransaction:t\n\n\0"
    )
    step = max(1, round(1 / measure))
    cuts = 0
    for size in range(0, len(whole), step):
        for end in (vanish, leave):
            client = dial(target)
            client.sendall(whole[:size])
            end(client)
            cuts += 1
    return f"{cuts} connections, each cut one byte later"


def leave(client: socket.socket) -> None:
    """Half-close, and wait until the server has closed too."""
    client.shutdown(socket.SHUT_WR)
    rest_of(client)
    vanish(client)


def ten_gigabytes(target: Target, measure: float) -> str:
    """Frames that announce ten gigabytes."""
    head = b"SEND\ndestination:/queue/attack.huge\nreceipt:r\ncontent-length:10000000000\n\n"
    done = several(int(40 * measure), lambda number: bomb(dial(target, logged_in=True), head, b"x" * 65536, 20 * MIB))
    return _bombs(done)


def unended_frames(target: Target, measure: float) -> str:
    """Frames of almost the size that is allowed, whose end never comes."""
    count, size = int(40 * measure), 16 * MIB
    ended = 0
    with crowd(target, count, logged_in=True) as clients:
        for client in clients:
            client.sendall(f"SEND\ndestination:/queue/attack.long\ncontent-length:{size}\n\n".encode())
            push(client, b"x" * 65536, size - MIB)
        ended = sum(is_told(client) for client in clients)
    return f"{count} frames of {size // MIB} MiB; {ended} connections were ended by an ERROR"


def uncommitted(target: Target, measure: float) -> str:
    """Transactions that gather as much as is allowed, and no COMMIT."""
    count, each, size = int(10 * measure), 3, 15 * MIB
    ended = 0
    with crowd(target, count, logged_in=True) as clients:
        for client in clients:
            with contextlib.suppress(ConnectionError):
                for name in range(each):
                    client.sendall(f"BEGIN\ntransaction:{name}\n\n\0".encode())
                    for _ in range(4):
                        head = f"SEND\ndestination:/queue/attack.open\ntransaction:{name}\ncontent-length:{size}\n\n"
                        client.sendall(head.encode() + b"x" * size + b"\0")
        ended = sum(is_told(client) for client in clients)
    return f"{count * each} transactions of {4 * size // MIB} MiB; {ended} connections were ended by an ERROR"


def is_told(client: socket.socket) -> bool:
    """Whether an ERROR is there, or comes soon."""
    client.settimeout(0.1)
    try:
        return b"limit_exceeded" in client.recv(65536)
    except OSError:
        return False


def long_selectors(target: Target, measure: float) -> str:
    """Subscriptions whose selectors take long to read, each its own, sent all at once by clients that go away then."""
    count, each = 20, int(20 * measure) or 1
    answers: Counter[str] = Counter()
    with crowd(target, count, logged_in=True) as clients:
        for place, client in enumerate(clients):
            for number in range(each):
                selector = " OR ".join(f"a{place}_{number}_{one}={one}" for one in range(400))[:4096].rpartition(
                    " OR "
                )[0]
                client.sendall(
                    f"SUBSCRIBE\nid:{number}\ndestination:/queue/attack.chosen\nselector:{selector}\n"
                    f"receipt:{number}\n\n\0".encode()
                )
        for client in clients:
            client.settimeout(SECONDS)
            answers["RECEIPT first" if b"RECEIPT" in client.recv(65536) else "something else first"] += 1
    return f"{count * each} selectors of 4 KB; {told(answers)}"


def wrong_port(target: Target, measure: float) -> str:
    """TLS hellos and HTTP requests."""
    count = int(400 * measure)
    answers: Counter[str] = Counter()
    for number in range(count):
        client = dial(target)
        client.sendall(TLS_HELLO if number % 2 else HTTP)
        answers["HTTP 400" if rest_of(client).startswith(b"HTTP/1.1 400") else "the end"] += 1
        vanish(client)
    return f"{count} connections; {told(answers)}"


def told(answers: Counter[str]) -> str:
    """What came back, and how often."""
    return ", ".join(f"{count} x {answer}" for answer, count in answers.most_common())


ATTACKS = [
    Attack("bytes trickled", trickle, 40 * MIB),
    Attack("consumers that never read", deaf, 200 * MIB),
    Attack("header bombs", header_bombs, 15 * MIB, answered=True),
    Attack("ten thousand connects", connects, 60 * MIB),
    Attack("wrong passcodes", wrong_passcodes, 20 * MIB, answered=True),
    Attack("idle connections", open_and_idle, 60 * MIB),
    Attack("garbage", garbage, 20 * MIB),
    Attack("half frames, cut at each byte", half_frames, 20 * MIB),
    Attack("content-length of 10 GB", ten_gigabytes, 30 * MIB, answered=True),
    Attack("frames that never end", unended_frames, 400 * MIB),
    Attack("transactions never committed", uncommitted, 400 * MIB),
    Attack("long selectors", long_selectors, 60 * MIB),
    Attack("TLS and HTTP on the wrong port", wrong_port, 20 * MIB),
]
