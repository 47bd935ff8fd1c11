"""A job and what is known of it: its attempts, its progress, its events.

The ORM serves the console, the API and enqueueing. What a worker records goes through `apps.jobs.recorder`, in
batches and in SQL.
"""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class Job(models.Model):
    """A request for work and its outcome.

    The row is hot: it changes with each state, so progress, log and state changes are kept in tables of their own.

    Attributes:
        attempt: how often a worker began with it. It only ever grows, and with `worker` it is the fence: whatever an
            attempt writes is refused once the job is in another one.
        failures: how many attempts failed of their own; an interruption (the worker died, was drained or fenced off)
            is none. `max_attempts` limits this number.
        deaths: how many workers have died with it in a row, with no step done between; `Options.max_deaths` limits it.
        delivery: the message's delivery count at the latest start: an older delivery may start nothing any more.
        worker: the session of the worker that runs it now.
        requested_by: who asked, for people: a user, an access key's login.
        error: {"code", "message", "traceback"}; of the latest failed attempt while the job waits for the next one.
        ticket: which of its messages counts: whoever comes with an older one finds nothing to do. A job that is
            retried, released or edited gets a new message, with the next number.
        run_at: not before that, while it is scheduled or waiting.
        expires_at: given up if it was not begun by then.
        timeout: seconds that an attempt may take.
        on_death: what follows when a worker dies with it: `apps.jobs.options.ON_WORKER_DEATH`.
        unique_key: what jobs that are the same have in common; empty: it may be asked for at any time.
        limits: {"key", "limit"} and {"rate_key", "count", "per"}, and "reserved" once its moment was reserved.
        blocked_on: the key whose limit it waits for.
        held_at: somebody held it back: it does not begin.
        chain_argument: which of its arguments is the result of the job that it follows.
        after_any: it follows others whatever became of them.
    """

    class State(models.TextChoices):
        SCHEDULED = "scheduled"
        READY = "ready"
        RUNNING = "running"
        WAITING = "waiting"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    namespace = models.CharField(max_length=127)
    task = models.CharField(max_length=200)
    queue = models.CharField(max_length=255)
    arguments = models.JSONField(default=dict)
    priority = models.SmallIntegerField(default=4, db_default=4)
    state = models.CharField(max_length=10, choices=State, default=State.READY, db_default=State.READY)
    attempt = models.IntegerField(default=0, db_default=0)
    failures = models.IntegerField(default=0, db_default=0)
    max_attempts = models.IntegerField(default=1, db_default=1)
    deaths = models.SmallIntegerField(default=0, db_default=0)
    delivery = models.IntegerField(default=0, db_default=0)
    result = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    reply_to = models.CharField(max_length=300, blank=True, default="", db_default="")
    correlation_id = models.CharField(max_length=255, blank=True, default="", db_default="")
    wants_progress = models.BooleanField(default=False, db_default=False)
    requested_by = models.CharField(max_length=200, blank=True, default="", db_default="")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    worker = models.BigIntegerField(null=True, blank=True)
    ticket = models.IntegerField(default=0, db_default=0)
    run_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    timeout = models.FloatField(null=True, blank=True)
    on_death = models.CharField(max_length=6, default="resume", db_default="resume")
    unique_key = models.CharField(max_length=64, blank=True, default="", db_default="")
    limits = models.JSONField(null=True, blank=True)
    blocked_on = models.CharField(max_length=400, null=True, blank=True)  # noqa: DJ001  null: not blocked
    held_at = models.DateTimeField(null=True, blank=True)
    chain_argument = models.CharField(max_length=100, blank=True, default="", db_default="")
    after_any = models.BooleanField(default=False, db_default=False)
    born_ready = models.BooleanField(default=False, db_default=False, editable=False)
    batch = models.ForeignKey(
        "Batch",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="jobs",
        db_constraint=False,
        db_index=False,
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            # A job that is ready has one entry for lists, in `job_ready`: the others get theirs when it changes, which
            # is a new entry in each of them anyway. `apps.jobs.listing` puts both together.
            # Ascending, though lists show the newest first: new entries then stand at the end, where there is room.
            models.Index(
                fields=["namespace", "task", "created_at"], name="job_ready", condition=models.Q(state="ready")
            ),
            models.Index(fields=["created_at", "id"], name="job_newest", condition=~models.Q(state="ready")),
            models.Index(fields=["state", "created_at"], name="job_state", condition=~models.Q(state="ready")),
            models.Index(
                fields=["namespace", "task", "created_at"], name="job_task", condition=~models.Q(state="ready")
            ),
            models.Index(fields=["worker"], name="job_worker", condition=models.Q(worker__isnull=False)),
            models.Index(fields=["run_at"], name="job_due", condition=models.Q(state__in=["scheduled", "waiting"])),
            models.Index(
                fields=["expires_at"],
                name="job_expiring",
                condition=models.Q(expires_at__isnull=False, state__in=["scheduled", "ready", "waiting"]),
            ),
            models.Index(fields=["unique_key"], name="job_unique", condition=~models.Q(unique_key="")),
            models.Index(
                fields=["blocked_on", "-priority", "created_at"],
                name="job_blocked",
                condition=models.Q(blocked_on__isnull=False),
            ),
            models.Index(fields=["batch", "state"], name="job_batch", condition=models.Q(batch__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"

    @property
    def is_final(self) -> bool:
        """Whether it has ended: succeeded, failed, cancelled or expired."""
        return self.state in self.FINAL


class Batch(models.Model):
    """Jobs that belong together, and are followed as a whole.

    Attributes:
        total: how many there are.
        finished_at: when the last of them had ended.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    namespace = models.CharField(max_length=127)
    name = models.CharField(max_length=200, blank=True, default="")
    total = models.IntegerField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "batches"
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["created_at"], name="batch_open", condition=models.Q(finished_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return self.name or str(self.id)


class Dependency(models.Model):
    """A job waits for another, or for a batch. Gone when that has ended as it should."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="waits_for", db_constraint=False)
    after = models.UUIDField(db_index=True)

    class Meta:
        verbose_name_plural = "dependencies"
        constraints = [models.UniqueConstraint(fields=["job", "after"], name="dependency_once")]

    def __str__(self) -> str:
        return f"{self.job_id} after {self.after}"


class BrokenLink(models.Model):
    """What a job waited for that was cancelled since it waited in vain; so that it can wait again when that is tried
    again."""

    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="waited_for", db_constraint=False, db_index=False
    )
    after = models.UUIDField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "after"], name="broken_link_once")]

    def __str__(self) -> str:
        return f"{self.job_id} after {self.after}"


