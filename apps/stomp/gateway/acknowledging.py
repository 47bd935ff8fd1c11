"""ACK, NACK, and the transactions of one connection."""

from functools import partial
from typing import TYPE_CHECKING

from apps.broker.engine import Done, Message, MessageId, Refusal
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.receipts import Effect
from apps.stomp.gateway.subscriptions import ClientSubscription
from apps.stomp.gateway.transactions import Transaction
from apps.stomp.protocol.events import Abort, Ack, Begin, Commit, Nack
from msgweb.errors import MsgwebError, NotFound, SessionLost

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection


class Acknowledging:
    """What a connection says about messages that it holds, and what it has gathered in transactions.

    Attributes:
        transactions: those that are open, by the client's names.
    """

    __slots__ = ("_connection", "transactions")

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self.transactions: dict[str, Transaction] = {}

    @property
    def gathered(self) -> int:
        """Bytes of bodies that wait for a COMMIT."""
        return sum(transaction.bytes for transaction in self.transactions.values()) if self.transactions else 0

    def acknowledge(self, event: Ack | Nack, refusal: Refusal | None = None) -> None:
        """ACK, or NACK with its refusal.

        Raises:
            NotFound: of a message that this connection does not hold.
        """
        connection = self._connection
        held = connection.held
        taken: dict[ClientSubscription, list[MessageId]] = {}
        unknown: MsgwebError | None = None
        raw_ids, name, receipt, by = event.ids, event.transaction, event.receipt, event.subscription
        for raw in raw_ids:
            try:
                message_id = MessageId(int(raw))
                subscription = held[message_id]
            except (KeyError, ValueError):
                unknown = unknown or self._judge_unknown(raw)
                continue
            if by is not None and by != subscription.id:
                unknown = NotFound(f"the message {message_id} did not come by the subscription {by!r}")
                continue
            if subscription.cumulative:
                ids = subscription.take(message_id)
            else:
                del held[message_id]
                ids = [message_id]
            if subscription in taken:
                taken[subscription] += ids
            else:
                taken[subscription] = ids
        if name is not None:
            transaction = self.transactions[name]
            for subscription, ids in taken.items():
                transaction.add_acks(subscription, ids, refusal)
            if unknown is None:
                self._confirm(transaction, receipt)
        elif taken:
            for subscription, ids in taken.items():  # more than one only in a run, which has no receipts
                done = None if receipt is None else self._confirm_ack(receipt)
                if connection.work is not None:
                    work = connection.work
                    ids = work.acked(ids) if refusal is None else work.nacked(ids, refusal, done)
                    if not ids:
                        if refusal is None and done is not None:
                            done(None)
                        continue
                if refusal is None:
                    connection.engine.ack(subscription.handle, ids, done)
                else:
                    connection.engine.nack(subscription.handle, ids, done, refusal)
        elif unknown is None:
            connection.receipts.settled(receipt)
        if unknown is not None:
            raise unknown

    def _confirm_ack(self, receipt: bytes) -> Done:
        effect = self._connection.receipts.expect(receipt)
        return partial(_tolerating_loss, effect)

    def _judge_unknown(self, raw: bytes) -> MsgwebError | None:
        """What to say about an id that is not held: nothing, where the client cannot know better.

        It cannot when the session was fenced off meanwhile, when the message was a topic's or a browser's, and when it
        acks what `ack:auto` has acked already, as some clients do.
        """
        connection = self._connection
        if raw.isdigit() and len(raw) < 20:
            message_id = MessageId(int(raw))
            if message_id in connection.void:
                del connection.void[message_id]
                return None
        elif raw.startswith(connection.topic_prefix):
            return None
        if connection.receiving.autos or connection.receiving.has_browsed:
            return None
        return NotFound(f"no unacknowledged message {raw[:40].decode(errors='replace')!r} is held by this connection")

    def add_sends(self, name: str, messages: list[Message], receipt: bytes | None) -> None:
        """SEND within a transaction.

        Raises:
            TooMany: frames or bytes.
        """
        transaction = self.transactions[name]
        for message in messages:
            transaction.add_send(message)
        self._confirm(transaction, receipt)

    def _confirm(self, transaction: Transaction, receipt: bytes | None) -> None:
        """A frame's receipt waits for the COMMIT, when the frame takes effect; unless clients expect it now."""
        if receipt is None:
            return
        if self._connection.dialect.confirms_in_transactions:
            self._connection.receipts.settled(receipt)
        else:
            transaction.receipts.append(receipt)

    def drop(self, subscription: ClientSubscription) -> list[MessageId]:
        """A subscription's messages are held no longer: transactions that ack them cannot happen. Returns those."""
        return [
            message_id for transaction in self.transactions.values() for message_id in transaction.drop(subscription)
        ]

    def begin(self, event: Begin) -> None:
        """BEGIN.

        Raises:
            TooMany: open transactions.
        """
        connection = self._connection
        most = connection.options.transactions
        if len(self.transactions) >= most:
            connection.core.drop_transaction(event.transaction)
            raise TooMany(f"a connection has at most {most} open transactions")
        self.transactions[event.transaction] = Transaction(connection.options)
        connection.receipts.settled(event.receipt)

    def commit(self, event: Commit) -> None:
        """COMMIT.

        Raises:
            SessionLost: it cannot take effect any more; nothing of it did.
        """
        connection = self._connection
        transaction = self.transactions.pop(event.transaction)
        if transaction.void:
            transaction.give_back()
            raise SessionLost("a message that this transaction acks is no longer held; nothing of it took effect")
        effects = [connection.receipts.expect(receipt) for receipt in transaction.receipts]
        if event.receipt is not None:
            effects.append(connection.receipts.expect(event.receipt))
        unit = transaction.unit()
        if connection.work is not None:
            connection.work.within(unit)
        done = partial(_settle_together, effects) if effects else connection.unconfirmed
        connection.engine.transact(unit, done)

    def abort(self, event: Abort) -> None:
        """ABORT."""
        self.transactions.pop(event.transaction).give_back()
        self._connection.receipts.settled(event.receipt)

    def release(self) -> None:
        """The connection is over: what its transactions would have acked is unacked again."""
        for transaction in self.transactions.values():
            transaction.give_back()
        self.transactions.clear()


def _settle_together(effects: list[Effect], error: MsgwebError | None) -> None:
    """A COMMIT: the receipts of its frames, then its own; or an ERROR for the COMMIT alone."""
    for effect in effects[:-1]:
        if error is not None:
            effect.receipt = None
        effect(None)
    effects[-1](error)


def _tolerating_loss(effect: Effect, error: MsgwebError | None) -> None:
    """An ACK whose message was taken away meanwhile is accepted: the message comes again, to somebody."""
    effect(None if isinstance(error, NotFound | SessionLost) else error)
