"""Django's backend for Postgres, out of reach of the guard that pytest-django puts around databases."""

from typing import Any

from django.db import connections
from django.db.backends.postgresql import base
from psycopg.conninfo import conninfo_to_dict


class DatabaseWrapper(base.DatabaseWrapper):
    """The guard replaces the method of the base class; this is the same, in a class of our own."""

    def ensure_connection(self) -> None:
        if self.connection is None:
            with self.wrap_database_errors:
                self.connect()


def alias_of(conninfo: str) -> str:
    """A database alias for a connection string, made at need; it serves every thread."""
    alias = f"unguarded {conninfo}"
    if alias not in connections.databases:
        place: dict[str, Any] = conninfo_to_dict(conninfo)
        connections.databases[alias] = {
            **connections.databases["default"],
            "ENGINE": "tests.unguarded",
            "NAME": place.pop("dbname", ""),
            "USER": place.pop("user", ""),
            "PASSWORD": place.pop("password", ""),
            "HOST": place.pop("host", ""),
            "PORT": place.pop("port", ""),
        }
    return alias
