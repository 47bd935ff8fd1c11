"""What goes in and out of the REST API."""

from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.jobs.links import status_url
from apps.jobs.models import Job, Progress

PRIORITY: dict[str, Any] = {"min_value": 0, "max_value": 9, "default": 4, "help_text": "0 to 9; the higher goes first."}


class MessageSerializer(serializers.Serializer[Any]):
    """A message in a JSON envelope."""

    body = serializers.JSONField(
        required=False,
        allow_null=True,
        help_text="A text, or any other JSON value, which is sent as JSON.",
    )
    body_base64 = serializers.CharField(required=False, help_text="Instead of `body`: bytes, in base 64.")
    headers = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False, default=dict)
    content_type = serializers.CharField(
        required=False,
        help_text="Left out: application/json for a `body` that is no text, text/plain for a text.",
    )
    persistent = serializers.BooleanField(default=True, help_text="Survives a crash of the database server.")
    priority = serializers.IntegerField(**PRIORITY)


class SentSerializer(serializers.Serializer[Any]):
    """What became of a message."""

    id = serializers.CharField(allow_null=True, help_text="The message's id; null for a topic's, which nobody keeps.")
    namespace = serializers.CharField()
    destination = serializers.CharField(help_text="Such as `/queue/orders`.")


class QueueSerializer(serializers.Serializer[Any]):
    """A queue and its figures; counts stop at 10,000."""

    name = serializers.CharField()
    ready = serializers.IntegerField(help_text="Messages that wait.")
    in_flight = serializers.IntegerField(help_text="Messages that consumers hold.")
    oldest_age = serializers.FloatField(allow_null=True, help_text="Seconds that the oldest message has waited.")
    consumers = serializers.IntegerField()


class QueuesSerializer(serializers.Serializer[Any]):
    """The queues of a namespace."""

    queues = QueueSerializer(many=True)


class ParameterSerializer(serializers.Serializer[Any]):
    """An argument of a task."""

    name = serializers.CharField()
    required = serializers.BooleanField()  # type: ignore[assignment]  # the field's own name for something else


class TaskSerializer(serializers.Serializer[Any]):
    """A task that can be asked for."""

    name = serializers.CharField()
    queue = serializers.CharField()
    max_attempts = serializers.IntegerField()
    parameters = ParameterSerializer(many=True)


class TasksSerializer(serializers.Serializer[Any]):
    """The tasks of this installation."""

    tasks = TaskSerializer(many=True)


class SubmitSerializer(serializers.Serializer[Any]):
    """A request for a job."""

    namespace = serializers.CharField(help_text="Such as `firebrand.production`; the key's default when left out.")
    task = serializers.CharField()
    arguments = serializers.DictField(required=False, default=dict)
    id = serializers.UUIDField(
        required=False, help_text="Your own id for the job: to ask twice with it is to ask once."
    )
    reply_to = serializers.CharField(
        required=False, allow_null=True, help_text="Where the result is sent as a message: `/queue/x` or `/topic/x`."
    )
    correlation_id = serializers.CharField(required=False, allow_null=True)
    wants_progress = serializers.BooleanField(default=False, help_text="Send progress to `reply_to` too.")
    priority = serializers.IntegerField(
        min_value=0, max_value=9, required=False, allow_null=True, help_text="0 to 9; the task's own when left out."
    )
    delay = serializers.FloatField(
        required=False, allow_null=True, min_value=0, help_text="Seconds before which it does not begin."
    )
    run_at = serializers.DateTimeField(required=False, allow_null=True, help_text="The moment, instead of a delay.")
    expires = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=0,
        help_text="Seconds after which it is given up if not begun.",
    )
    after = serializers.ListField(
        child=serializers.UUIDField(), required=False, max_length=100, help_text="Jobs that must have succeeded before."
    )
    result_as = serializers.CharField(
        required=False, allow_null=True, help_text="The argument that is given the result of the job before."
    )
    hold = serializers.BooleanField(default=False, help_text="It does not begin until it is released.")


class ChangesSerializer(serializers.Serializer[Any]):
    """What is changed of jobs that wait; what is left out stays."""

    priority = serializers.IntegerField(min_value=0, max_value=9, required=False)
    queue = serializers.CharField(required=False)
    run_at = serializers.DateTimeField(required=False, help_text="Not before that.")


class EditSerializer(ChangesSerializer):
    """What is changed of a job that waits; what is left out stays."""

    arguments = serializers.DictField(required=False)


class RerunSerializer(serializers.Serializer[Any]):
    """How a job is run again, as another."""

    arguments = serializers.DictField(required=False, help_text="Instead of its own.")


