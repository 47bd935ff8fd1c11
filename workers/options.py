"""What a worker is told when it starts."""

from dataclasses import dataclass

from workers.intake import Choice


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker serves, and how.

    Attributes:
        queues: which queues, in what proportion.
        strict: those named first come first, whatever waits in the others.
        namespaces: None for all that there are, those to come too.
        slots: how many processes.
        threads: how many jobs at a time in each.
        cancel_grace: seconds between asking a job to stop and ending its process.
        slot_jobs: a slot's process is replaced after so many jobs.
        slot_rss: and when it holds so many bytes after a job.
        drain_limit: seconds after which a drain hands back what still runs; None: it waits.
    """

    queues: tuple[Choice, ...]
    strict: bool = False
    namespaces: tuple[str, ...] | None = None
    slots: int = 2
    threads: int = 1
    cancel_grace: float = 10.0
    slot_jobs: int = 1000
    slot_rss: int = 512 * 1024 * 1024
    drain_limit: float | None = None
