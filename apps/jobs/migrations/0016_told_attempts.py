"""The events of an attempt that was recorded once are told from its row."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).with_name("sql") / "0016_told_attempts.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0015_tally")]

    operations = [
        migrations.AddField("attempt", "told_from", models.BigIntegerField(null=True, blank=True, editable=False)),
        migrations.RunSQL(SQL.read_text()),
    ]
