"""What the gateway needs of others, besides the Engine."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is connected, and to which namespace.

    Attributes:
        login: for the log and as the asker of jobs.
    """

    login: str
    namespace: str


class Authenticator(Protocol):
    """Who checks logins."""

    async def authenticate(self, login: str, passcode: str, host: str | None) -> Principal:
        """The principal of these credentials.

        Args:
            host: what CONNECT called the virtual host. A namespace's name, if it is one; clients send the TCP host's
                name by default, so anything else means the default namespace of the credentials.

        Raises:
            AccessRefused: unknown or revoked credentials, or a namespace that they do not open.
            Unavailable: the database is away.
        """


class TaskPort(Protocol):
    """The door to jobs: SEND to `/task/<name>` and to `/job/<id>`. Errors are subclasses of MsgwebError."""

    async def submit(
        self,
        *,
        namespace: str,
        task: str,
        body: bytes,
        headers: dict[str, str],
        reply_to: str | None,
        requested_by: str,
    ) -> str:
        """Ask for a job; returns its id when the request is durable.

        Args:
            body: the arguments, a JSON object.
            headers: those of the SEND.
            reply_to: where the answer goes; a destination that is valid everywhere.
            requested_by: the login.
        """

    async def job_event(
        self, *, namespace: str, job_id: str, body: bytes, headers: dict[str, str], requested_by: str
    ) -> None:
        """What a foreign worker says about the job that it works on (`job-event: progress | log | result | error`)."""
