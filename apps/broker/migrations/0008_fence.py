"""A fence that writes nothing, and an index that alone serves the order of what is ready."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0007_after_crash")]

    operations = [migrations.RunSQL((SQL / "0008_fence.sql").read_text())]
