"""Indexes by time end where new jobs are entered."""

from django.db import migrations, models

FIELDS = {
    "job_newest": ["created_at", "id"],
    "job_state": ["state", "created_at"],
    "job_task": ["namespace", "task", "created_at"],
}


class Migration(migrations.Migration):
    dependencies = [("jobs", "0011_plain")]

    operations = [
        operation
        for name, fields in FIELDS.items()
        for operation in (
            migrations.RemoveIndex(model_name="job", name=name),
            migrations.AddIndex(model_name="job", index=models.Index(fields=fields, name=name)),
        )
    ]
