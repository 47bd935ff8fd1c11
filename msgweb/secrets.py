"""Django's secret key: from the environment, or made once and kept in a file that only its owner can read."""

import os
import secrets
from pathlib import Path


def secret_key(home: Path) -> str:
    """`MSGWEB_SECRET_KEY`, else the content of `<home>/secret_key`, made with mode 0600 at the first call."""
    given = os.environ.get("MSGWEB_SECRET_KEY")
    if given:
        return given
    path = home / "secret_key"
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"secret_key.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(48))
    try:
        os.link(draft, path)  # the first of two processes that start together wins; both then read the same key
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()
