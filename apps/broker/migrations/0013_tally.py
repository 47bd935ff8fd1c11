"""What SQL counts costs less: it is noted first, and folded into the statistics later."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("broker", "0012_held")]

    operations = [migrations.RunSQL((SQL / "0013_tally.sql").read_text())]
