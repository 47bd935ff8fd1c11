"""Upkeep whose cost does not grow with what merely waits."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0008_upkeep.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0007_lists")]

    operations = [migrations.RunSQL(SQL.read_text())]
