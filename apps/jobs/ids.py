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
_PACK = struct.Struct(">QQ").pack
_NEW, _SET = uuid.UUID.__new__, object.__setattr__
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
    return map(id_of, raw_ids_from(microseconds, portion))


def raw_ids_from(microseconds: int, portion: int = PORTION) -> Iterator[bytes]:
    """The same, each as its sixteen bytes."""
    while True:
        for noise in struct.unpack(f">{portion}Q", os.urandom(8 * portion)):
            milliseconds, rest = divmod(microseconds, 1000)
            yield _PACK(milliseconds << 16 | _VERSION | rest << 2 | noise >> 62, _VARIANT | noise & _NOISE)
            microseconds += 1


def id_of(raw: bytes) -> uuid.UUID:
    """The id of sixteen bytes, as `UUID(bytes=raw)` makes it, but for the checks that take most of its time."""
    made = _NEW(uuid.UUID)
    _SET(made, "int", int.from_bytes(raw))
    _SET(made, "is_safe", uuid.SafeUUID.unknown)
    return made


def text_of(raw: bytes) -> bytes:
    """The id of sixteen bytes as people write it."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()
