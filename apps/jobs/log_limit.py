"""What bounds a job's log, so that a task in a loop costs the database no more than one that speaks now and then: one
of ours, in its slot (`workers.transport`), and a worker outside, in its gateway (`apps.jobs.stomp_port`)."""

import time
from collections.abc import Callable

LINES_PER_SECOND = 200
BURST = 2000
LINES_IN_ALL = 50_000  # of one attempt
COUNTED = 1_000  # lines kept, after which those of other sources are counted again


class LogLimiter:
    """Admits the lines of one attempt's log: a bucket of `BURST` lines that refills by `LINES_PER_SECOND`.

    Whatever was left out is told by a notice in its place.

    Attributes:
        left_out: lines that no notice has told of yet.
        uncounted: lines kept since `count`; from `COUNTED` on, who shares the attempt with others should count again.
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
        self.left_out = 0
        self.uncounted = COUNTED

    def count(self, lines: int) -> None:
        """The attempt's log has so many lines, from whatever source."""
        self._left = max(0, self._in_all - lines)
        self.uncounted = 0

    def admit(self, count: int = 1) -> int:
        """How many of the next `count` lines are kept: the first of them."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        kept = min(count, self._left, int(self._tokens))
        self._tokens -= kept
        self._left -= kept
        self.uncounted += kept
        self.left_out += count - kept
        return kept

    def notice(self, count: int | None = None) -> str | None:
        """What to say of the lines that were left out since the last notice. Ask before a kept line and at the end.

        Args:
            count: of the first so many of them alone; None: of all.
        """
        told = self.left_out if count is None else count
        if not told:
            return None
        reason = (
            f"a job's log has at most {self._in_all:,} lines"
            if self._left <= 0
            else f"over {self._per_second:g} a second"
        )
        self.left_out -= told
        return f"… {told:,} lines left out: {reason}"
