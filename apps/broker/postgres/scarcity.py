"""What is withheld for a while from a database that is full, or that refuses a permission; then all is tried again.

Another connection would change nothing. Claims may well go on, and acks, which need no room and make some.
"""

import asyncio
from collections.abc import Callable

SQLSTATES = ("42501", "53", "58")  # how those begin that say so
SECONDS = 1.0  # until what was refused is tried again
SENDS, CLAIMS, ALL = 1, 2, 3  # what is withheld meanwhile: sends; claims too; everything


class Scarcity:
    """Belongs to one event loop.

    Args:
        again: called when what was withheld may be tried.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._withheld = 0
        self._refused = False  # and nothing was taken since

    @property
    def felt(self) -> bool:
        """Something is withheld, or nothing was taken since something was refused."""
        return bool(self._withheld) or self._refused

    @property
    def of_sends(self) -> bool:
        """Sends are withheld."""
        return self._withheld >= SENDS

    @property
    def of_claims(self) -> bool:
        """Claims are withheld, too."""
        return self._withheld >= CLAIMS

    @property
    def of_all(self) -> bool:
        """Everything is."""
        return self._withheld >= ALL

    def refused(self, tried_sends: bool) -> None:
        """For a while go on without sends; if what had none was refused, without claims either; then not at all."""
        self._refused = True
        if not self._withheld:
            self._withheld = SENDS
            self._timer = self._loop.call_later(SECONDS, self._try_again)
        elif not tried_sends:
            self._withheld += 1

    def took(self) -> None:
        """Something that needs room was written."""
        self._refused = False

    def close(self) -> None:
        """Nothing is tried again."""
        if self._timer is not None:
            self._timer.cancel()

    def _try_again(self) -> None:
        self._withheld = 0
        self._again()
