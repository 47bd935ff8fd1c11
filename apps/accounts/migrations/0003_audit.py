"""Triggers that write the audit log and wake the gateways."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"

REVERSE = """
DROP FUNCTION accounts_note_change() CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_access"), ("auth", "0012_alter_user_first_name_max_length")]

    operations = [migrations.RunSQL((SQL / "0003_audit.sql").read_text(), REVERSE)]
