"""Where RabbitMQ's STOMP and ActiveMQ's differ, so that clients written for either move over unchanged.

Which one a client speaks is not told by the protocol: it is a property of the listener that it connects to. What
neither broker's clients rely on is the same in both: see docs/reference/migration.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """One broker's habits.

    Attributes:
        name: as listeners name it.
        server: what CONNECTED's `server` says in brackets. stomp-php chooses its own behaviour by that word.
        confirms_in_transactions: the receipt of a SEND, ACK or NACK inside a transaction comes at once, not at COMMIT.
        survives_errors: an ERROR leaves the connection open in every version, unless the stream is broken. Otherwise
            only on 1.0: PECL stomp's own tests need it there.
        strict_ids: from 1.1 on SUBSCRIBE needs an `id` and an ACK the `subscription` that its message came by; 1.0 has
            no NACK.
        relative_expiry: the header `expiration` is a time to live in milliseconds; otherwise `expires` is a time in
            milliseconds since 1970.
        implied_reply_subscription: `reply-to:/temp-queue/x` subscribes to it as well.
        named_durables: a durable subscription is named by CONNECT's `client-id` and SUBSCRIBE's
            `activemq.subscriptionName`; otherwise by its `id`, its destination and `durable:true`.
        remote_queue, remote_topic: how somebody else's temporary destinations are called.
    """

    name: str
    server: str
    confirms_in_transactions: bool
    survives_errors: bool
    strict_ids: bool
    relative_expiry: bool
    implied_reply_subscription: bool
    named_durables: bool
    remote_queue: str
    remote_topic: str


RABBITMQ = Dialect(
    name="rabbitmq",
    server="RabbitMQ-compatible",
    confirms_in_transactions=False,
    survives_errors=False,
    strict_ids=False,
    relative_expiry=True,
    implied_reply_subscription=True,
    named_durables=False,
    remote_queue="/reply-queue/",
    remote_topic="/reply-topic/",
)
ACTIVEMQ = Dialect(
    name="activemq",
    server="ActiveMQ-compatible",
    confirms_in_transactions=True,
    survives_errors=True,
    strict_ids=True,
    relative_expiry=False,
    implied_reply_subscription=False,
    named_durables=True,
    remote_queue="/remote-temp-queue/",
    remote_topic="/remote-temp-topic/",
)
DIALECTS = {dialect.name: dialect for dialect in (RABBITMQ, ACTIVEMQ)}
