"""Whether the event loop is busy: then a small batch waits for what the loop is about to bring.

A commit costs its processor time (0.1 ms, the database's included) whether it carries one message or ten. Where many
connections are opened and closed, there is always one more socket to read, and a batch begun at once carries what a
single one of them said.
"""

import time

TURN = 20e-6  # seconds; a turn of the loop that takes longer had something else to do
MOST = 0.001  # seconds that a batch waits at the most


class Pressure:
    """The load of an event loop, seen from within: how long it takes until it is our turn."""

    __slots__ = ("_asked", "_since")

    def __init__(self) -> None:
        self._asked = 0.0  # when our turn was asked for
        self._since = 0.0  # since when a batch waits; 0: none does

    def ask(self) -> None:
        """A turn was asked for now."""
        self._asked = time.monotonic()

    def defers(self, now: float) -> bool:
        """It is our turn; whether a small batch should wait for the next one.

        Args:
            now: by `time.monotonic`.
        """
        if now - self._asked > TURN:
            self._since = self._since or now
            if now - self._since < MOST:
                return True
        self._since = 0.0
        return False

    def settle(self) -> None:
        """No batch waits any more."""
        self._since = 0.0
