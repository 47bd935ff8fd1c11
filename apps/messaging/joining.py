"""Progress on its way to the server: of what comes quicker than it can be shown, the latest."""

import logging
import threading
import time
from collections.abc import Callable

from apps.messaging.errors import MessagingError

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.05  # between two reports of progress: work may tell of each of a million steps


class Joining:
    """The progress of one message's work. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_at = float("-inf")
        self._untold: Callable[[], None] | None = None

    def tell(self, send: Callable[[], None]) -> None:
        """Call `send` now; or a moment later, in another thread, unless something newer comes before.

        Raises:
            MessagingError: what `send` raises, where it is called now.
        """
        with self._lock:
            waits, self._untold = self._untold, send
            left = self._told_at + PROGRESS_SECONDS - time.monotonic()
            if left <= 0:
                self._tell()
            elif waits is None:
                timer = threading.Timer(left, self.flush)
                timer.daemon = True
                timer.start()

    def flush(self) -> None:
        """Tell what waits, before something else is said. Best effort."""
        with self._lock:
            try:
                self._tell()
            except MessagingError as error:
                logger.debug("progress was lost: %s", error)

    def _tell(self) -> None:
        send, self._untold = self._untold, None
        if send is not None:
            self._told_at = time.monotonic()
            send()
