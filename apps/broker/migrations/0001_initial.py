"""The engine's schema, in SQL: partitions, partial indexes and functions are beyond the ORM.

The models over it are unmanaged; this migration tells Django's state of them.
"""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    initial = True
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.RunSQL((SQL / "0001_engine.sql").read_text(), "DROP SCHEMA msgweb CASCADE"),
        migrations.CreateModel(
            name="Destination",
            fields=[
                ("id", models.IntegerField(primary_key=True, serialize=False)),
                ("namespace", models.CharField(max_length=127)),
                ("kind", models.CharField(choices=[("queue", "queue"), ("topic", "topic")], max_length=5)),
                ("name", models.CharField(max_length=255)),
                ("owner", models.IntegerField(null=True)),
                ("created_at", models.DateTimeField()),
            ],
            options={"db_table": 'msgweb"."destination', "managed": False, "ordering": ["namespace", "name"]},
        ),
        migrations.CreateModel(
            name="Session",
            fields=[
                ("id", models.IntegerField(primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=10)),
                ("host", models.TextField()),
                ("pid", models.IntegerField()),
                ("details", models.JSONField(default=dict)),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={"db_table": 'msgweb"."session', "managed": False, "ordering": ["id"]},
        ),
    ]
