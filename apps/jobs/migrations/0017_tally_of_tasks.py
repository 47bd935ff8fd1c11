"""How many jobs have ended is noted by task, too."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql")
#: The functions as they were.
BEFORE = (SQL / "0015_tally.sql").read_text().partition("-- Make rows")[2].partition("\n")[2]
BACK = BEFORE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0016_told_attempts")]

    operations = [
        migrations.RunSQL(
            (SQL / "0017_tally_of_tasks.sql").read_text(),
            f"ALTER TABLE msgweb.jobs_ended DROP COLUMN task;\n{BACK}",
        )
    ]
