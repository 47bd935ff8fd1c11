"""Threads in which Django's database connections are used, so that the event loop never waits for the database."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import Error, close_old_connections, connections

from msgweb.errors import Unavailable

T = TypeVar("T")


class DatabaseThreads:
    """Some threads, each with a connection of its own. Belongs to one event loop.

    Args:
        count: how many.
        name: what their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """What a call returns, from one of the threads.

        Raises:
            Unavailable: the database is away, or the threads are being ended.
            Exception: whatever else the call raises.
        """
        return await self._loop.run_in_executor(self._pool, self._safely, call)

    def close(self) -> None:
        """End the threads, and their connections with them. Waits for what they are at, and gives up what waits."""
        self._closed = True
        all_here = threading.Barrier(self._count)  # so that each thread takes one of these

        def leave() -> None:
            all_here.wait()
            connections.close_all()

        for _ in range(self._count):
            self._pool.submit(leave)
        self._pool.shutdown()

    def _safely(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("this server is being stopped")
        close_old_connections()  # as Django does before and after a request: drops what is broken or too old
        try:
            return call()
        except Error as error:
            raise Unavailable("the database is away; try again") from error
        finally:
            close_old_connections()
