"""Errors of jobs. Part of the tree in `msgweb.errors`.

MsgwebError
├── BadTask             a @task declaration that cannot be (at import)
├── WorkFailed          stands for a failure without an exception of Python's
├── WorkerDied          stands for an attempt whose process ended
├── JobExpired          stands for a job that was not begun in time
├── NotFound
│   ├── UnknownTask
│   ├── UnknownBatch
│   ├── UnknownSchedule
│   └── UnknownJob
└── Conflict
    ├── JobExists       the job's id is taken by another request
    ├── JobIsFinal      it has ended; nothing can be done with it any more
    ├── WrongState      what is asked for cannot be done with it as it is
    └── Superseded      the attempt that wants to write is not the job's any more
"""

from msgweb.errors import Conflict, MsgwebError, NotFound


class BadTask(MsgwebError):
    """A @task declaration that cannot be; the message names file and line."""

    code = "bad_task"


class UnknownTask(NotFound):
    """No task of that name is declared in this installation."""

    code = "unknown_task"


class UnknownJob(NotFound):
    """There is no such job, or not for this asker."""

    code = "unknown_job"


class UnknownBatch(NotFound):
    """There is no such batch, or not for this asker."""

    code = "unknown_batch"


class UnknownSchedule(NotFound):
    """There is no schedule of that name."""

    code = "unknown_schedule"


class JobExists(Conflict):
    """The job's id is taken by a request for something else."""

    code = "job_exists"


class JobIsFinal(Conflict):
    """The job has ended; nothing can be done with it any more."""

    code = "job_is_final"


class WrongState(Conflict):
    """What is asked for cannot be done with the job as it is."""

    code = "wrong_state"


class Superseded(Conflict):
    """The attempt that wants to write is not the job's any more."""

    code = "attempt_superseded"


class WorkFailed(MsgwebError):
    """Stands for a failure without an exception of Python's, such as one of a worker in PHP."""

    code = "task_failed"


class WorkerDied(MsgwebError):
    """Stands for an attempt whose process ended in the midst of it."""

    code = "worker_died"


class TooManyDeaths(MsgwebError):
    """Stands for a job that was given up since its workers died with it, one after the other."""

    code = "too_many_deaths"


class JobExpired(MsgwebError):
    """Stands for a job that was not begun in time."""

    code = "expired"
