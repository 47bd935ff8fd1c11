"""Messages of groups for consumers with selectors."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0009_consumers")]

    operations = [migrations.RunSQL((SQL / "0010_groups_and_selectors.sql").read_text())]
