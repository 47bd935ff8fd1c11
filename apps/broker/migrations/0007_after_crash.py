"""What a crash of the server takes with it."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0006_statistics")]

    operations = [migrations.RunSQL((SQL / "0007_after_crash.sql").read_text())]
