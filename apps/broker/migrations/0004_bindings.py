"""Topics that reach queues: durable subscriptions and virtual topics."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0003_schedules")]

    operations = [migrations.RunSQL((SQL / "0004_bindings.sql").read_text())]
