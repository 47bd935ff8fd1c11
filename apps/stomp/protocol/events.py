"""What the protocol core makes of received bytes. Beats make no event.

Receipts (`receipt`) are the header's bytes as received: they go back on the same connection as they came. Headers are
decoded text, the first of repeated ones winning (STOMP 1.2, "Repeated Header Entries"), except in `SendHead`.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from apps.stomp.protocol.errors import RemoteProtocolError

AckMode = Literal["auto", "client", "client-individual"]


class SendHead:
    """The headers of a SEND, shared by all SENDs whose headers are the same but for the receipt: those of a connection,
    and of others that share what they learn (`Parser.resume`).

    Attributes:
        destination: decoded; empty where there was none.
        headers: the sender's own headers in its order, as they are kept (see `headers`).
        fields: raw values by raw name, the first of repeated ones, for looking at single headers. Escaped as kept.
        transaction: decoded, or None.
        special: it has a transaction, or lacks a destination.
        plan: whatever the shell wants to remember about this head; the core never looks at it.
    """

    __slots__ = ("destination", "fields", "headers", "plan", "special", "transaction")

    def __init__(self, destination: str, headers: bytes, fields: dict[bytes, bytes], transaction: str | None) -> None:
        self.destination = destination
        self.headers = headers
        self.fields = fields
        self.transaction = transaction
        self.special = transaction is not None or not destination
        self.plan: Any = None

    def anew(self) -> "SendHead":
        """The same, with nothing remembered about it."""
        return SendHead(self.destination, self.headers, self.fields, self.transaction)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SendHead) and (self.destination, self.headers, self.fields, self.transaction) == (
            other.destination,
            other.headers,
            other.fields,
            other.transaction,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SendHead({self.destination!r}, {self.headers!r}, transaction={self.transaction!r})"


class Connect(NamedTuple):
    """CONNECT or STOMP with a version in common. The shell answers with `accept` or `refuse`."""

    login: str | None
    passcode: str | None
    host: str | None
    headers: Mapping[str, str]


class Send(NamedTuple):
    """SEND."""

    head: SendHead
    receipt: bytes | None
    body: bytes


class Subscribe(NamedTuple):
    """SUBSCRIBE. `id` is the destination where the client gave none; `named` says whether it gave one."""

    id: str
    named: bool
    destination: str
    ack: AckMode
    headers: Mapping[str, str]
    receipt: bytes | None


class Unsubscribe(NamedTuple):
    """UNSUBSCRIBE of a subscription that exists."""

    id: str
    headers: Mapping[str, str]
    receipt: bytes | None


class Ack(NamedTuple):
    """ACK. A run of plain ACK frames comes as one event, its ids in order: where a run is cut depends on the reads.

    `subscription`: by which the message must have come; None where that does not matter.
    """

    ids: list[bytes]
    transaction: str | None
    receipt: bytes | None
    subscription: str | None = None


class Nack(NamedTuple):
    """NACK, of one message."""

    ids: list[bytes]
    transaction: str | None
    headers: Mapping[str, str]
    receipt: bytes | None
    subscription: str | None = None


class Begin(NamedTuple):
    """BEGIN of a transaction that was not open."""

    transaction: str
    receipt: bytes | None


class Commit(NamedTuple):
    """COMMIT of an open transaction."""

    transaction: str
    receipt: bytes | None


class Abort(NamedTuple):
    """ABORT of an open transaction."""

    transaction: str
    receipt: bytes | None


class Disconnect(NamedTuple):
    """DISCONNECT. Nothing after it is read."""

    receipt: bytes | None


class Violation(NamedTuple):
    """The peer broke the protocol. `fatal`: the connection must end, and nothing after it is read."""

    error: RemoteProtocolError
    receipt: bytes | None
    fatal: bool


Event = Connect | Send | Subscribe | Unsubscribe | Ack | Nack | Begin | Commit | Abort | Disconnect | Violation
