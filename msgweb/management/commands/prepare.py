"""`manage.py prepare`: what must be in the database before the installation serves. Quick where nothing is to do."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from msgweb import credentials
from msgweb.home import http_listen, stomp_listen

MIGRATION_LOCK = 0x6D73677765620001  # an advisory lock: 'msgweb', 1


class Command(BaseCommand):
    help = "Migrates the database, makes an account, an access key and credentials.json, and fills in the samples."
    # The checks of models and URLs take longer than all the rest; `manage.py check` is there for them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-samples", action="store_true", help="leave the two sample applications empty")
        parser.add_argument("--migrate-only", action="store_true", help="migrate, and no more (deployments)")

    def handle(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            # Two machines that start together must not both migrate.
            cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
            try:
                self._migrate()
                if not options["migrate_only"]:
                    credentials.ensure(settings.MSGWEB_HOME, http_listen(), stomp_listen())
                    if not options["no_samples"]:
                        call_command("seed_samples", stdout=self.stdout)
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK])

    def _migrate(self) -> None:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            self.stdout.write(f"applying {len(plan)} migrations")
            call_command("migrate", interactive=False, verbosity=0)
