"""Which sessions live, and whether a worker holds a message."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0011_consumer_priorities")]

    operations = [migrations.RunSQL((SQL / "0012_held.sql").read_text())]
