"""A limit for request bodies, before Django.

Django's ASGI handler writes a whole body to disk before any view, or any check of who sends it, sees the request.
"""

import json
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from msgweb.errors import LimitExceeded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

#: Bytes: a message of 16 MiB, and its envelope.
BODY_LIMIT = 17 * 1024 * 1024


def limited(application: Application, limit: int = BODY_LIMIT) -> Application:
    """The application, with 413 (problem details, RFC 9457) for bodies over `limit` bytes."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > limit:
            await _refuse(send, limit)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # chunked: it announced no length
                raise LimitExceeded("")
            return message

        try:
            await application(scope, counted, send)
        except LimitExceeded:
            await _refuse(send, limit)

    return guarded


async def _refuse(send: Send, limit: int) -> None:
    problem = {
        "type": "about:blank",
        "title": "The request is too large",
        "status": LimitExceeded.status,
        "code": LimitExceeded.code,
        "detail": f"a request's body has at most {limit} bytes",
    }
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": LimitExceeded.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
