"""Asking for a job in one statement; limits, chains, batches, upkeep."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0004_lifecycle.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_options"), ("broker", "0009_consumers")]

    operations = [migrations.RunSQL(SQL.read_text())]
