"""How old the oldest message is does not depend on its priority."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0013_tally")]

    operations = [migrations.RunSQL((SQL / "0014_oldest_age.sql").read_text())]
