"""The memory that clients share for what they have not finished."""

from apps.stomp.gateway.hoards import SMALL, Hoards
from msgweb.errors import MsgwebError


class Client:
    """A connection that notes its end, and then keeps nothing."""

    def __init__(self, hoards: Hoards) -> None:
        self.hoards = hoards
        self.code: str | None = None

    def end(self, error: MsgwebError) -> None:
        self.code = error.code
        self.hoards.note(self, 0)


def test_who_spoke_longest_ago_is_ended_where_all_keep_too_much() -> None:
    hoards = Hoards(10 * SMALL)
    first, second, third = (Client(hoards) for _ in range(3))
    hoards.note(first, 4 * SMALL)
    hoards.note(second, 4 * SMALL)
    hoards.note(first, 5 * SMALL)  # it goes on
    hoards.note(third, 5 * SMALL)
    assert (first.code, second.code, third.code) == (None, "limit_exceeded", None)
    assert hoards.kept == 10 * SMALL
    hoards.note(third, 0)
    assert hoards.kept == 5 * SMALL


def test_one_alone_is_held_to_its_own_limits_and_what_is_small_is_not_counted() -> None:
    hoards = Hoards(10 * SMALL)
    alone, small = Client(hoards), Client(hoards)
    hoards.note(alone, 20 * SMALL)
    hoards.note(small, SMALL)
    assert alone.code is None and hoards.kept == 20 * SMALL
