"""Where this installation keeps its data and secrets, and where it listens.

Fixed names, so that scripts can rely on them: everything lives under `.msgweb/` in the repository's root
(`MSGWEB_HOME` moves it).
"""

import os
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent


class Listen(NamedTuple):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def home() -> Path:
    """The data folder; not necessarily there yet."""
    return Path(os.environ.get("MSGWEB_HOME") or REPOSITORY / ".msgweb").expanduser().resolve()


def listen(variable: str, default: str) -> Listen:
    """Read `host:port` from an environment variable.

    Raises:
        ValueError: the text is not `host:port` with a port from 1 to 65535; the message names the variable.
    """
    return parse_listen(os.environ.get(variable) or default, variable, default)


def parse_listen(text: str, name: str, example: str) -> Listen:
    """Read `host:port`.

    Args:
        name, example: for the error.

    Raises:
        ValueError: the text is not `host:port` with a port from 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{name} must be host:port, such as {example}, not {text!r}")
    return Listen(host.strip("[]"), int(port))


def http_listen() -> Listen:
    """Where the web process listens (`MSGWEB_HTTP`)."""
    return listen("MSGWEB_HTTP", "127.0.0.1:8000")


def stomp_listen() -> Listen:
    """Where the STOMP gateway listens (`MSGWEB_STOMP`)."""
    return listen("MSGWEB_STOMP", "127.0.0.1:61613")
