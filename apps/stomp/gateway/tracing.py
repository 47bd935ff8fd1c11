"""What a connection says, frame by frame, for somebody at the console who wants to see it: for a while, and masked.

Nothing is kept: each piece goes to a topic that the console's page listens to. A connection that is traced costs more,
one that is not costs a comparison a read.
"""

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection

PIECE_LIMIT = 2_000  # characters of what was read or written at once
PER_SECOND = 100  # pieces of a connection; the rest is counted
SECONDS_LIMIT = 3_600.0

_SECRET = re.compile(r"^(passcode|authorization|cookie)\s*:.*$", re.IGNORECASE | re.MULTILINE)
Direction = Literal["in", "out"]
Publish = Callable[[str, bytes], None]


class Trace:
    """One connection under somebody's eyes.

    Args:
        publish: takes the topic's name and a JSON object.
        until: when to stop, by `time.monotonic()`.
    """

    __slots__ = ("_connection", "_count", "_publish", "_second", "_topic", "until")

    def __init__(self, connection: str, topic: str, publish: Publish, until: float) -> None:
        self._connection = connection
        self._topic = topic
        self._publish = publish
        self._second = 0
        self._count = 0
        self.until = until

    def note(self, direction: Direction, data: bytes) -> None:
        """Show what was read or written."""
        now = time.monotonic()
        if now > self.until:
            return
        second = int(now)
        if second != self._second:
            missed, self._second, self._count = self._count - PER_SECOND, second, 0
            if missed > 0:
                self._say({"missed": missed})
        self._count += 1
        if self._count <= PER_SECOND:
            self._say({"direction": direction, "bytes": len(data), "text": shown(data)})

    def _say(self, piece: dict[str, object]) -> None:
        piece |= {"connection": self._connection, "at": time.time()}
        self._publish(self._topic, json.dumps(piece).encode())


class Traces:
    """Who is to be traced, of those who are connected and of those who will be."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._logins: dict[str, tuple[str, float]] = {}

    def of(self, connection: "ClientConnection") -> Trace | None:
        """The trace of a connection that has just logged in, if its login is under somebody's eyes."""
        if not self._logins:
            return None
        topic, until = self._logins.get(connection.entered.login, ("", 0.0))
        if until <= time.monotonic():
            return None
        return Trace(connection.name, topic, self._publish, until)

    def start(self, topic: str, seconds: float, present: "set[ClientConnection]", *, login: str, name: str) -> None:
        """Trace a connection, or all of a login, for so long; no seconds: no longer.

        Args:
            topic: where what is said goes.
            login, name: one of them; the other is empty.
        """
        now = time.monotonic()
        until = now + max(0.0, min(seconds, SECONDS_LIMIT))
        self._logins = {one: trace for one, trace in self._logins.items() if trace[1] > now}
        if login:
            self._logins[login] = (topic, until)
        for connection in present:
            if connection.principal is None:
                continue
            if (login and connection.principal.login == login) or (name and connection.name == name):
                connection.trace = Trace(connection.name, topic, self._publish, until) if until > now else None


def shown(data: bytes) -> str:
    """Bytes as people can read them, without secrets; what is too long is cut."""
    text = data[: PIECE_LIMIT * 4].decode(errors="replace").replace("\0", "^@")
    text = _SECRET.sub(r"\1:***", text)
    return text if len(text) <= PIECE_LIMIT else text[:PIECE_LIMIT] + " …"
