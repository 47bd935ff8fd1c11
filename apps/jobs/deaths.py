"""What follows when a worker has died with a job in the midst of it. No I/O.

Whether the job killed it (a machine out of memory, say) or merely was there, nobody can tell. So the first time it is
begun again at once; then after pauses that grow, so that a job that kills its workers does not take down one after the
other; and after so many deaths it has failed. Jobs that die together with such a one part ways by the jitter of these
pauses.
"""

from dataclasses import dataclass
from uuid import UUID

from apps.jobs import registry
from apps.jobs.errors import TooManyDeaths, UnknownTask, WorkerDied
from apps.jobs.options import Options


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows.

    Attributes:
        deaths: how many workers have died with it in a row.
        pause: seconds until it is begun again; 0: at once; None: never.
        error: why the attempt was interrupted; None: it was no death.
        note: the same, for the state event.
    """

    job: UUID
    deaths: int
    pause: float | None = 0.0
    error: dict[str, str] | None = None
    note: str = ""


def judge(job: UUID, task: str, deaths: int, stopping: bool, further: bool) -> Verdict:
    """What follows for a job whose worker is gone.

    Args:
        deaths: how many had died with it before, in a row.
        stopping: this one had been told to stop: somebody lost patience, and that is no death.
        further: the job had finished a step under it, so that it counts as the first.
    """
    if stopping:
        return Verdict(job, deaths)
    try:
        options = registry.load(task).options
    except UnknownTask:
        options = Options()
    count = 1 if further else deaths + 1
    if count >= options.max_deaths:
        died = "its worker died" if count == 1 else f"{count} workers in a row died"
        told = _error(TooManyDeaths.code, f"{died} in the midst of it: it is given up")
        return Verdict(job, count, None, told)
    told = _error(WorkerDied.code, "its worker died in the midst of it")
    if count == 1:
        return Verdict(job, count, 0.0, told)
    pause = options.pause(count - 1)
    note = f"death {count} in a row, of {options.max_deaths} at most; again in {pause:.1f} s"
    return Verdict(job, count, pause, told, note)


def _error(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message, "traceback": ""}
