"""gunicorn's ASGI worker, with open event streams told to end when it stops.

Without that every open stream holds up a graceful stop until `graceful_timeout`: a stream never finishes by itself.
"""

from gunicorn.workers.gasgi import ASGIWorker


class WebWorker(ASGIWorker):
    """Ends the open streams at SIGTERM; the browsers connect again, to the next process."""

    def handle_exit_signal(self) -> None:
        super().handle_exit_signal()
        from apps.console.events import close_streams  # not at the top: it needs Django set up

        close_streams()
