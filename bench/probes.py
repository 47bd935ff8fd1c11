"""What a migrating team asks about a broker, as small experiments; `bench.probe` puts them to each."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.brokers import Broker
from bench.wire import QUIET, Frame, Wire


@dataclass(frozen=True, slots=True)
class Probe:
    """One row: a question, and the experiment that answers it in a few words."""

    question: str
    ask: Callable[["Place"], str]


class Place:
    """A broker and a destination of the experiment's own."""

    def __init__(self, broker: Broker, stack: contextlib.ExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self._tag = uuid.uuid4().hex[:10]
        self.queue = f"/queue/probe.{self._tag}"
        self.topic = f"/topic/probe.{self._tag}"

    def wire(self) -> Wire:
        """A connection that has said nothing."""
        wire = Wire(self.broker.port)
        self._stack.callback(wire.close)
        return wire

    def connected(self, version: str = "1.2", **headers: object) -> Wire:
        """A connection that is logged in."""
        wire = self.wire()
        self.greet(wire, version, **headers)
        return wire

    def greet(self, wire: Wire, version: str = "1.2", **headers: object) -> list[Frame]:
        """CONNECT, and what comes."""
        given = {"accept_version": version, "host": "/", "login": self.broker.login, "passcode": self.broker.passcode}
        wire.send("CONNECT", **{**given, **headers})
        return wire.read(1)

    def filled(self, count: int, **headers: object) -> Wire:
        """A connection that has sent so many messages to the queue, each confirmed."""
        wire = self.connected()
        for number in range(count):
            wire.send(
                "SEND", b"%d" % number, destination=self.queue, persistent="true", receipt=f"r{number}", **headers
            )
        wire.read(count)
        return wire

    def consumer(self, version: str = "1.2", **headers: object) -> Wire:
        """A connection that has subscribed to the queue, ack:client-individual."""
        wire = self.connected(version)
        given: dict[str, object] = {"id": "s", "ack": "client-individual"}
        wire.send("SUBSCRIBE", destination=self.queue, **{**given, **headers})
        return wire


@contextlib.contextmanager
def place(broker: Broker) -> Iterator[Place]:
    """Somewhere to make one experiment."""
    with contextlib.ExitStack() as stack:
        yield Place(broker, stack)


def reaction(wire: Wire, seconds: float = QUIET) -> str:
    """What came, and whether the connection still stands."""
    frames = wire.rest(seconds)
    words = [frame.command for frame in frames if frame.command != "CONNECTED"]
    if any(frame.command == "ERROR" and b"\tat " in frame.body for frame in frames):
        words[words.index("ERROR")] = "ERROR with a stack trace"
    said = ", ".join(words) or "nothing"
    if wire.ended:
        return f"{said}, then the end" if words else "closed without a word"
    return f"{said}; open"


def frame_of(command: str, *lines: str) -> Callable[[Place], str]:
    """A frame on a new 1.2 connection, and the reaction."""

    def ask(place: Place) -> str:
        wire = place.connected()
        wire.write("\n".join([command, *lines]).replace("QUEUE", place.queue).encode() + b"\n\n\0")
        return reaction(wire)

    return ask


def receipt_in_transaction(place: Place) -> str:
    wire = place.connected()
    wire.send("BEGIN", transaction="t")
    wire.send("SEND", b"x", destination=place.queue, transaction="t", receipt="r")
    before = [frame.command for frame in wire.rest()]
    return "at once" if "RECEIPT" in before else "at COMMIT"


def nack(**headers: object) -> Callable[[Place], str]:
    def ask(place: Place) -> str:
        place.filled(1)
        wire = place.consumer()
        [message] = wire.read(1)
        wire.send("NACK", id=message.headers.get("ack", ""), **headers)
        again = [frame for frame in wire.rest(1.5) if frame.command == "MESSAGE"]
        if again:
            shown = {"redelivered", "delivery-count", "redelivered-count"} & set(again[0].headers)
            return f"comes again ({', '.join(sorted(shown)) or 'unmarked'})"
        return "does not come again"

    return ask


def unknown_ack(version: str) -> Callable[[Place], str]:
    def ask(place: Place) -> str:
        wire = place.consumer(version)
        wire.rest()
        name = "id" if version == "1.2" else "message_id"
        wire.send("ACK", **{name: "1"}, subscription="s")
        return reaction(wire)

    return ask


def double_ack(place: Place) -> str:
    place.filled(1)
    wire = place.consumer()
    [message] = wire.read(1)
    for receipt in ("a", "b"):
        wire.send("ACK", id=message.headers.get("ack", ""), receipt=receipt)
    return reaction(wire)


def same_subscription(place: Place) -> str:
    wire = place.consumer()
    wire.send("SUBSCRIBE", destination=place.queue + ".b", id="s")
    return reaction(wire)


def wrong_subscription(place: Place) -> str:
    place.filled(1)
    wire = place.consumer("1.1")
    [message] = wire.read(1)
    wire.send("ACK", message_id=message.headers["message-id"], subscription="other")
    return reaction(wire)


def nack_on_1_0(place: Place) -> str:
    place.filled(1)
    wire = place.consumer("1.0")
    [message] = wire.read(1)
    wire.send("NACK", message_id=message.headers["message-id"])
    return reaction(wire)


def own_headers(place: Place) -> str:
    wire = place.connected()
    wire.send("BEGIN", transaction="t")
    wire.send("SEND", b"x", destination=place.queue, transaction="t", receipt="r")
    wire.send("COMMIT", transaction="t", receipt="c")
    wire.rest()
    [message] = place.consumer().read(1)
    return ", ".join(sorted({"receipt", "transaction"} & set(message.headers))) or "neither"


def default_prefetch(place: Place) -> str:
    place.filled(1_500)
    got = len(place.consumer().rest())
    return f"{got} of 1,500"


def fast_beats(place: Place) -> str:
    [frame] = place.greet(place.wire(), heart_beat="500,500")
    return frame.headers.get("heart-beat", "no header")


def strange_host(place: Place) -> str:
    wire = place.wire()
    frames = place.greet(wire, host="shop.example.org")
    return "let in" if frames and frames[0].command == "CONNECTED" else "refused"


def no_host(place: Place) -> str:
    wire = place.wire()
    wire.send("CONNECT", accept_version="1.2", login=place.broker.login, passcode=place.broker.passcode)
    frames = wire.read(1)
    return "let in" if frames and frames[0].command == "CONNECTED" else "refused"


def own_message_id(place: Place) -> str:
    wire = place.connected()
    wire.send("SEND", b"x", destination=place.queue, message_id="mine", receipt="r")
    said = reaction(wire)
    if "ERROR" in said:
        return said
    [message] = place.consumer().read(1)
    return "taken over" if message.headers["message-id"] == "mine" else "replaced"


def long_header(place: Place) -> str:
    wire = place.connected()
    wire.send("SEND", b"x", destination=place.queue, note="v" * 100_000, receipt="r")
    return reaction(wire, 2)


def big_body(place: Place) -> str:
    wire = place.connected()
    size = 20 * 1024 * 1024
    wire.send("SEND", b"x" * size, destination=place.queue, content_length=size, receipt="r")
    return reaction(wire, 5)


def bare_destination(place: Place) -> str:
    wire = place.connected()
    wire.send("SEND", b"x", destination=place.queue.removeprefix("/queue/"), receipt="r")
    said = reaction(wire)
    if "ERROR" in said:
        return said
    return "a queue" if place.consumer().read(1, 1.5) else "something else than that queue"


def reply_address(place: Place) -> str:
    wire = place.connected()
    wire.send("SEND", b"x", destination=place.queue, reply_to="/temp-queue/me", receipt="r")
    wire.rest()
    messages = place.consumer().read(1, 2)
    if not messages:
        return "not delivered"
    shown = messages[0].headers.get("reply-to", "no reply-to")
    return "/".join(part if index < 2 else "..." for index, part in enumerate(shown.split("/")[:3]))


def expired(**headers: object) -> Callable[[Place], str]:
    def ask(place: Place) -> str:
        wire = place.connected()
        given = {
            name: (int(time.time() * 1000) - 1000 if value == "past" else value) for name, value in headers.items()
        }
        wire.send("SEND", b"x", destination=place.queue, receipt="r", **given)
        wire.rest(1)
        return "delivered" if place.consumer().read(1, 2) else "gone"

    return ask


def priorities(place: Place) -> str:
    wire = place.connected()
    for priority in (1, 9, 5):
        wire.send("SEND", b"%d" % priority, destination=place.queue, priority=priority, receipt=priority)
    wire.read(3)
    got = [frame.body.decode() for frame in place.consumer().read(3, 2)]
    return "highest first" if got == ["9", "5", "1"] else "as sent"


def wildcard(pattern: str) -> Callable[[Place], str]:
    def ask(place: Place) -> str:
        wire = place.connected()
        wire.send("SUBSCRIBE", id="s", destination=f"{place.topic}.{pattern}", receipt="s")
        said = wire.rest()
        if any(frame.command == "ERROR" for frame in said):
            return "ERROR"
        sender = place.connected()
        matched = []
        for name in ("a", "a.b"):
            sender.send("SEND", name.encode(), destination=f"{place.topic}.{name}", receipt=name)
            sender.read(1)
        matched = [frame.body.decode() for frame in wire.rest(1)]
        return " and ".join(f"x.{name}" for name in sorted(matched)) or "nothing"

    return ask


def delayed(header: str) -> Callable[[Place], str]:
    def ask(place: Place) -> str:
        wire = place.connected()
        wire.send("SEND", b"x", destination=place.queue, receipt="r", **{header: 2000})
        wire.rest()
        consumer = place.consumer()
        if consumer.read(1, 1):
            return "ignored"
        return "held" if consumer.read(1, 4) else "lost"

    return ask


def composite(place: Place) -> str:
    wire = place.connected()
    wire.send("SEND", b"x", destination=f"{place.queue},{place.queue}.b", receipt="r")
    wire.rest()
    return "to each" if place.consumer().read(1, 1.5) else "no"


def selector(place: Place) -> str:
    wire = place.connected()
    for colour in ("red", "blue"):
        wire.send("SEND", colour.encode(), destination=place.queue, colour=colour, receipt=colour)
    wire.read(2)
    got = [frame.body.decode() for frame in place.consumer(selector="colour = 'blue'").rest(1)]
    return "applied" if got == ["blue"] else "ignored" if got else "nothing comes"


def browser(place: Place) -> str:
    place.filled(2)
    frames = place.consumer(browser="true").rest(1)
    left = len(place.consumer(id="t").rest(1))
    if any("browser" in frame.headers for frame in frames) and left == 2:
        return "browses"
    return "consumes"


def no_version(place: Place) -> str:
    wire = place.wire()
    place.greet(wire, "3.0")
    wire = place.wire()
    frames = place.greet(wire, "3.0")
    if not frames:
        return "closed without a word"
    return f"{frames[0].command}, version:{frames[0].headers.get('version', '-')}"


def tls_hello(place: Place) -> str:
    wire = place.wire()
    wire.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    return reaction(wire, 2)


PROBES = [
    Probe("the receipt of a SEND in a transaction comes", receipt_in_transaction),
    Probe("NACK", nack()),
    Probe("NACK with `requeue:false`", nack(requeue="false")),
    Probe("NACK on 1.0", nack_on_1_0),
    Probe("a header line without a colon", frame_of("SEND", "destination:QUEUE", "nonsense", "receipt:r")),
    Probe("an undefined escape", frame_of("SEND", "destination:QUEUE", "x:\\t", "receipt:r")),
    Probe("a second CONNECT", frame_of("CONNECT", "accept-version:1.2", "host:/", "login:guest", "passcode:guest")),
    Probe("an unknown command", frame_of("HELLO", "receipt:r")),
    Probe("SEND without a destination", frame_of("SEND", "receipt:r")),
    Probe("ACK of what is not held, 1.2", unknown_ack("1.2")),
    Probe("ACK of what is not held, 1.0", unknown_ack("1.0")),
    Probe("the same ACK twice, each with a receipt", double_ack),
    Probe("ACK with a wrong `subscription`, 1.1", wrong_subscription),
    Probe("two subscriptions with one id", same_subscription),
    Probe("SUBSCRIBE without an id", frame_of("SUBSCRIBE", "destination:QUEUE", "receipt:r")),
    Probe("`ack:bogus`", frame_of("SUBSCRIBE", "destination:QUEUE", "id:1", "ack:bogus", "receipt:r")),
    Probe("headers of the SEND that show up in the MESSAGE", own_headers),
    Probe("`message-id` of the SEND", own_message_id),
    Probe("unacked messages without a prefetch asked for", default_prefetch),
    Probe("`heart-beat:500,500` is answered by", fast_beats),
    Probe("a `host` that it does not know", strange_host),
    Probe("no `host`", no_host),
    Probe("no common version", no_version),
    Probe("a header of 100 KB", long_header),
    Probe("a body of 20 MiB", big_body),
    Probe("a destination without a slash", bare_destination),
    Probe("`reply-to:/temp-queue/me` reaches the consumer as", reply_address),
    Probe("`expiration:1` (relative), after a second", expired(expiration="1")),
    Probe("`expires` (absolute) in the past", expired(expires="past")),
    Probe("`priority` 1, 9, 5", priorities),
    Probe("a topic's `x.*` matches, of x.a and x.a.b", wildcard("*")),
    Probe("a topic's `x.#` matches", wildcard("#")),
    Probe("a topic's `x.>` matches", wildcard(">")),
    Probe("`AMQ_SCHEDULED_DELAY`", delayed("AMQ_SCHEDULED_DELAY")),
    Probe("`x-delay`", delayed("x-delay")),
    Probe("a composite destination", composite),
    Probe("`selector` on a queue", selector),
    Probe("`browser:true`", browser),
    Probe("a TLS hello on the plain port", tls_hello),
]
