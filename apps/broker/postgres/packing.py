"""Postgres's binary formats, packed by hand: one join an array instead of one object an element.

Layout of an array (src/backend/utils/adt/arrayfuncs.c, array_recv): number of dimensions, has-nulls flag, element
type, then for the one dimension its length and lower bound, then each element as length and bytes.
"""

from collections.abc import Sequence
from struct import Struct, pack, unpack

BOOL, BYTEA, INT8, INT2, INT4, TEXT, FLOAT8 = 16, 17, 20, 21, 23, 25, 701

_header = Struct("!iiIii").pack
_length = Struct("!i").pack
_EMPTY = {oid: pack("!iiI", 0, 0, oid) for oid in (BOOL, BYTEA, INT8, INT2, INT4, TEXT, FLOAT8)}

int2 = Struct("!h").pack
int4 = Struct("!i").pack
int8 = Struct("!q").pack
float8 = Struct("!d").pack
boolean = Struct("!?").pack


def fixed_array(oid: int, code: str, width: int, values: Sequence[float]) -> bytes:
    """An array of numbers, each `width` bytes as struct's `code` packs it."""
    if not values:
        return _EMPTY[oid]
    count = len(values)
    interleaved: list[float] = [width] * (2 * count)
    interleaved[1::2] = values
    return _header(1, 0, oid, count, 1) + pack("!" + ("i" + code) * count, *interleaved)


def int8_array(values: Sequence[int]) -> bytes:
    """bigint[]"""
    return fixed_array(INT8, "q", 8, values)


def int4_array(values: Sequence[int]) -> bytes:
    """integer[]"""
    return fixed_array(INT4, "i", 4, values)


def int2_array(values: Sequence[int]) -> bytes:
    """smallint[]"""
    return fixed_array(INT2, "h", 2, values)


def bool_array(values: Sequence[bool]) -> bytes:
    """boolean[]"""
    return fixed_array(BOOL, "?", 1, values)


def float8_array(values: Sequence[float]) -> bytes:
    """double precision[]"""
    return fixed_array(FLOAT8, "d", 8, values)


def bytes_array(oid: int, values: Sequence[bytes]) -> bytes:
    """bytea[] or, of UTF-8, text[]"""
    if not values:
        return _EMPTY[oid]
    parts: list[bytes] = [b""] * (2 * len(values))
    parts[0::2] = [_length(len(value)) for value in values]
    parts[1::2] = values
    return _header(1, 0, oid, len(values), 1) + b"".join(parts)


def text_array(values: Sequence[str]) -> bytes:
    """text[]"""
    return bytes_array(TEXT, [value.encode() for value in values])


def unpack_int(data: bytes | None) -> int:
    """An int2, int4 or int8 of a result."""
    return int.from_bytes(data or b"", "big", signed=True)


def unpack_int4_array(data: bytes | None) -> Sequence[int]:
    """The integer[] of a result, of one dimension and without nulls; null and empty alike are empty."""
    if data is None or len(data) < 20:
        return ()
    count = int.from_bytes(data[12:16], "big")
    return unpack("!" + "4xi" * count, data[20:])
