"""What was cancelled since a job before it had not succeeded lives again when that is tried again."""

from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

SQL = Path(__file__).with_name("sql") / "0010_revival.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0009_deaths")]

    operations = [
        migrations.CreateModel(
            name="BrokenLink",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("after", models.UUIDField(db_index=True)),
                (
                    "job",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="waited_for",
                        to="jobs.job",
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="brokenlink",
            constraint=models.UniqueConstraint(fields=("job", "after"), name="broken_link_once"),
        ),
        migrations.RunSQL(SQL.read_text()),
    ]
