"""Receipts go out in the order of their frames, whatever order the effects happen in."""

from hypothesis import given
from hypothesis import strategies as st

from apps.stomp.gateway.receipts import Effect, Receipts
from msgweb.errors import MsgwebError, NotFound


class Line:
    """What a connection would do with receipts, written down."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.refused: list[tuple[str, bytes | None]] = []
        self.receipts = Receipts(self.written.append, self.refuse)

    def refuse(self, error: MsgwebError, receipt: bytes | None) -> None:
        self.refused.append((error.code, receipt))


def frame(number: int) -> bytes:
    return b"RECEIPT\nreceipt-id:%d\n\n\0\n" % number


@given(st.permutations(range(8)))
def test_any_order_of_effects_gives_the_order_of_frames(order: list[int]) -> None:
    line = Line()
    effects = [line.receipts.expect(b"%d" % number) for number in range(8)]
    finished: set[int] = set()
    for number in order:
        effects[number](None)
        finished.add(number)
        due = next((n for n in range(8) if n not in finished), 8)
        assert line.written == [frame(n) for n in range(due)]


def test_what_had_its_effect_at_once_waits_for_its_turn() -> None:
    line = Line()
    line.receipts.settled(b"0")
    assert line.written == [frame(0)]
    slow = line.receipts.expect(b"1")
    ended: list[bool] = []
    line.receipts.settled(b"2")
    line.receipts.settled(None, lambda: ended.append(True))
    assert line.written == [frame(0)] and not ended
    slow(None)
    assert line.written == [frame(0), frame(1), frame(2)] and ended


def test_a_failed_effect_has_no_receipt_and_holds_nobody_up() -> None:
    line = Line()
    effects: list[Effect] = [line.receipts.expect(b"%d" % number) for number in range(3)]
    effects[2](None)
    effects[1](NotFound("gone"))
    effects[0](None)
    assert line.refused == [("not_found", b"1")]
    assert line.written == [frame(0), frame(2)]
