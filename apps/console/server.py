"""gunicorn's ASGI worker, taught to end open event streams when it is asked to end.

gunicorn waits for open connections before it stops (`graceful_timeout`), tells an application of that by nothing but
the lifespan that Django has not, and an event stream never ends by itself. Use it as
`gunicorn --worker-class apps.console.server.StreamingWorker`.
"""

import asyncio

from gunicorn.workers.gasgi import ASGIWorker


class StreamingWorker(ASGIWorker):  # type: ignore[misc]  # gunicorn has no types
    """Ends event streams and long polls at SIGTERM, at SIGINT and when its parent is gone."""

    async def _shutdown(self) -> None:
        self._end_streams()
        await super()._shutdown()

    def handle_exit_signal(self) -> None:
        """SIGTERM: streams end now, not when the main loop looks again."""
        super().handle_exit_signal()
        asyncio.run_coroutine_threadsafe(self._soon(), self.loop)

    async def _soon(self) -> None:
        self._end_streams()

    def _end_streams(self) -> None:
        from apps.console.events import close_streams  # Django is set up by then

        close_streams()
