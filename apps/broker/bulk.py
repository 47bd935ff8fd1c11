"""Send many messages to one queue from Django code, by COPY, inside the caller's own transaction."""

from collections.abc import Iterable

from django.db import connections

from apps.broker import outbox
from apps.broker.engine import parse_address
from apps.broker.headers import decode_headers
from apps.broker.sqlstates import translated
from msgweb.errors import BadDestination, BadMessage

COPY_BYTES = 256 * 1024  # handed to the database at once
_PLAIN = """
SELECT max_length IS NULL AND max_bytes IS NULL AND message_ttl IS NULL AND expires_after IS NULL
FROM msgweb.destination WHERE id = %s
"""
_COPY = "COPY msgweb.message (destination, priority, persistent, headers, body) FROM STDIN"


def send_many(
    namespace: str, queue: str, messages: Iterable[tuple[bytes, bytes]], *, priority: int = 4, using: str = "default"
) -> int:
    """Send persistent messages to a queue, in their order.

    A queue with limits or a time to live takes them one by one, as those need it.

    Args:
        messages: headers as `apps.broker.headers.encode_headers` makes them, and bodies.
        priority: 0 to 9, of all of them.

    Returns:
        How many there were.

    Raises:
        BadDestination, BadMessage: they cannot be sent like that.
        NotFound: there is no such namespace.
        QueueFull: the queue's limit refuses one; then none is sent, if the caller's transaction ends there.
    """
    if parse_address(namespace, queue).name != queue:
        raise BadDestination(f"give the bare name of a queue, not {queue!r}")
    if not 0 <= priority <= 9:
        raise BadMessage(f"a priority is 0 to 9, not {priority}")
    with translated(), connections[using].cursor() as cursor:
        cursor.execute("SELECT msgweb.destination_id(%s, 'queue', %s)", [namespace, queue])
        (target,) = cursor.fetchone()
        cursor.execute(_PLAIN, [target])
        (plain,) = cursor.fetchone()
        if not plain:
            count = 0
            for headers, body in messages:
                outbox.send(namespace, queue, body, headers=decode_headers(headers), priority=priority, using=using)
                count += 1
            return count
        cursor.execute("SELECT nextval('msgweb.message_id')")
        (before,) = cursor.fetchone()
        head = f"{target}\t{priority}\tt\t\\\\x"
        count = size = 0
        with cursor.copy(_COPY) as copy:
            parts: list[str] = []
            waiting = 0
            for headers, body in messages:
                parts.append(f"{head}{headers.hex()}\t\\\\x{body.hex()}\n")
                count += 1
                size += len(headers) + len(body)
                waiting += len(headers) + len(body)
                if waiting > COPY_BYTES:
                    copy.write("".join(parts))
                    parts.clear()
                    waiting = 0
            copy.write("".join(parts))
        cursor.execute(
            "SELECT msgweb.announce(%s, %s, 'sent', NULL, '{}', %s), msgweb.count(%s, sent => %s, sent_bytes => %s)",
            [target, before, priority, target, count, size],
        )
    return count
