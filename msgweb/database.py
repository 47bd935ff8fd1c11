"""Which Postgres this installation uses: `DATABASE_URL`, else the embedded cluster under the data folder."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

EMBEDDED_DATABASE = "msgweb"
EMBEDDED_ROLE = "msgweb"
EMBEDDED_PORT = 5432  # names the socket file only: the embedded server has no TCP port


def _sockets() -> Path:
    """Not `gettempdir()`, which TMPDIR moves: a command in another shell must find the socket too."""
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108


def embedded_socket_dir(home: Path) -> Path:
    """The folder of the embedded server's Unix socket.

    Not below `home`: a socket's path is limited to 107 bytes, and where `home` stands under a closed folder (`/root`)
    the server's own user could not enter it. The name is derived from `home`, so that two installations never meet.
    """
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return _sockets() / f"msgweb-{os.getuid()}-{digest}"


def conninfo(home: Path) -> str:
    """A libpq connection string for whatever database this installation uses."""
    url = os.environ.get("DATABASE_URL")
    if url:
        return url
    return make_conninfo(
        host=str(embedded_socket_dir(home)), port=EMBEDDED_PORT, dbname=EMBEDDED_DATABASE, user=EMBEDDED_ROLE
    )


def django_settings(home: Path, pool: int = 0) -> dict[str, Any]:
    """The `DATABASES` entry. Connections persist: a connection for each request costs more than the request.

    Args:
        pool: the most connections of a pool that all threads share; 0 is one connection a thread. For the web process:
            under ASGI each request has a thread of its own, whose connection nobody would find again (400 requests left
            29 open ones behind; alone a request took 12 ms, with a pool 4.5).
    """
    parts: dict[str, Any] = dict(conninfo_to_dict(conninfo(home)))
    if pool:
        # The timeout is what a request waits for a free connection, or for a database that is away.
        parts["pool"] = {"min_size": 1, "max_size": pool, "timeout": 5}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", None) or "msgweb",
        "USER": parts.pop("user", None) or "",
        "PASSWORD": parts.pop("password", None) or "",
        "HOST": parts.pop("host", None) or "",
        "PORT": str(parts.pop("port", None) or ""),
        "CONN_MAX_AGE": 0 if pool else 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": parts,
    }


def conninfo_of(settings: dict[str, Any]) -> str:
    """The libpq connection string of a `DATABASES` entry, for the engine's own connections (tests rename databases)."""
    return make_conninfo(
        dbname=str(settings["NAME"]),
        user=settings["USER"] or None,
        password=settings["PASSWORD"] or None,
        host=settings["HOST"] or None,
        port=settings["PORT"] or None,
        **{name: value for name, value in settings.get("OPTIONS", {}).items() if name != "pool"},
    )
