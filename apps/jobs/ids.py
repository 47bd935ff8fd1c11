"""Ids of jobs in the order of time (RFC 9562, version 7): neighbours in the index, where random ones touch a page each.

The twelve bits behind the milliseconds count the microseconds within them, four times over.
"""

import os
import struct
import time
import uuid
from collections.abc import Iterator

_VERSION = 0x7000
_VARIANT = 0x8000_0000_0000_0000
_NOISE = 0x3FFF_FFFF_FFFF_FFFF
PORTION = 1_000  # ids for which random bits are fetched at once


def new_id() -> uuid.UUID:
    """An id of this moment."""
    return next(ids_from(time.time_ns() // 1000, 1))


def ids_from(microseconds: int, portion: int = PORTION) -> Iterator[uuid.UUID]:
    """Ids of the moments from that one on, a microsecond apart.

    Args:
        microseconds: since 1970.
        portion: of how many the random bits are fetched at once.
    """
    while True:
        for noise in struct.unpack(f">{portion}Q", os.urandom(8 * portion)):
            milliseconds, rest = divmod(microseconds, 1000)
            time_bits = milliseconds << 16 | _VERSION | rest << 2 | noise >> 62
            yield uuid.UUID(int=time_bits << 64 | _VARIANT | noise & _NOISE)
            microseconds += 1
