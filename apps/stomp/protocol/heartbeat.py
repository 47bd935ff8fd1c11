"""The arithmetic of heart-beats (STOMP 1.2, "Heart-beating"). All in milliseconds; 0 means none."""

import re
from typing import NamedTuple

from apps.stomp.protocol.errors import BadHeaderValue

_PAIR = re.compile(r"(\d{1,9}),(\d{1,9})")
TOLERANCE_MS = 5_000


class HeartBeat(NamedTuple):
    """A `heart-beat` header: what the side can guarantee to send, and what it would like to receive."""

    sends: int = 0
    wants: int = 0

    def __str__(self) -> str:
        return f"{self.sends},{self.wants}"


class Beats(NamedTuple):
    """What was agreed: the intervals in each direction."""

    from_client: int = 0
    to_client: int = 0


def parse(text: str) -> HeartBeat:
    """The header's value.

    Raises:
        BadHeaderValue: not two whole numbers with a comma.
    """
    match = _PAIR.fullmatch(text)
    if not match:
        raise BadHeaderValue(f"heart-beat must be two numbers of milliseconds such as 10000,10000, not {text!r}")
    return HeartBeat(int(match[1]), int(match[2]))


def agree(client: HeartBeat, server: HeartBeat) -> Beats:
    """Each direction at the slower of what one can do and the other wants; 0 on either side switches it off."""
    return Beats(
        from_client=max(client.sends, server.wants) if client.sends and server.wants else 0,
        to_client=max(server.sends, client.wants) if server.sends and client.wants else 0,
    )


def read_deadline(interval: int) -> int:
    """How long silence is tolerated: "because of timing inaccuracies, the receiver SHOULD be tolerant"."""
    return max(2 * interval, interval + TOLERANCE_MS)


def write_interval(interval: int) -> int:
    """After how long without a write a beat goes out: half of what was promised, so that a late timer is no breach."""
    return max(1, interval // 2)
