"""What the catalogue says of a queue, as the statements `describe` and `describe_named` answer."""

from typing import NamedTuple

from psycopg import pq

from apps.broker.postgres import packing


class Described(NamedTuple):
    """The settings that a process has to know; see `queues.Queue`."""

    paused: bool
    exclusive: bool
    special: bool
    keeps: bool
    grouped: bool


def read_described(result: pq.abc.PGresult) -> dict[int, Described]:
    """The rows of an answer, by id."""
    value = result.get_value
    return {
        packing.unpack_int(value(row, 0)): Described(*(value(row, column) == b"\x01" for column in range(1, 6)))
        for row in range(result.ntuples)
    }
