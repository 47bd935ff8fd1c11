"""What a job that is ready costs Postgres: one entry for lists, and no column that says what most of them say.

In reverse the lists' indexes are as before, which `msgweb.prune_jobs` as it is then serves just as well.
"""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).with_name("sql") / "0018_born_lean.sql"
INDEXES = {
    "job_newest": ["created_at", "id"],
    "job_state": ["state", "created_at"],
    "job_task": ["namespace", "task", "created_at"],
}
READY = models.Q(state="ready")
STATES = ("scheduled", "ready", "running", "waiting", "succeeded", "failed", "cancelled", "expired")
FIELDS = {
    "priority": models.SmallIntegerField(default=4, db_default=4),
    "state": models.CharField(
        max_length=10, choices=[(one, one.capitalize()) for one in STATES], default="ready", db_default="ready"
    ),
    "attempt": models.IntegerField(default=0, db_default=0),
    "failures": models.IntegerField(default=0, db_default=0),
    "max_attempts": models.IntegerField(default=1, db_default=1),
    "delivery": models.IntegerField(default=0, db_default=0),
    "reply_to": models.CharField(max_length=300, blank=True, default="", db_default=""),
    "correlation_id": models.CharField(max_length=255, blank=True, default="", db_default=""),
    "wants_progress": models.BooleanField(default=False, db_default=False),
    "requested_by": models.CharField(max_length=200, blank=True, default="", db_default=""),
}


class Migration(migrations.Migration):
    dependencies = [("jobs", "0017_tally_of_tasks")]

    operations = [
        *(
            operation
            for name, fields in INDEXES.items()
            for operation in (
                migrations.RemoveIndex("job", name),
                migrations.AddIndex("job", models.Index(fields=fields, name=name, condition=~READY)),
            )
        ),
        migrations.AddIndex(
            "job", models.Index(fields=["namespace", "task", "created_at"], name="job_ready", condition=READY)
        ),
        migrations.AddIndex(
            "attempt",
            models.Index(fields=["id"], name="attempt_interrupted", condition=models.Q(outcome="interrupted")),
        ),
        *(migrations.AlterField("job", name, field) for name, field in FIELDS.items()),
        migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),
    ]
