"""Fixtures for all tests: a real Postgres, and whole installations made of real processes.

- `db` and its kin (pytest-django) work on a real Postgres, migrated.
- `installation` is a fresh database with a data folder and free ports of its own, whose processes the test starts and
  kills: see `tests/installation.py`.
- `@pytest.mark.needs("php")` skips where something is missing, and says what would enable it; with
  `MSGWEB_REQUIRE_ALL=1` (CI) that is a failure.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from django.apps import AppConfig
from django.conf import settings
from django.db import connections
from django.db.models.signals import post_migrate
from django.dispatch import receiver
from hypothesis import settings as hypothesis

from msgweb.database import conninfo_of
from tests import environment
from tests.installation import Installation, Postgres, Template, postgres_server

# A loaded machine is no failure; the blob repeats an example that CI found.
hypothesis.register_profile("msgweb", deadline=None, print_blob=True)
hypothesis.load_profile("msgweb")


@functools.cache
def php_speaks_stomp() -> bool:
    """Whether there is a PHP with the PECL extension `stomp`."""
    php = shutil.which("php")
    if php is None:
        return False
    loaded = subprocess.run([php, "-m"], capture_output=True, text=True, check=False).stdout
    return "stomp" in loaded.lower().split()


def works(*command: str) -> bool:
    """Whether the program is here and ends well."""
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


#: Debian puts it where only root's PATH leads.
PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")

#: What a test may need, how to find it, and what would bring it.
NEEDS: dict[str, tuple[Callable[[], object], str]] = {
    "php": (php_speaks_stomp, "apt-get install php-cli php-stomp"),
    "ruby-stomp": (lambda: works("ruby", "-e", "require 'stomp'"), "apt-get install ruby-stomp"),
    "net-stomp": (
        lambda: works("perl", "-MNet::Stomp", "-MIO::Socket::SSL", "-e1"),
        "apt-get install libnet-stomp-perl libio-socket-ssl-perl",
    ),
    "npm": (lambda: shutil.which("node") and shutil.which("npm"), "install Node.js 20 with npm"),
    "chromium": (lambda: shutil.which("chromium") or shutil.which("chromium-browser"), "apt-get install chromium"),
    "rabbitmq": (lambda: shutil.which("rabbitmq-server"), "apt-get install rabbitmq-server"),
    "pgbouncer": (lambda: PGBOUNCER, "apt-get install pgbouncer"),
    "root": (lambda: os.geteuid() == 0, "run the tests as root"),
    "make": (lambda: shutil.which("make"), "apt-get install make"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for what in mark.args:
            found, remedy = NEEDS[what]
            if not found():
                report = pytest.fail if os.environ.get("MSGWEB_REQUIRE_ALL") == "1" else pytest.skip
                report(f"{what} is not here; to enable this test: {remedy}")


def pytest_unconfigure() -> None:
    shutil.rmtree(environment.HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The Postgres server of this test session; `DATABASE_URL`'s, else an embedded one that ends with the session."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres: Postgres) -> None:
    """pytest-django's hook before it makes the test database: the server must be up by then."""


_EMPTY_THE_REST = """
DO $$ DECLARE
    one    regclass;
    filled boolean;
BEGIN
    FOR one IN
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND (n.nspname = 'msgweb' AND c.relname NOT IN ('catalogue', 'since_crash') OR c.relname = 'jobs_admission')
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', one) INTO filled;
        IF filled THEN
            EXECUTE format('DELETE FROM %s', one);
        END IF;
    END LOOP;
END $$
"""


@receiver(post_migrate)
def _empty_what_flush_leaves(app_config: AppConfig, using: str, **_: object) -> None:
    """After a test that commits, Django empties the tables of its models and says so by this signal. Those of no model
    are emptied with them, so that no test finds the rows of another. What `catalogue` and `since_crash` hold is a state
    of the database."""
    if app_config.label == "broker":
        with connections[using].cursor() as cursor:
            cursor.execute(_EMPTY_THE_REST)


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> Iterator[Template]:
    """A migrated database with an account and an access key, to be copied, never to be connected to."""
    with postgres.migrated_template() as template:
        yield template


@pytest.fixture
def conninfo() -> str:
    """The libpq connection string of the database that Django uses in this test, for engines of the test's own."""
    return conninfo_of(settings.DATABASES["default"])


@pytest.fixture
def installation(
    postgres: Postgres, template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A fresh installation, with nothing started yet; all that the test started is ended after it."""
    with Installation.fresh(postgres, template, tmp_path_factory.mktemp("installation")) as installation:
        yield installation
