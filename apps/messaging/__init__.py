"""The Messaging API for Python programs: send, publish, request, on/run, over STOMP.

A client library: it imports no server code and no Django, so a program anywhere may use it with nothing but this
folder and stomp.py. Its twin for PHP is `clients/php`.

    from apps.messaging import Messaging

    with Messaging.from_environment() as messaging:
        messaging.send("mails", {"to": "ann@example.org"})
        clone = messaging.request("firebrand.clone_brand", {"source": "acme", ...}, timeout=600, on_progress=print)
"""

from apps.messaging.client import Handler, Messaging
from apps.messaging.credentials import Credentials
from apps.messaging.errors import (
    BadBody,
    BadCredentials,
    BadMessage,
    ConnectionFailed,
    JobCancelled,
    MessagingError,
    OutcomeUnknown,
    Refused,
    ReplyTimeout,
    RequestFailed,
)
from apps.messaging.message import Accepted, Body, Message, Progress, Reply

__all__ = [
    "Accepted",
    "BadBody",
    "BadCredentials",
    "BadMessage",
    "Body",
    "ConnectionFailed",
    "Credentials",
    "Handler",
    "JobCancelled",
    "Message",
    "Messaging",
    "MessagingError",
    "OutcomeUnknown",
    "Progress",
    "Refused",
    "Reply",
    "ReplyTimeout",
    "RequestFailed",
]
