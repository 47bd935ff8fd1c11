"""What a client's transaction gathers until its COMMIT."""

from typing import TYPE_CHECKING

from apps.broker.engine import Message, MessageId, Refusal, Unit
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.options import GatewayOptions

if TYPE_CHECKING:
    from apps.stomp.gateway.subscriptions import ClientSubscription


class Transaction:
    """Between BEGIN and COMMIT or ABORT.

    Attributes:
        bytes: of the bodies that it holds.
        receipts: of its frames, in order, that wait for the COMMIT.
        void: a message that it acks was taken away from this process; the whole cannot happen any more.
    """

    __slots__ = ("_frames", "_options", "_taken", "bytes", "receipts", "sends", "void")

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._frames = 0
        self.bytes = 0
        self.sends: list[Message] = []
        self._taken: list[tuple[ClientSubscription, list[MessageId], Refusal | None]] = []  # None: an ACK
        self.receipts: list[bytes] = []
        self.void = False

    def add_send(self, message: Message) -> None:
        """Gather a SEND.

        Raises:
            TooMany: frames or bytes.
        """
        self._count(len(message.body))
        self.sends.append(message)

    def add_acks(
        self,
        subscription: "ClientSubscription",
        ids: list[MessageId],
        refusal: Refusal | None,
    ) -> None:
        """Gather an ACK, or a NACK with its refusal; the ids are taken from the subscription already.

        Raises:
            TooMany: frames.
        """
        self._taken.append((subscription, ids, refusal))
        self._count(0)

    def drop(self, subscription: "ClientSubscription") -> list[MessageId]:
        """The subscription's messages are no longer held. Returns those that it would have acked."""
        dropped = [message_id for one, ids, _ in self._taken if one is subscription for message_id in ids]
        if dropped:
            self.void = True
            self._taken = [taken for taken in self._taken if taken[0] is not subscription]
        return dropped

    def give_back(self) -> None:
        """It does not happen: what it would have acked is unacked again, in the order of delivery."""
        for subscription, ids, _ in reversed(self._taken):
            subscription.put_back(ids)

    def unit(self) -> Unit:
        """What the engine is to do at COMMIT."""
        return Unit(
            self.sends,
            [(subscription.handle, ids) for subscription, ids, refusal in self._taken if refusal is None],
            [(subscription.handle, ids, refusal) for subscription, ids, refusal in self._taken if refusal is not None],
        )

    def _count(self, size: int) -> None:
        self._frames += 1
        self.bytes += size
        if self._frames > self._options.transaction_frames:
            raise TooMany(f"a transaction has at most {self._options.transaction_frames} frames")
        if self.bytes > self._options.transaction_bytes:
            raise TooMany(f"a transaction has at most {self._options.transaction_bytes} bytes")
