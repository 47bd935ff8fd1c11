"""How Postgres keeps the hot tables: room in each page for the next version of a row, and vacuum by count."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE jobs_job SET (fillfactor = 80,
                autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
            ALTER TABLE jobs_progress SET (fillfactor = 50,
                autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
            """,
            """
            ALTER TABLE jobs_job RESET
                (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
            ALTER TABLE jobs_progress RESET
                (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
            """,
        )
    ]
