"""What a queue may promise beyond order and competing consumers: settings, groups, delays, expiry, kept messages."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0001_initial")]

    operations = [
        migrations.RunSQL((SQL / "0002_promises.sql").read_text()),
        migrations.RunSQL((SQL / "0002_functions.sql").read_text()),
    ]
