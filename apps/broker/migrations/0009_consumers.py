"""Who consumes a queue, and who is alone there."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0008_fence")]

    operations = [migrations.RunSQL((SQL / "0009_consumers.sql").read_text())]
