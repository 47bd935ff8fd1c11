"""Stand-in until the owner's file arrives: overwrite it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What happened at a destination."""

    sent: int = 0
    sent_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    acked: int = 0
    redelivered: int = 0
    failed: int = 0
    dead_lettered: int = 0
    expired: int = 0
    dropped: int = 0
