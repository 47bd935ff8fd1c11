"""A batch that begins with one message enters by the statement that writes it; priorities are checked at the borders."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0014_oldest_age")]

    operations = [migrations.RunSQL((SQL / "0015_write_one.sql").read_text())]
