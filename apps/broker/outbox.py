"""Send from Django code, inside the caller's own transaction: an outbox for nothing.

A message that was sent in a transaction is seen by nobody before COMMIT, and never was if it is rolled back.
"""

import json
from collections.abc import Mapping

from django.db import DatabaseError, connections

from apps.broker.errors import QueueFull
from apps.broker.headers import encode_headers
from msgweb.errors import BadDestination, BadMessage, NotFound


def send(
    namespace: str,
    destination: str,
    body: bytes | str,
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
    persistent: bool = True,
    priority: int = 4,
    ttl: float | None = None,
    delay: float = 0.0,
    group: str | None = None,
    deduplication: str | None = None,
    using: str = "default",
) -> int | None:
    """Send a message to a queue or a topic.

    Args:
        namespace: such as `taoshop.production`.
        destination: `/queue/x`, `/topic/x`, `/reply-queue/x`, or a bare `x` (a queue).
        body: text is sent as UTF-8.
        headers: the message's own headers; `content_type` adds one.
        persistent: whether it survives a crash of Postgres.
        priority: 0 to 9, higher first.
        ttl: seconds from when it is available until it expires.
        delay: seconds until it is available.
        group: messages of one group are processed one at a time, in order.
        deduplication: a key: a second message with it within the queue's window is dropped.
        using: Django's name of the database connection whose transaction it joins.

    Returns:
        The message's id; None for a topic, for a duplicate, and for a reply queue that has ended (it is dropped).

    Raises:
        BadDestination, BadMessage: it cannot be sent like that.
        NotFound: there is no such namespace.
        QueueFull: the queue's limit refuses it.
    """
    wire = dict(headers or {})
    if content_type is not None:
        wire["content-type"] = content_type
    encode_headers(wire)  # refuses what could not be delivered
    if not 0 <= priority <= 9:
        raise BadMessage(f"a priority is 0 to 9, not {priority}")
    data = body.encode() if isinstance(body, str) else bytes(body)
    try:
        with connections[using].cursor() as cursor:
            cursor.execute(
                "SELECT msgweb.send(%s, %s, %s::bytea, %s::jsonb, %s, %s, %s, %s, %s, %s)",
                [
                    *(namespace, destination, data, json.dumps(wire), persistent, priority),
                    *(ttl, delay, group, deduplication),
                ],
            )
            (message_id,) = cursor.fetchone()
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None)
        text = str(error.__cause__).partition("\n")[0]
        if state == "MW400":
            raise BadDestination(text) from error
        if state == "MW404":
            raise NotFound(text) from error
        if state == "MW413":
            raise QueueFull(text) from error
        raise
    return None if message_id is None else int(message_id)
