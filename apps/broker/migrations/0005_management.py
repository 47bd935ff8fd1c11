"""What is done to queues from outside: purge, redrive, replay."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0004_bindings")]

    operations = [migrations.RunSQL((SQL / "0005_management.sql").read_text())]
