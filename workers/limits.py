"""What bounds a job's log, so that a task in a loop costs the database no more than one that speaks now and then."""

import time
from collections.abc import Callable

LINES_PER_SECOND = 200
BURST = 2000
LINES_IN_ALL = 50_000  # of one attempt, from one source


class LogLimiter:
    """Admits the lines of one attempt's log: a bucket of `BURST` lines that refills by `LINES_PER_SECOND`.

    Whatever was left out is told by a notice in its place.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        per_second: float = LINES_PER_SECOND,
        burst: int = BURST,
        in_all: int = LINES_IN_ALL,
    ) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = burst
        self._left = in_all
        self._in_all = in_all
        self._tokens = float(burst)
        self._filled_at = clock()
        self._dropped = 0

    def admit(self) -> bool:
        """Whether the next line is kept."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._left <= 0 or self._tokens < 1:
            self._dropped += 1
            return False
        self._tokens -= 1
        self._left -= 1
        return True

    def notice(self) -> str | None:
        """What to say of the lines that were left out since the last notice. Ask before a kept line and at the end."""
        if not self._dropped:
            return None
        reason = (
            f"a job's log has at most {self._in_all:,} lines"
            if self._left <= 0
            else f"over {self._per_second:g} a second"
        )
        text = f"… {self._dropped:,} lines left out: {reason}"
        self._dropped = 0
        return text
