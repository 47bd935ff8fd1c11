"""`<MSGWEB_HOME>/credentials.json`: how a person and a program enter this installation. Made once, mode 0600.

Its form is fixed, so that scripts can rely on it:
{"web": {"url", "username", "password"}, "stomp": {"host", "port", "login", "passcode", "namespace"},
"api": {"url", "token"}}
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model

from apps.accounts.models import AccessKey, Namespace
from msgweb.errors import AccessRefused
from msgweb.home import Listen

NAMESPACES = ("firebrand.development", "taoshop.development")  # one key opens both; the first is its default
KEY_TITLE = "This installation's own key (credentials.json)"

Credentials = dict[str, dict[str, Any]]


def ensure(home: Path, http: Listen, stomp: Listen) -> Credentials:
    """The credentials of this installation: read, made where they are missing, and brought up to date with the ports.

    Nobody's password is changed: where the name `admin` is taken by somebody whose password is not on file, the new
    account gets another name.
    """
    path = home / "credentials.json"
    known = _read(path)
    stomp_part, web_part = known.get("stomp", {}), known.get("web", {})
    namespaces = [Namespace.objects.get_or_create(name=name)[0] for name in NAMESPACES]
    try:
        AccessKey.authenticate(str(stomp_part["login"]), str(stomp_part["passcode"]))
        login, passcode = stomp_part["login"], stomp_part["passcode"]
    except (KeyError, AccessRefused):
        # The file is new, or belongs to another database: then neither its key nor its password can be trusted.
        key, passcode = AccessKey.issue(KEY_TITLE, namespaces[0], namespaces[1:])
        login, web_part = key.login, {}
    users = get_user_model().objects
    if not (web_part.get("password") and users.filter(username=web_part.get("username")).exists()):
        name = "admin"
        while users.filter(username=name).exists():
            name = f"admin-{secrets.token_hex(2)}"
        web_part = {"username": name, "password": secrets.token_urlsafe(12)}
        users.create_superuser(username=name, email="", password=web_part["password"])
    url = f"http://{reachable(http)}"
    credentials: Credentials = {
        "web": {"url": f"{url}/", "username": web_part["username"], "password": web_part["password"]},
        "stomp": {
            "host": reachable(stomp).host,
            "port": stomp.port,
            "login": login,
            "passcode": passcode,
            "namespace": NAMESPACES[0],
        },
        "api": {"url": f"{url}/api/", "token": f"{login}.{passcode}"},
    }
    if credentials != known:
        write(path, credentials)
    return credentials


def reachable(listen: Listen) -> Listen:
    """What a client on this machine connects to, where the server listens on every address."""
    return Listen({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host), listen.port)  # noqa: S104


def write(path: Path, credentials: Credentials) -> None:
    """Replace the file as a whole; nobody but its owner can read it, not even for a moment."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(credentials, file, indent=2)
        file.write("\n")
    draft.replace(path)


def _read(path: Path) -> Credentials:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(part, dict) for part in found.values()) else {}
