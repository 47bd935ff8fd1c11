"""What is published on topics, for many listeners of one process: one engine, one subscription for each topic.

Like `feed`, it belongs to one event loop, and the engine (a session of kind `web`) exists only while somebody listens.
Topics are best effort: a hub keeps the latest messages in a ring, and a listener that falls off it is told how many it
missed.
"""

import asyncio
import base64
import itertools
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings

from apps.broker.engine import Address, Delivery, Engine, Message, Subscription
from apps.broker.headers import decode_headers
from apps.broker.postgres import PostgresEngine
from msgweb.database import conninfo_of
from msgweb.errors import MsgwebError

log = logging.getLogger(__name__)

#: Messages that a hub keeps for its listeners, and the credit of its subscription.
RING = 256


class Hub:
    """One topic's listeners. A `Consumer` of the engine."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self.subscription: Subscription | None = None
        self.latest: deque[tuple[int, Delivery]] = deque(maxlen=RING)
        self.counter = itertools.count(1)
        self.number = 0  # of the latest message

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Keep the messages and wake the listeners."""
        for delivery in deliveries:
            self.number = next(self.counter)
            self.latest.append((self.number, delivery))
        for listener in self.listeners:
            listener.woken.set()

    def lost(self, subscription: Subscription) -> None:
        """A topic's subscription holds nothing that could be lost."""


class Listener:
    """A place in a hub's ring; hears what is published from now on."""

    __slots__ = ("hub", "position", "woken")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.position = hub.number
        self.woken = asyncio.Event()

    def take(self) -> tuple[list[Delivery], int]:
        """What came since the last call, and how many messages were missed before it."""
        fresh = [(number, delivery) for number, delivery in self.hub.latest if number > self.position]
        missed = fresh[0][0] - self.position - 1 if fresh else 0
        self.position = self.hub.number
        return [delivery for _, delivery in fresh], missed


class TopicFeed:
    """The topics that somebody listens to in one event loop."""

    def __init__(self) -> None:
        self._hubs: dict[Address, Hub] = {}
        self._engine: Engine | None = None
        self._users = 0
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def listen(self, address: Address) -> AsyncIterator[Listener]:
        """Hear what is published on a topic.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._enter()
        hub = self._hubs.get(address)
        if hub is None:
            hub = self._hubs[address] = Hub()
            assert self._engine is not None  # _enter made it
            hub.subscription = self._engine.subscribe(address, hub, RING)
        listener = Listener(hub)
        hub.listeners.add(listener)
        try:
            yield listener
        finally:
            hub.listeners.discard(listener)
            if not hub.listeners and self._hubs.get(address) is hub:
                del self._hubs[address]
                if self._engine is not None and hub.subscription is not None:
                    self._engine.unsubscribe(hub.subscription)
            await self._leave()

    async def publish(self, address: Address, body: bytes) -> None:
        """Publish on a topic.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._enter()
        try:
            assert self._engine is not None  # _enter made it
            handed: asyncio.Future[MsgwebError | None] = asyncio.get_running_loop().create_future()
            self._engine.send(Message(address, body), handed.set_result)
            error = await handed
            if error is not None:
                raise error
        finally:
            await self._leave()

    async def _enter(self) -> None:
        async with self._lock:
            if self._engine is None:
                engine = PostgresEngine(
                    conninfo_of(settings.DATABASES["default"]),
                    kind="web",
                    lease_seconds=settings.MSGWEB_LEASE_SECONDS,
                    horizon_seconds=settings.MSGWEB_HORIZON_SECONDS,
                )
                await engine.start()
                self._engine = engine
            self._users += 1

    async def _leave(self) -> None:
        async with self._lock:
            self._users -= 1
            if self._users == 0 and self._engine is not None:
                engine, self._engine = self._engine, None
                await engine.close()


def as_json(delivery: Delivery) -> dict[str, Any]:
    """A message as the page's script gets it: `body` is text, or `body_base64` where it is none."""
    message: dict[str, Any] = {"destination": str(delivery.address), "headers": decode_headers(delivery.headers)}
    try:
        message["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        message["body_base64"] = base64.b64encode(delivery.body).decode()
    return message


_feeds: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TopicFeed]" = weakref.WeakKeyDictionary()


def topics_of_loop() -> TopicFeed:
    """The topics of the running event loop."""
    loop = asyncio.get_running_loop()
    feed = _feeds.get(loop)
    if feed is None:
        feed = _feeds[loop] = TopicFeed()
    return feed
