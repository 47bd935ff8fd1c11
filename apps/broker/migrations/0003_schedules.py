"""Schedules: what they remember of their runs, and the functions that send their messages."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0002_promises")]

    operations = [migrations.RunSQL((SQL / "0003_schedules.sql").read_text())]
