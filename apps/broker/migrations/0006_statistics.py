"""Statistics of each destination."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0005_management")]

    operations = [migrations.RunSQL((SQL / "0006_statistics.sql").read_text())]
