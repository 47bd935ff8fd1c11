"""Errors of queues and topics."""

from msgweb.errors import LimitExceeded


class QueueFull(LimitExceeded):
    """A queue with a limit that refuses what is above it (`overflow` is `refuse`)."""

    code = "queue_full"