class BulkSerializer(serializers.Serializer[Any]):
    """What to do, and with which jobs: every condition that is given must fit, and there must be one."""

    action = serializers.ChoiceField(choices=["cancel", "retry", "hold", "release", "rerun", "edit"])
    changes = ChangesSerializer(required=False, help_text="With `edit`: what to change.")
    ids = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=1000)
    state = serializers.ChoiceField(choices=Job.State.values, required=False)
    task = serializers.CharField(required=False)
    queue = serializers.CharField(required=False)
    namespace = serializers.CharField(required=False)
    batch = serializers.UUIDField(required=False)
    error = serializers.CharField(required=False, help_text="The code of the latest error.")
    held = serializers.BooleanField(required=False, allow_null=True, default=None)
    before = serializers.DateTimeField(required=False, help_text="Asked for before.")
    after = serializers.DateTimeField(required=False, help_text="Asked for at or after.")
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=1000)
    beyond = serializers.UUIDField(required=False, help_text="`next` of the answer before.")


class BulkDoneSerializer(serializers.Serializer[Any]):
    """What became of them."""

    done = serializers.IntegerField()
    refused = serializers.IntegerField(help_text="Those that could not, as they are.")
    reasons = serializers.ListField(child=serializers.CharField(), help_text="Why, of the first ten of those.")
    next = serializers.UUIDField(allow_null=True, help_text="Ask again with `beyond` this; null: these were all.")


class ProgressSerializer(serializers.ModelSerializer[Progress]):
    """How far a job is."""

    class Meta:
        model = Progress
        fields = ["done", "total", "text", "percent", "updated_at"]


class ErrorSerializer(serializers.Serializer[Any]):
    """Why a job failed; the traceback is for the console."""

    code = serializers.CharField(allow_null=True)
    message = serializers.CharField(allow_null=True)


class JobSerializer(serializers.ModelSerializer[Job]):
    """A job."""

    final = serializers.BooleanField(source="is_final", help_text="Whether it has ended.")
    progress = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField()
    log_url = serializers.SerializerMethodField()
    status_url = serializers.SerializerMethodField(help_text="A page for the person who waits; it needs no log-in.")

    class Meta:
        model = Job
        fields = [
            "id",
            "namespace",
            "task",
            "queue",
            "state",
            "final",
            "arguments",
            "progress",
            "result",
            "error",
            "attempt",
            "max_attempts",
            "priority",
            "reply_to",
            "correlation_id",
            "requested_by",
            "created_at",
            "started_at",
            "finished_at",
            "cancel_requested_at",
            "run_at",
            "expires_at",
            "held_at",
            "batch",
            "url",
            "log_url",
            "status_url",
        ]

    @extend_schema_field(ProgressSerializer(allow_null=True))
    def get_progress(self, job: Job) -> dict[str, Any] | None:
        """How far it is; null before it said so."""
        progress = progress_of(job)
        return None if progress is None else ProgressSerializer(progress).data

    @extend_schema_field(ErrorSerializer(allow_null=True))
    def get_error(self, job: Job) -> dict[str, Any] | None:
        """Why it failed; of the latest attempt while another one follows."""
        return {name: job.error.get(name) for name in ("code", "message")} if job.error else None

    def get_url(self, job: Job) -> str:
        """The path of this job."""
        return reverse("api:job", args=[job.id])

    def get_log_url(self, job: Job) -> str:
        """The path of its log."""
        return reverse("api:job_log", args=[job.id])

    def get_status_url(self, job: Job) -> str:
        """The signed link."""
        return status_url(job.id)


def progress_of(job: Job) -> Progress | None:
    """How far a job is; None before it said so."""
    try:
        return job.progress
    except Progress.DoesNotExist:
        return None


class BatchSerializer(serializers.Serializer[Any]):
    """How far a batch is."""

    id = serializers.UUIDField()
    name = serializers.CharField(allow_blank=True)
    total = serializers.IntegerField()
    done = serializers.IntegerField(help_text="How many jobs have ended, however they did.")
    percent = serializers.IntegerField()
    states = serializers.DictField(child=serializers.IntegerField(), help_text="How many are in each state.")


class LineSerializer(serializers.Serializer[Any]):
    """A line of a job's log."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    level = serializers.CharField()
    text = serializers.CharField(allow_blank=True)


class LogSerializer(serializers.Serializer[Any]):
    """A piece of a job's log."""

    lines = LineSerializer(many=True)
    after = serializers.IntegerField(help_text="Ask for the next piece with `?after=` this.")
    more = serializers.BooleanField(help_text="Whether the next piece is there already.")


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField(help_text="Stable and machine-readable; the same as in STOMP ERROR frames.")
    detail = serializers.CharField()
