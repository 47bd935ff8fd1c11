"""The points of a job's life at which something may happen to those who do it, and what must have become of it then."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import psycopg

from tests.cable import Cable
from tests.working import Jobs, gone, start

POINTS = ("claimed", "started", "midway", "finished")
#: One more for a worker that is cut off.
CUT_POINTS = ("unheard", *POINTS)
#: One that is begun again after a death, and one that never is.
TASKS = ("samples.hold", "samples.once")
#: What the processes of an installation need in their environment: the tasks, and to say what goes to which process.
ENVIRONMENT = {"MSGWEB_TASK_MODULES": "tests.sample_tasks", "MSGWEB_LOG_LEVEL": "DEBUG"}
FENCE = 1297568601  # the first key of the advisory locks of sessions' fences


@contextlib.contextmanager
def row_held(jobs: Jobs, job: str) -> Iterator[None]:
    """Somebody's transaction holds the job's row: nothing of it can be recorded."""
    with contextlib.closing(psycopg.connect(jobs.installation.database)) as holder:
        holder.execute("SELECT FROM jobs_job WHERE id = %s FOR UPDATE", (job,))
        yield


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def claimed(jobs: Jobs) -> bool:
    """Whether a worker holds a message. It may not know that yet: it learns it from the answer to its claim."""
    return bool(jobs.query("SELECT 1 FROM msgweb.message WHERE session IS NOT NULL"))


def turned_away(jobs: Jobs) -> bool:
    """Whether a worker has asked for the row of its job in order to begin, and did not get it: of all that a worker
    runs, that alone ends with a rollback."""
    asked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = 'ROLLBACK'"
    return bool(jobs.query(f"{asked} AND application_name LIKE 'msgweb worker %%'"))


@contextlib.contextmanager
def batches_held(jobs: Jobs) -> Iterator[None]:
    """What the latest worker's engine writes waits in Postgres: somebody has its session's fence."""
    with contextlib.closing(psycopg.connect(jobs.installation.database)) as holder:
        newest = "(SELECT max(id) FROM msgweb.session WHERE kind = 'worker')"
        holder.execute(f"SELECT pg_advisory_xact_lock({FENCE}, {newest})")
        yield


def batch_waits(jobs: Jobs) -> bool:
    """Whether a batch waits for that."""
    return bool(jobs.query(f"SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND classid = {FENCE}"))


def bring_to(jobs: Jobs, point: str, task: str, keeping: contextlib.ExitStack) -> str:
    """A job at that point of its life; `keeping` holds what keeps it there.

    unheard    its worker has sent the claim for the message, which waits in Postgres
    claimed    its worker has the message, and cannot record that it begins
    started    that it begins is on disk; its process does not get to it
    midway     it is at work, until `jobs.go()`
    finished   it has ended, and its worker cannot record that
    """
    # Impolite: it does not stop when it is asked to.
    arguments = {"folder": str(jobs.folder)} | ({"polite": False} if task == "samples.hold" else {})
    if point in ("unheard", "claimed"):
        jobs.installation.signal("worker", signal.SIGUSR1)  # pauses it, until somebody has what it will need
        jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
        job = jobs.ask(task, **arguments)
        keeping.enter_context(row_held(jobs, job) if point == "claimed" else batches_held(jobs))
        jobs.installation.signal("worker", signal.SIGUSR2)
        if point == "claimed":
            # That the message is claimed is to be seen before the worker hears of it.
            jobs.until(lambda: claimed(jobs) and turned_away(jobs), "the message is claimed, and its worker at it")
        else:
            jobs.until(lambda: batch_waits(jobs), "the claim is under way")
    elif point == "started":
        keeping.enter_context(stopped(jobs.slots()))
        job = jobs.ask(task, **arguments)
        # That its start is recorded is to be seen before the worker hears of it.
        sent = f"job {job}: {task}, attempt 1, slot"
        jobs.until(lambda: sent in jobs.installation.log("worker"), "its start is recorded, and it goes to its process")
    else:
        job = jobs.ask(task, **arguments)
        jobs.until(jobs.begun, "it begins")
        if point == "finished":
            keeping.enter_context(row_held(jobs, job))
            jobs.go()
            jobs.until(lambda: (jobs.folder / "ended").exists(), "it ends")
    return job


class CutOff:
    """A worker whose network to Postgres is cut, with a job at some point of its life; another takes that up."""

    def __init__(self, jobs: Jobs, cable: Cable, point: str, task: str) -> None:
        self._jobs = jobs
        self._cable = cable
        self._point = point
        self._task = task
        self._keeping = contextlib.ExitStack()
        self.job = ""
        self.cut_at = 0.0  # by `time.monotonic()`
        self._begun = 0
        self._slots: list[int] = []

    def cut(self) -> None:
        """Bring it to that point, cut the line, and start another worker on a line of its own."""
        jobs = self._jobs
        direct = jobs.installation.env["DATABASE_URL"]
        jobs.installation.env["DATABASE_URL"] = self._cable.conninfo
        start(jobs)
        jobs.installation.env["DATABASE_URL"] = direct
        self._slots = jobs.slots()
        self.job = bring_to(jobs, self._point, self._task, self._keeping)
        self._begun = len(jobs.begun())
        self._cable.cut()
        self.cut_at = time.monotonic()
        if self._point != "started":
            self._keeping.close()
        if self._point == "unheard":
            jobs.until(lambda: claimed(jobs), "the message is claimed, and the answer on its way")
        start(jobs, "worker2")

    def is_taken_up(self) -> bool:
        """Whether the other has begun it, or ended it where it must not be begun again."""
        state, worker = self._jobs.query("SELECT state, worker FROM jobs_job WHERE id = %s", self.job)[0]
        ours = "SELECT id FROM msgweb.session WHERE kind = 'worker' ORDER BY id DESC LIMIT 1"
        return state in ("succeeded", "failed") or (state == "running" and self._jobs.query(ours) == [(worker,)])

    def mend(self) -> None:
        """The line is whole again: the first worker learns what has become of its job."""
        self._cable.mend()
        # Of a message that it never had it has lost nothing.
        told = "this process goes on as session" if self._point == "unheard" else f"job {self.job} is lost"
        self._jobs.until(lambda: told in self._jobs.installation.log("worker"), "the first worker learns of its loss")
        if self._point == "started":
            self._jobs.until(lambda: any(map(gone, self._slots)), "and ends the process that it gave it to")
        elif self._point == "midway":
            first = self._jobs.begun()[0][1]
            self._jobs.until(lambda: gone(first), "and ends its run")
        self._keeping.close()

    def check(self) -> str:
        """Look at what has become of it, in words.

        Raises:
            AssertionError: not what must.
        """
        jobs = self._jobs
        jobs.go()
        ended = jobs.end(self.job)
        runs, outcomes = len(jobs.begun()), jobs.outcomes(self.job)
        jobs.until(lambda: jobs.waiting() == 0, "no message is left")
        assert ended["failures"] == 0
        if self._point in ("unheard", "claimed"):
            assert (ended["state"], runs, outcomes) == ("succeeded", 1, ["succeeded"])
        elif self._task == "samples.once":
            assert (ended["state"], ended["error"]["code"]) == ("failed", "worker_died")
            assert (runs, outcomes) == (self._begun, ["interrupted"])
        else:
            assert (ended["state"], ended["result"]) == ("succeeded", 2)
            assert (runs, outcomes) == (self._begun + 1, ["interrupted", "succeeded"])
        assert jobs.installation.stop("worker") == 0
        return f"{ended['state']}, begun {runs} time{'' if runs == 1 else 's'}, {', then '.join(outcomes)}"
