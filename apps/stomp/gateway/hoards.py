"""What clients make the gateway keep before it is of any use: frames that have not ended, transactions without COMMIT.

Each connection has limits of its own, but a thousand of them at their limits would fill the machine. So all share one
allowance. Where it is used up, who has said nothing for the longest time is ended: a client that sends is let finish.
"""

from collections import OrderedDict
from typing import Protocol

from apps.stomp.gateway.errors import TooMany
from msgweb.errors import MsgwebError

ALLOWANCE = 256 * 1024 * 1024  # bytes, of a process
SMALL = 64 * 1024  # what a connection may keep uncounted


class Hoarder(Protocol):
    """A connection."""

    def end(self, error: MsgwebError) -> None:
        """Say why, and close."""


class Hoards:
    """The hoards of one gateway process.

    Args:
        most: bytes that all connections may keep together.

    Attributes:
        kept: bytes that they keep.
    """

    def __init__(self, most: int = ALLOWANCE) -> None:
        self._most = most
        self._sizes: OrderedDict[Hoarder, int] = OrderedDict()  # who spoke longest ago first
        self.kept = 0

    def note(self, hoarder: Hoarder, size: int) -> None:
        """A connection that has just spoken keeps so many bytes. Ends others, where together they keep too much."""
        self.kept -= self._sizes.pop(hoarder, 0)
        if size <= SMALL:
            return
        self._sizes[hoarder] = size
        self.kept += size
        while self.kept > self._most and len(self._sizes) > 1:
            stale, freed = self._sizes.popitem(last=False)
            self.kept -= freed
            stale.end(
                TooMany("unfinished frames and transactions fill the server's memory, and this one stood longest")
            )
