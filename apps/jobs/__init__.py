"""Long-running tasks that can be watched: the job, the task decorator, progress and log, the reply.

A job is a message that is followed: a row (`models.Job`) beside a message in its task's queue, written in one
transaction. What lives here may be imported by every app; it imports `apps.broker` and `msgweb` alone.

    from apps.jobs import JobContext, task

    @task(name="firebrand.clone_brand", queue="firebrand", max_attempts=3)
    def clone_brand(context: JobContext, *, brand: int, name: str) -> dict[str, int]:
        for chunk in chunks:
            context.checkpoint()
            context.progress(done, total, "products")

    job = clone_brand.enqueue(namespace="firebrand.development", brand=1, name="Copy")
"""

from apps.jobs.context import JobCancelled, JobContext, JobTimeout, current_job
from apps.jobs.options import Backoff, Concurrency, Rate, Unique
from apps.jobs.registry import Task, external_task, task

__all__ = [
    "Backoff",
    "Concurrency",
    "JobCancelled",
    "JobContext",
    "JobTimeout",
    "Rate",
    "Task",
    "Unique",
    "current_job",
    "external_task",
    "task",
]
