"""The event stream: a plain ASGI application beside Django, because Django holds a thread for each open stream.

`GET /events/job/<token>` follows one job, `GET /events/status/<token>` too, but without its log and its errors, and
`GET /events/topic/<token>` one topic; all are Server-Sent Events (WHATWG HTML, 9.2). The token
(`apps.console.tokens`) says what may be heard.

A job's events are `state`, `progress` and `log`, each with the id of its row, so that a browser that lost the
connection resumes with `Last-Event-ID` (or `?after=`) and misses nothing. Then `end`: the job has ended and everything
was sent. A topic's are `message`, and `missed` where the listener was too slow.
`expired` asks the page to load itself again.
"""

import asyncio
import json
import logging
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from apps.broker.engine import Address
from apps.console.feed import JobFeed, feed_of_loop
from apps.console.tokens import TokenExpired, grant_of
from apps.console.topics import as_json, topics_of_loop
from apps.jobs.models import Event
from msgweb.errors import MsgwebError, NotFound, Unavailable

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Seconds of silence after which a comment is sent, so that proxies keep the connection and we notice a dead client.
PING_SECONDS = 15.0
#: Seconds that a client may take for one write; a slower one is let go and resumes when it can.
WRITE_SECONDS = 30.0
#: Seconds that open streams have to end by themselves when the process ends.
CLOSE_SECONDS = 1.0
#: Milliseconds after which a browser connects again.
RETRY = b"retry: 2000\n\n"

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
    (b"x-content-type-options", b"nosniff"),
]

_streams: "weakref.WeakSet[asyncio.Task[None]]" = weakref.WeakSet()


class Disconnected(Exception):
    """The client is gone, or too slow."""


