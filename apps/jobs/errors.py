"""Errors of jobs. Part of the tree in `msgweb.errors`.

MsgwebError
├── BadTask             a @task declaration that cannot be (at import)
├── NotFound
│   ├── UnknownTask
│   └── UnknownJob
└── Conflict
    ├── JobExists       the job's id is taken by another request
    └── JobIsFinal      it has ended; nothing can be done with it any more
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


class JobExists(Conflict):
    """The job's id is taken by a request for something else."""

    code = "job_exists"


class JobIsFinal(Conflict):
    """The job has ended; nothing can be done with it any more."""

    code = "job_is_final"
