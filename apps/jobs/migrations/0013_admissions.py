"""What workers have begun and not recorded yet."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("sql") / "0013_admissions.sql"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0012_ascending")]

    operations = [migrations.RunSQL(SQL.read_text())]
