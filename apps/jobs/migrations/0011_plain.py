"""Asking for a plain job by a statement of its own."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0011_plain.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0010_revival"), ("broker", "0013_tally")]

    operations = [migrations.RunSQL(SQL.read_text())]
