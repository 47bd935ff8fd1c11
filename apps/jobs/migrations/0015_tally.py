"""How many jobs have ended is noted by whatever ends them."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0015_tally.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0014_born_ready")]

    operations = [migrations.RunSQL(SQL.read_text())]
