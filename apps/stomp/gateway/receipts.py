"""Receipts and errors in the order of the frames that they answer, whatever order the effects happen in.

stomp-php waits for one receipt at a time and throws at a different id; and an ERROR that overtook the receipts of
earlier frames would leave their sender in the dark about what took effect.
"""

from collections import deque
from collections.abc import Callable

from apps.stomp.protocol import encoder
from msgweb.errors import MsgwebError

Refuse = Callable[[MsgwebError, bytes | None], None]


class Effect:
    """The effect of one frame, under way. It is what the engine calls back: an `apps.broker.engine.Done`.

    Attributes:
        receipt: as the client named it; None once it must not be confirmed.
    """

    __slots__ = ("_receipts", "error", "finished", "receipt", "then")

    def __init__(self, receipts: "Receipts", receipt: bytes | None, then: Callable[[], None] | None = None) -> None:
        self._receipts = receipts
        self.error: MsgwebError | None = None
        self.receipt = receipt
        self.then = then
        self.finished = False

    def __call__(self, error: MsgwebError | None) -> None:
        receipts = self._receipts
        self.error = error
        self.finished = True
        if receipts.waiting and receipts.waiting[0] is self:
            receipts.settle()


class Receipts:
    """The receipts that a connection owes.

    Args:
        write: takes a RECEIPT frame.
        refuse: called in its turn when an effect failed, with the receipt that will not come.

    Attributes:
        waiting: effects in the order of their frames.
    """

    __slots__ = ("_write", "refuse", "waiting")

    def __init__(self, write: Callable[[bytes], None], refuse: Refuse) -> None:
        self.waiting: deque[Effect] = deque()
        self._write = write
        self.refuse = refuse

    def expect(self, receipt: bytes) -> Effect:
        """A frame whose effect is yet to come."""
        effect = Effect(self, receipt)
        self.waiting.append(effect)
        return effect

    def settled(self, receipt: bytes | None, then: Callable[[], None] | None = None) -> None:
        """A frame that has had its effect already; `then` is called once its turn has come."""
        if receipt is None and then is None:
            return
        effect = Effect(self, receipt, then)
        effect.finished = True
        self.waiting.append(effect)
        if len(self.waiting) == 1:
            self.settle()

    def fall_silent(self) -> None:
        """The connection is gone: whatever is still under way has nobody to be confirmed to."""
        self.waiting.clear()
        self._write = self.refuse = _nobody

    def settle(self) -> None:
        """Confirm whatever is at the head of the line and finished."""
        waiting = self.waiting
        while waiting and waiting[0].finished:
            effect = waiting.popleft()
            if effect.error is not None:
                self.refuse(effect.error, effect.receipt)
                continue
            if effect.receipt is not None:
                self._write(encoder.receipt(effect.receipt))
            if effect.then is not None:
                effect.then()


def _nobody(*_: object) -> None:
    """Hears what is said to a connection that is gone."""
