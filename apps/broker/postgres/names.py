"""What is said of queues: by the catalogue (the answers of `describe` and `describe_named`), and by wake-ups."""

from typing import NamedTuple

from psycopg import pq

from apps.broker.postgres import packing

HIGHEST = 9  # priority


class Ready(NamedTuple):
    """Something became ready in a queue.

    Attributes:
        queue: its id.
        first: at this place or behind it; 0: anywhere.
        grouped: there may be messages of groups among it.
        priority: none of it is above this.
    """

    queue: int
    first: int = 0
    grouped: bool = False
    priority: int = HIGHEST


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
