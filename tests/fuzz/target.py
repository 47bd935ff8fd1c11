"""What must hold for any bytes: the body of the fuzzer, and of the replay of its corpus."""

import random
from unittest.mock import patch

from apps.stomp.protocol.connection import ServerConnection
from apps.stomp.protocol.encoder import MessageEncoder
from apps.stomp.protocol.events import Send
from apps.stomp.protocol.parser import Parser
from tests.stomp_streams import SMALL, comparable, connected, converse, cut, events_of

VERSIONS = ("1.0", "1.1", "1.2")


def check(data: bytes) -> None:
    """The first byte picks the version (or none: the client has yet to connect), the second how the rest is cut.

    Raises:
        AssertionError: the events depend on the cut or on how a frame is decoded, more is kept than the limits allow,
            or what was read cannot be passed on.
    """
    if len(data) < 2:
        return
    choice, seed, stream = data[0] % 4, data[1], data[2:]

    def new() -> ServerConnection:
        return ServerConnection(SMALL) if choice == 3 else connected(VERSIONS[choice], SMALL)

    whole = new()
    events = events_of(whole, [stream])
    places = random.Random(seed).choices(range(len(stream) + 1), k=seed % 8)
    assert converse(new(), cut(stream, places)) == comparable(events)
    bytewise = new()
    pieces = []
    for index in range(len(stream)):
        pieces += events_of(bytewise, [stream[index : index + 1]])
        kept = len(bytewise._parser._pending)
        assert kept <= SMALL.frame + 2, f"{kept} bytes are kept of frames of at most {SMALL.frame}"
    assert comparable(pieces) == comparable(events)
    with patch.object(Parser, "_plain_frame", lambda parser, head: None):
        assert converse(new(), [stream]) == comparable(events)
    for event in events:
        if type(event) is Send:
            _pass_on(event)


def _pass_on(event: Send) -> None:
    """As the MESSAGE of each version, and back as if its receiver had sent it: headers and body are the same."""
    for version in VERSIONS[1:]:
        if version == "1.1" and b"\\r" in event.head.headers:
            continue  # 1.1 has no word for a carriage return
        frame = MessageEncoder(version, "s", "q", ackable=True).encode(b"1", event.head.headers, event.body)
        [again] = connected(version).receive(frame.replace(b"MESSAGE\n", b"SEND\n", 1))
        assert type(again) is Send, again
        assert again.head.headers == event.head.headers
        assert again.body == event.body
    MessageEncoder("1.0", "s", "q", ackable=True).encode(b"1", event.head.headers, event.body)
