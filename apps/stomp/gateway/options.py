"""The gateway's limits and defaults, in one place."""

from dataclasses import dataclass, field

from apps.stomp.protocol.connection import HEART_BEAT
from apps.stomp.protocol.heartbeat import HeartBeat
from apps.stomp.protocol.parser import Limits


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Settings of a gateway.

    Attributes:
        login_seconds: from the TCP connection to a successful CONNECT.
        linger_seconds: how long a connection that ended may take to read its last frame.
        prefetch: unacked messages of a subscription that does not say; never unlimited.
        prefetch_limit: what a subscription may ask for; 0 asks for this much.
        auto_credit: unacked messages of an `ack:auto` subscription, which the gateway acks as it writes them.
        subscriptions, transactions: open at once on a connection.
        transaction_frames, transaction_bytes: what one transaction may gather before its COMMIT.
        errands: requests for jobs that a connection may have under way before its socket is read no more; words about
            one job that are recorded together are one.
        errand_bytes: what they may take in memory, before the same.
        cancel_grace: seconds between the word to a client that its job is to stop and the job's being taken from it.
        write_buffer: bytes waiting for a client that does not read, before its topics drop and its auto acks stop.
        receipt_buffer: bytes waiting for such a client, before its socket is read no more: only receipts can pile up so
            far. Well above `write_buffer`, since a client that writes its ACKs while it does not read must be heard.
    """

    limits: Limits = field(default_factory=Limits)
    heart_beat: HeartBeat = HEART_BEAT
    login_seconds: float = 10.0
    linger_seconds: float = 2.0
    prefetch: int = 10
    prefetch_limit: int = 10_000
    auto_credit: int = 1_000
    subscriptions: int = 1_000
    transactions: int = 100
    transaction_frames: int = 50_000
    transaction_bytes: int = 64 * 1024 * 1024
    errands: int = 100
    errand_bytes: int = 1024 * 1024
    cancel_grace: float = 10.0
    write_buffer: int = 1024 * 1024
    receipt_buffer: int = 8 * 1024 * 1024
