"""Whether the event loop is busy: then a small batch waits for what the loop is about to bring.

A commit costs its processor time (0.1 ms, the database's included) whether it carries one message or ten. Where many
connections are opened and closed, there is always one more socket to read, and a batch begun at once carries what a
single one of them said.
"""

import time

TURN = 20e-6  # seconds; a turn of the loop that takes longer had something else to do
MOST = 0.001  # seconds that a batch waits at the most
WORTH = 0.5  # operations that a wait must bring on average; beside connections that only cost time it brings none
PROBE = 16  # while it does not, one batch in so many waits nevertheless, to see
SHARE = 0.1  # of the latest wait in the average


class Pressure:
    """The load of an event loop, seen from within: how long it takes until it is our turn; and what waiting brings."""

    __slots__ = ("_asked", "_batches", "_few", "_gain", "_since")

    def __init__(self) -> None:
        self._asked = 0.0  # when our turn was asked for
        self._since = 0.0  # since when a batch waits; 0: none does
        self._few = 0  # how large it was then
        self._gain = 1.0  # by how many operations batches grew that waited, on average
        self._batches = 0

    def ask(self) -> None:
        """A turn was asked for now."""
        self._asked = time.monotonic()

    def defers(self, now: float, size: int) -> bool:
        """It is our turn; whether a small batch should wait for the next one.

        Args:
            now: by `time.monotonic`.
            size: of the batch, in operations.
        """
        if now - self._asked <= TURN:
            return False
        if not self._since:
            self._batches += 1
            if self._gain < WORTH and self._batches % PROBE:
                return False
            self._since, self._few = now, size
        return now - self._since < MOST

    def settle(self, size: int) -> None:
        """A batch of so many operations begins: none waits any more."""
        if self._since:
            self._gain += SHARE * (size - self._few - self._gain)
            self._since = 0.0
