"""What a transaction has claimed."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0014_oldest_age")]

    operations = [migrations.RunSQL((SQL / "0015_claimed.sql").read_text())]