class Schedule(models.Model):
    """Jobs at times: see `apps.jobs.schedules`.

    Attributes:
        every: seconds from time to time; or `cron` is given, in the time zone `zone`.
        misfire: what becomes of times that nobody was there for.
        grace: seconds that a time may be late before it counts as missed.
        last_at: the time that was run last; `last_job`, `last_outcome`: what came of it.
    """

    class Source(models.TextChoices):
        SETTINGS = "settings"
        CONSOLE = "console"

    name = models.CharField(max_length=200, unique=True)
    source = models.CharField(max_length=8, choices=Source, default=Source.CONSOLE)
    namespace = models.CharField(max_length=127)
    task = models.CharField(max_length=200)
    arguments = models.JSONField(default=dict, blank=True)
    queue = models.CharField(max_length=255, blank=True, default="")
    priority = models.SmallIntegerField(null=True, blank=True)
    cron = models.CharField(max_length=255, blank=True, default="")
    every = models.FloatField(null=True, blank=True)
    zone = models.CharField(max_length=64, default="UTC")
    misfire = models.CharField(max_length=4, default="once")
    grace = models.FloatField(default=60.0)
    paused = models.BooleanField(default=False)
    next_at = models.DateTimeField()
    last_at = models.DateTimeField(null=True, blank=True)
    last_job = models.UUIDField(null=True, blank=True)
    last_outcome = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        indexes = [models.Index(fields=["next_at"], name="schedule_due", condition=models.Q(paused=False))]

    def __str__(self) -> str:
        return self.name


