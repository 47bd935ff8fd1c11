"""Declaring and browsing queues, in threads: the gateway's `ports.QueuePort`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from django.db import Error, connections

from apps.broker import queue_actions, queue_settings
from apps.stomp.gateway.errors import SettingsDiffer
from apps.stomp.gateway.ports import BrowsedMessage
from msgweb.errors import NotFound, Unavailable

THREADS = 2
PAGE = 500  # messages that a browser reads at once
PAGE_BYTES = 4 * 1024 * 1024
MEMORY_SECONDS = 10.0  # a setting that was changed elsewhere is looked at again after this long
MEMORY_ENTRIES = 10_000

T = TypeVar("T")


class Queues:
    """See the module. Belongs to one event loop.

    Args:
        using: the alias of the database.
    """

    def __init__(self, using: str = "default") -> None:
        self._using = using
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="queues")
        self._declared: dict[tuple[str, str, frozenset[tuple[str, Any]]], float] = {}

    async def declare(self, namespace: str, queue: str, settings: Mapping[str, Any]) -> None:
        """See `ports.QueuePort`."""
        key = (namespace, queue, frozenset(settings.items()))
        if self._declared.get(key, 0.0) > self._loop.time():
            return
        await self._run(partial(_declare, namespace, queue, settings, self._using))
        if len(self._declared) >= MEMORY_ENTRIES:
            self._declared.clear()
        self._declared[key] = self._loop.time() + MEMORY_SECONDS

    async def browse(self, namespace: str, queue: str) -> AsyncIterator[Sequence[BrowsedMessage]]:
        """See `ports.QueuePort`."""
        walk = queue_actions.Walk(namespace, queue, PAGE, PAGE_BYTES, using=self._using)
        while page := await self._run(walk.next_page):
            yield [BrowsedMessage(one.id, one.headers, one.body, one.deliveries) for one in page]

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._threads, self._in_thread, work)

    def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Error as error:
            raise Unavailable("the database is away; try again") from error
        finally:
            connections[self._using].close()  # all this is rare: no connection is kept for it

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _declare(namespace: str, queue: str, settings: Mapping[str, Any], using: str) -> None:
    nothing = queue_settings.QueueSettings()
    try:
        present = queue_settings.get(namespace, queue, using=using)
    except NotFound:
        present = nothing
    wanted = {name: value for name, value in settings.items() if getattr(present, name) != value}
    for name, value in wanted.items():
        if getattr(present, name) != getattr(nothing, name):
            raise SettingsDiffer(
                f"the queue {queue} has {name} {getattr(present, name)}, not {value}; change it with "
                f"`manage.py queues set`, or drop the header"
            )
    if wanted:
        queue_settings.change(namespace, queue, wanted, using=using)
