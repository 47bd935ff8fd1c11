"""How many workers have died with a job in a row, and whether they had been told to stop."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0008_upkeep")]

    operations = [
        migrations.AddField("job", "deaths", models.SmallIntegerField(db_default=0, default=0)),
        migrations.AddField("attempt", "stopping_at", models.DateTimeField(blank=True, null=True)),
    ]