async def event_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request below `/events`."""
    stream = Stream(scope, receive, send)
    task = asyncio.current_task()
    assert task is not None
    _streams.add(task)
    try:
        await _answer(stream, scope)
    except Disconnected:
        pass
    finally:
        _streams.discard(task)
        stream.close()


async def _answer(stream: "Stream", scope: Scope) -> None:
    parts = scope["path"].removeprefix("/events/").split("/")
    if len(parts) != 2 or parts[0] not in ("job", "status", "topic"):
        await stream.refuse(NotFound("there is no such stream"))
        return
    if scope["method"] != "GET":
        await stream.refuse(NotFound("a stream can only be read"))
        return
    kind, token = parts
    try:
        if kind == "job":
            await _follow_job(stream, uuid.UUID(grant_of("job", token).value), _job_event)
        elif kind == "status":
            await _follow_job(stream, uuid.UUID(grant_of("status", token).value), _status_event)
        else:
            grant = grant_of("topic", token)
            await _follow_topic(stream, Address(grant.namespace, "topic", grant.value))
    except TokenExpired as error:
        # A status other than 200 would hide the reason: an EventSource shows it to nobody.
        await stream.begin()
        await stream.write(_event("expired", {"code": error.code, "message": error.message}))
    except Unavailable:
        await stream.begin()  # its `retry` is all that there is to say; the browser comes again
    except MsgwebError as error:
        await stream.refuse(error)
    if stream.begun:
        await stream.end()


async def _follow_job(stream: "Stream", job_id: uuid.UUID, encode: Callable[[Event], bytes]) -> None:
    feed = feed_of_loop()
    position = stream.resume_after()
    async with feed.watch(job_id) as watch:
        while not feed.closing.is_set():
            batch = await feed.read(job_id, position)
            if batch.state is None and not stream.begun:
                raise NotFound("there is no such job any more")
            await stream.begin()
            if batch.events:
                position = batch.events[-1].id
                await stream.write(b"".join(map(encode, batch.events)))
            if batch.is_last:
                await stream.write(_event("end", {"state": batch.state}))
                return
            watch.seen = position
            if batch.is_full:
                continue
            while not await stream.unless_gone(watch.wait(PING_SECONDS)) and not feed.closing.is_set():
                await stream.write(b": ping\n\n")


async def _follow_topic(stream: "Stream", address: Address) -> None:
    feed = feed_of_loop()
    async with topics_of_loop().listen(address) as listener, _woken_at_close(feed, listener.woken):
        await stream.begin()
        await stream.write(_event("listening", {"destination": str(address)}))
        while not feed.closing.is_set():
            if not await stream.unless_gone(_wait(listener.woken, PING_SECONDS)):
                await stream.write(b": ping\n\n")
                continue
            deliveries, missed = listener.take()
            if missed:
                await stream.write(_event("missed", {"count": missed}))
            await stream.write(b"".join(_event("message", as_json(delivery)) for delivery in deliveries))


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


@asynccontextmanager
async def _woken_at_close(feed: JobFeed, event: asyncio.Event) -> AsyncIterator[None]:
    async def wake() -> None:
        await feed.closing.wait()
        event.set()

    task = asyncio.create_task(wake())
    try:
        yield
    finally:
        task.cancel()


def close_streams() -> None:
    """End every stream of the running event loop, soon: its process was asked to end. Clients connect again."""
    feed_of_loop().close()
    loop = asyncio.get_running_loop()
    loop.call_later(CLOSE_SECONDS, lambda: [task.cancel() for task in list(_streams) if task.get_loop() is loop])


def _job_event(event: Event) -> bytes:
    return _event(event.kind, {"at": event.at.isoformat(), **event.data}, event.id)


def _status_event(event: Event) -> bytes:
    """For the person who waits: how far it is, not why."""
    if event.kind == Event.Kind.LOG:
        return b""
    if event.kind == Event.Kind.STATE:
        return _event(event.kind, {"at": event.at.isoformat(), "state": event.data.get("state")}, event.id)
    return _job_event(event)


def _event(name: str, data: dict[str, Any], event_id: int | None = None) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))  # one line: JSON escapes line ends
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {name}\ndata: {text}\n\n".encode()


class Stream:
    """One response, and the watch over its client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._gone: asyncio.Task[None] | None = None

    def resume_after(self) -> int:
        """The id of the last event that the client has: `Last-Event-ID`, else `?after=`, else 0."""
        candidates: Iterable[bytes] = [value for name, value in self._scope["headers"] if name == b"last-event-id"]
        query = parse_qs(self._scope.get("query_string", b""))
        for text in [*candidates, *query.get(b"after", [])]:
            if text.isdigit() and len(text) < 19:
                return int(text)
        return 0

    async def begin(self) -> None:
        """Send the head of an event stream, once."""
        if self.begun:
            return
        self.begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send({"type": "http.response.body", "body": RETRY, "more_body": True})
        self._gone = asyncio.create_task(self._disconnect())

    async def refuse(self, error: MsgwebError) -> None:
        """Answer with problem details (RFC 9457) instead of a stream; a browser does not try again."""
        if self.begun:  # too late for a status
            return
        problem = {"type": "about:blank", "title": error.code, "status": error.status, "detail": error.message}
        body = json.dumps({**problem, "code": error.code}).encode()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def write(self, data: bytes) -> None:
        """Send some events, as quickly as the client takes them.

        Raises:
            Disconnected: the client is gone, or did not take them within WRITE_SECONDS.
        """
        if self._gone is not None and self._gone.done():
            raise Disconnected
        if not data:
            return
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except (TimeoutError, OSError) as error:
            raise Disconnected from error

    async def unless_gone(self, waiting: Awaitable[bool]) -> bool:
        """Wait for something, unless the client goes away.

        Raises:
            Disconnected: it did.
        """
        assert self._gone is not None  # begin() was called
        wait = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({wait, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                raise Disconnected
            return await wait
        finally:
            wait.cancel()

    async def end(self) -> None:
        """Finish the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Stop watching the client."""
        if self._gone is not None:
            self._gone.cancel()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
