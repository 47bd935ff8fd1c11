"""Conversations with the protocol's core in chunks of any size, in a form that can be compared."""

import itertools
from collections.abc import Sequence

from apps.stomp.protocol.connection import ServerConnection
from apps.stomp.protocol.events import Ack, Event, Violation
from apps.stomp.protocol.parser import Limits

SMALL = Limits(frame=600, headers=6, line=60, command=32, greeting=120)


def connected(version: str = "1.2", limits: Limits | None = None) -> ServerConnection:
    """A connection that has agreed on a version."""
    connection = ServerConnection(limits)
    connection.receive(f"CONNECT\naccept-version:{version}\nhost:x\n\n\0".encode())
    connection.accept("s", "test")
    assert connection.receive(b"") == [] and connection.version == version
    return connection


def comparable(events: list[Event]) -> list[object]:
    """Events with runs of plain ACKs taken apart, and errors by their code and text."""
    result: list[object] = []
    for event in events:
        if type(event) is Ack:
            result += [("ACK", identifier, event.transaction, event.receipt) for identifier in event.ids]
        elif type(event) is Violation:
            result.append((event.error.code, event.error.message, event.receipt, event.fatal))
        else:
            result.append(event)
    return result


def events_of(connection: ServerConnection, chunks: Sequence[bytes]) -> list[Event]:
    """What the connection makes of the chunks; a CONNECT is accepted at once."""
    events: list[Event] = []
    for chunk in chunks:
        events += connection.receive(chunk)
        if connection.state == "entering":
            connection.accept("s", "test")
            events += connection.receive(b"")
    return events


def converse(connection: ServerConnection, chunks: Sequence[bytes]) -> list[object]:
    """`events_of`, comparable."""
    return comparable(events_of(connection, chunks))


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data in pieces."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]
