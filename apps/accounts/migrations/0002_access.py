import apps.accounts.models
import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_initial'),
        ('auth', '0012_alter_user_first_name_max_length'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('actor', models.TextField()),
                ('action', models.TextField()),
                ('kind', models.TextField()),
                ('subject', models.TextField()),
                ('changes', models.JSONField(default=dict)),
            ],
            options={
                'verbose_name_plural': 'audit entries',
                'ordering': ['-id'],
            },
        ),
        migrations.AddField(
            model_name='accesskey',
            name='expires_at',
            field=models.DateTimeField(blank=True, help_text='From then on it opens nothing.', null=True),
        ),
        migrations.AddField(
            model_name='accesskey',
            name='max_connections',
            field=models.PositiveIntegerField(blank=True, help_text='Connections at once; empty: as many as the gateway takes.', null=True, validators=[django.core.validators.MinValueValidator(1)]),
        ),
        migrations.AddField(
            model_name='accesskey',
            name='max_sends_per_second',
            field=models.PositiveIntegerField(blank=True, help_text='Messages sent a second; who is quicker is slowed. Empty: no limit.', null=True, validators=[django.core.validators.MinValueValidator(1)]),
        ),
        migrations.AddField(
            model_name='accesskey',
            name='max_subscriptions',
            field=models.PositiveIntegerField(blank=True, help_text="Subscriptions at once, of all its connections; empty: the gateway's limit.", null=True, validators=[django.core.validators.MinValueValidator(1)]),
        ),
        migrations.AddField(
            model_name='accesskey',
            name='max_unacked',
            field=models.PositiveIntegerField(blank=True, help_text='Messages held unacknowledged at once, of all its connections; empty: no limit.', null=True, validators=[django.core.validators.MinValueValidator(1)]),
        ),
        migrations.AddField(
            model_name='accesskey',
            name='restricted',
            field=models.BooleanField(default=False, help_text='Only what its permissions say. Otherwise it may do everything in its namespaces.'),
        ),
        migrations.CreateModel(
            name='ClientCertificate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(help_text='Such as shop-7.example.com.', max_length=255, unique=True)),
                ('key', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='certificates', to='accounts.accesskey')),
                ('user', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='certificates', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['name'],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('key__isnull', False), ('user', None)), models.Q(('key', None), ('user__isnull', False)), _connector='OR'), name='accounts_certificate_has_one_holder')],
            },
        ),
        migrations.CreateModel(
            name='Permission',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('pattern', models.CharField(help_text='Such as queue/orders.*, topic/news.#, task/firebrand.clone_brand, job/#; ** is everything.', max_length=255, validators=[apps.accounts.models._check_pattern])),
                ('send', models.BooleanField(default=False)),
                ('receive', models.BooleanField(default=False)),
                ('manage', models.BooleanField(default=False)),
                ('group', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='destinations', to='auth.group')),
                ('key', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='permissions', to='accounts.accesskey')),
                ('namespace', models.ForeignKey(blank=True, help_text='Empty: each namespace that the key opens; of a person or a group: each one there is.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.namespace')),
                ('user', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='destinations', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['id'],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('group', None), ('key__isnull', False), ('user', None)), models.Q(('group', None), ('key', None), ('user__isnull', False)), models.Q(('group__isnull', False), ('key', None), ('user', None)), _connector='OR'), name='accounts_permission_has_one_holder'), models.CheckConstraint(condition=models.Q(('send', True), ('receive', True), ('manage', True), _connector='OR'), name='accounts_permission_allows_something')],
            },
        ),
    ]
