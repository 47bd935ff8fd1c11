"""The limit for request bodies, before Django."""

import asyncio
import json
from typing import Any

import pytest

from msgweb.body_limit import limited


async def whole_body(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(pieces: list[bytes], announced: bytes | None = None) -> tuple[int, bytes, int]:
    """Status and body of the answer, and how many pieces were read."""
    sent: list[Any] = []
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if announced is None else [(b"content-length", announced)]
    asyncio.run(limited(whole_body, 10)({"type": "http", "headers": headers}, receive, send))  # type: ignore[arg-type]
    start, body = sent
    return start["status"], body["body"], read


@pytest.mark.parametrize("announced", [None, b"10"])
def test_a_body_within_the_limit_passes(announced: bytes | None) -> None:
    assert ask([b"12345", b"67890"], announced) == (200, b"10", 2)


def test_a_body_that_announces_too_much_is_refused_unread() -> None:
    status, body, read = ask([b"12345678901"], b"11")
    assert (status, read) == (413, 0)
    assert json.loads(body)["code"] == "limit_exceeded"


def test_a_body_that_announces_nothing_is_refused_once_it_is_too_large() -> None:
    status, body, read = ask([b"123456", b"123456", b"never read"])
    assert (status, read) == (413, 2)
    assert json.loads(body)["status"] == 413
