"""Functions that remove what has been kept long enough."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0006_retention.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0005_schedules")]

    operations = [migrations.RunSQL(SQL.read_text())]
