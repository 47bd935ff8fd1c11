"""The first event of a plain job is told from its row."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).with_name("sql") / "0014_born_ready.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0013_admissions")]

    operations = [
        migrations.AddField("job", "born_ready", models.BooleanField(db_default=False, default=False, editable=False)),
        migrations.RunSQL(SQL.read_text()),
    ]
