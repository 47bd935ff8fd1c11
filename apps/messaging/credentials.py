"""Where to connect to, and as whom: from the environment, or from an installation's `credentials.json`.

MSGWEB_STOMP         host:port of the gateway
MSGWEB_LOGIN         the access key's login
MSGWEB_PASSCODE      its passcode
MSGWEB_NAMESPACE     project.environment, such as taoshop.production; without it the key's default
MSGWEB_CREDENTIALS   a credentials file, for whatever the others do not say
MSGWEB_HOME          the installation's data folder, where that file lies otherwise; default .msgweb
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from apps.messaging.errors import BadCredentials


@dataclass(frozen=True, slots=True)
class Credentials:
    """A gateway's address and an access key.

    Attributes:
        namespace: `project.environment`; None is the access key's default.
    """

    host: str
    port: int
    login: str
    passcode: str = field(repr=False)
    namespace: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Credentials":
        """The `stomp` part of a `credentials.json`.

        Raises:
            BadCredentials: the file cannot be read, or lacks something.
        """
        try:
            stomp = json.loads(Path(path).read_text())["stomp"]
            return cls(
                host=str(stomp["host"]),
                port=int(stomp["port"]),
                login=str(stomp["login"]),
                passcode=str(stomp["passcode"]),
                namespace=stomp.get("namespace"),
            )
        except OSError as error:
            raise BadCredentials(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadCredentials(f"{path} is no credentials file: {type(error).__name__} {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Credentials":
        """The variables above; what they leave open comes from the credentials file.

        Raises:
            BadCredentials: there is not enough of either, or MSGWEB_STOMP is not `host:port`.
        """
        env = os.environ if environment is None else environment
        login, passcode = env.get("MSGWEB_LOGIN"), env.get("MSGWEB_PASSCODE")
        if login and passcode:
            found = cls("127.0.0.1", 61613, login, passcode)
        else:
            home = Path(env.get("MSGWEB_HOME") or ".msgweb").expanduser()
            found = cls.from_file(env.get("MSGWEB_CREDENTIALS") or home / "credentials.json")
        if address := env.get("MSGWEB_STOMP"):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise BadCredentials(f"MSGWEB_STOMP must be host:port, such as 127.0.0.1:61613, not {address!r}")
            found = replace(found, host=host.strip("[]"), port=int(port))
        if namespace := env.get("MSGWEB_NAMESPACE"):
            found = replace(found, namespace=namespace)
        return found
