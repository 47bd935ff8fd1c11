"""A plain job that is asked for in a transaction of its own: the workers hear of it while it is written to disk."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0019_alone.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0018_born_lean")]

    operations = [migrations.RunSQL(SQL.read_text(), "DROP PROCEDURE msgweb.enqueue_plain_alone")]
