"""Consumer priorities that hold across processes."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0010_groups_and_selectors")]

    operations = [migrations.RunSQL((SQL / "0011_consumer_priorities.sql").read_text())]
