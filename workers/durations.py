"""How long jobs take, by what others of their task took: only quick ones are prefetched."""

import math

QUICK = 0.01  # seconds: jobs that take longer are not prefetched
AHEAD_SECONDS = 0.05  # so much work may wait in a slot behind the job that it is at,
AHEAD_JOBS = 500  # in so many jobs
LIMIT = 10_000  # tasks that are remembered


class Durations:
    """Moving averages: quick to rise, slow to fall, since one slow job holds up all that wait behind it.

    Attributes:
        typical: seconds of a job of whatever task, of late; infinite before the first.
    """

    def __init__(self) -> None:
        self._by_task: dict[str, float] = {}
        self._quick: dict[str, None] = {}
        self.typical = math.inf

    def expect(self, task: str) -> float:
        """How many seconds a job of that task will take; infinite if nobody knows."""
        return self._by_task.get(task, math.inf)

    def learn(self, task: str, seconds: float) -> None:
        """A job took so long."""
        if len(self._by_task) >= LIMIT and task not in self._by_task:
            self._by_task.clear()
            self._quick.clear()
        average = self._by_task[task] = _moved(self._by_task.get(task, math.inf), seconds)
        if average > QUICK:
            self._quick.pop(task, None)
        elif task not in self._quick:
            self._quick[task] = None
        self.typical = _moved(self.typical, seconds)

    def quick(self) -> list[str]:
        """The tasks whose jobs are likely to be over within QUICK seconds."""
        return list(self._quick)

    def ahead(self) -> int:
        """How many jobs a slot may have beyond those that it is at."""
        if self.typical > QUICK:
            return 0
        return min(AHEAD_JOBS, int(AHEAD_SECONDS / max(self.typical, 1e-6)))


def _moved(average: float, seconds: float) -> float:
    if math.isinf(average):
        return seconds
    return average + (seconds - average) * (0.5 if seconds > average else 0.1)