class Permit(models.Model):
    """One of the places of a concurrency limit, and the job that has it. Made when they are first needed."""

    key = models.CharField(max_length=400)
    number = models.IntegerField()
    job = models.UUIDField(null=True, blank=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["key", "number"], name="permit_number")]

    def __str__(self) -> str:
        return f"{self.key} {self.number}"


class Pace(models.Model):
    """The moments that jobs of a rate limit had or reserved, the latest `count`, oldest first (Unix time)."""

    key = models.CharField(max_length=400, primary_key=True)
    moments = ArrayField(models.FloatField(), default=list)

    def __str__(self) -> str:
        return self.key


class Step(models.Model):
    """A part of a job that is done, with its result: a later attempt does not do it again."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="steps", db_constraint=False, db_index=False)
    name = models.CharField(max_length=200)
    attempt = models.IntegerField()
    result = models.JSONField(null=True, blank=True)
    finished_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["job", "name"], name="step_once")]

    def __str__(self) -> str:
        return f"{self.name} of {self.job_id}"


class Progress(models.Model):
    """How far the running attempt is, as it last said."""

    job = models.OneToOneField(Job, on_delete=models.CASCADE, primary_key=True, db_constraint=False)
    done = models.BigIntegerField()
    total = models.BigIntegerField()
    text = models.TextField(blank=True, default="")
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "progress"

    def __str__(self) -> str:
        return f"{self.done}/{self.total} {self.text}".rstrip()

    @property
    def percent(self) -> int:
        """Whole per cents, 0 to 100."""
        return max(0, min(100, self.done * 100 // self.total)) if self.total > 0 else 0


class Attempt(models.Model):
    """One run of a job by one worker.

    Attributes:
        worker: the session of the worker; of the gateway, if a consumer of its works on it; None: nobody holds it.
        host: where; or who, if that is a consumer of a gateway.
        pid: the process of the worker; None: a consumer outside.
        stopping_at: when its worker was told to stop, and it was still at work.
        told_from: where it was recorded once, when it had succeeded: its two events, this one and the next, are told
            from here (`apps.jobs.events`).
    """

    class Outcome(models.TextChoices):
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts", db_constraint=False, db_index=False)
    number = models.IntegerField()
    worker = models.BigIntegerField(null=True, blank=True)
    host = models.CharField(max_length=255, blank=True, default="")
    pid = models.IntegerField(null=True, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=11, choices=Outcome, blank=True, default="")
    error = models.JSONField(null=True, blank=True)
    stopping_at = models.DateTimeField(null=True, blank=True)
    told_from = models.BigIntegerField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["job", "number"]
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="attempt_number")]
        indexes = [
            models.Index(fields=["id"], name="attempt_interrupted", condition=models.Q(outcome="interrupted")),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job_id}"


class Event(models.Model):
    """Something that happened to a job: append-only, and its `id` is where a reader resumes (`apps.jobs.events`).

    Within a job, ids become visible in their order: whoever writes an event holds the job's row locked.

    Attributes:
        at: when it happened, by the clock of the process where it did.
        data: state: {"state", "attempt", "text"?, "error"?: {"code", "message"}}; progress: {"done", "total", "text"};
            log: {"level", "text"}.
    """

    class Kind(models.TextChoices):
        STATE = "state"
        PROGRESS = "progress"
        LOG = "log"

    # No foreign key in the database: its check would lock the job's row again for each line of a log.
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events", db_constraint=False, db_index=False)
    at = models.DateTimeField(default=timezone.now)
    kind = models.CharField(max_length=8, choices=Kind)
    data = models.JSONField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["job", "id"], name="event_of_job")]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} of {self.job_id}"
