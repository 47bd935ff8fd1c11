"""What the gateway needs of others, besides the Engine."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from apps.accounts.permissions import EVERYTHING, Access
from apps.accounts.standings import NO_LIMITS, Identity, KeyLimits
from apps.stomp.protocol.parser import Heads
from msgweb.errors import MsgwebError


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is connected, and to which namespace.

    Attributes:
        login: for the log and as the asker of jobs.
        access: what it may do.
        limits: what it may use at once, of all its connections.
        identity: by which it is looked at again when access changes; None: it stays as it is.
        heads: what was learned of the heads of its SENDs, access included, by listener and version: a page of PHP sends
            on a connection of its own what many a page has sent before.
    """

    login: str
    namespace: str
    access: Access = EVERYTHING
    limits: KeyLimits = NO_LIMITS
    identity: Identity | None = None
    heads: dict[tuple[int, str], Heads] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows at log-in.

    Attributes:
        login, passcode: of CONNECT; None where there was none.
        host: what CONNECT called the virtual host. A namespace's name, if it is one; clients send the TCP host's name
            by default, so anything else means the default namespace.
        namespace: the listener's default; None: that of the login.
        peer: the address of the client's machine, without its port; "" for a local socket.
        certificate: the client's certificate, as `ssl.SSLSocket.getpeercert` gives it, verified; None without one.
        anonymous: the login under which the listener lets clients in that show none; None: it does not.
    """

    login: str | None
    passcode: str | None = field(repr=False)
    host: str | None = None
    namespace: str | None = None
    peer: str = ""
    certificate: Mapping[str, Any] | None = None
    anonymous: str | None = None


class Authenticator(Protocol):
    """Who checks logins."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """The principal of these credentials.

        Raises:
            AccessRefused: unknown or revoked credentials, or a namespace that they do not open.
            LimitExceeded: too many log-ins from there have failed.
            Unavailable: the database is away.
        """

    def remembered(self, credentials: Credentials) -> Principal | None:
        """The principal of credentials that were good a moment ago; None: `authenticate` must be asked."""

    async def look_again(self, principals: Iterable[Principal]) -> dict[Principal, Principal]:
        """What they may do now; those whose log-in is gone, or their namespace closed to them, are left out.

        Raises:
            Unavailable: the database is away.
        """

    def forget(self) -> None:
        """Something about access has changed: nothing that is remembered of it counts any more."""


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
        delay: float = 0.0,
        expires: float | None = None,
    ) -> str:
        """Ask for a job; returns its id when the request is durable.

        Args:
            delay: seconds before which it does not begin.
            expires: seconds from then on, after which it is given up if it has not begun; None: as its task says.
            body: the arguments, a JSON object.
            headers: those of the SEND.
            reply_to: where the answer goes; a destination that is valid everywhere.
            requested_by: the login.
        """

    def hearing(self, *, namespace: str, job_id: str, requested_by: str) -> "Hearing":
        """For what one client says about an attempt at a job; `requested_by` is its login. It costs nothing yet."""


class Word(NamedTuple):
    """What a client says about a job, by one SEND to `/job/<id>`.

    Attributes:
        event: the header `job-event`: progress, log, result, error or cancelled.
        at: when it came (Unix time).
    """

    event: str
    body: bytes
    content_type: str | None
    at: float


class Hearing(Protocol):
    """Records what one client says about an attempt at a job, and keeps what bounds that attempt's log."""

    async def hear(
        self, words: Sequence[Word], *, attempt: int | None = None, ending: str | None = None
    ) -> "Sequence[Heard | MsgwebError]":
        """Record words, in one transaction, and say what became of each; an error is that word's alone.

        Args:
            attempt: of which they are said; None: the client does not know.
            ending: why the client was asked to stop, if it was: `cancelled` or `timeout`.

        Raises:
            MsgwebError: none of them was recorded.
        """

    async def close(self, attempt: int) -> None:
        """The client says no more of that attempt, whose end is recorded next: the log is told what was left out.

        Raises:
            MsgwebError: it could not be.
        """


class Heard(Protocol):
    """What became of a word about a job."""

    @property
    def counted(self) -> bool:
        """It was recorded; else it was dropped: the job has ended, or that attempt is not its any more."""

    @property
    def state(self) -> str:
        """The job's."""


class Offer(NamedTuple):
    """A job's message that is to be handed out.

    Attributes:
        deliveries: how often the message was, this time included.
        ticket: which of the job's messages it is.
        session: the engine's, under which the message is held.
        worker: who gets it, for people.
    """

    job: str
    namespace: str
    deliveries: int
    ticket: int
    session: int
    worker: str


class Attempt(NamedTuple):
    """An attempt that has begun.

    Attributes:
        timeout: seconds that it may take; None: as long as it likes.
    """

    job: str
    number: int
    session: int
    task: str
    failures: int
    timeout: float | None


#: Why a job was not begun: its message is `void` (it has ended, or waits, or gets another one); a later delivery is at
#: work (`stale`); there is no such job here (`unknown`); the database refused (`later`).
NotBegun = Literal["void", "stale", "unknown", "later"]


class End(NamedTuple):
    """How an attempt ends that its worker does not end itself.

    Attributes:
        outcome: interrupted, cancelled or failed.
        error: {"code", "message"} of a failure.
        again: a failure may be followed by another attempt, `pause` seconds later; None: as the task says.
        note: why, for people.
    """

    outcome: Literal["interrupted", "cancelled", "failed"]
    note: str | None = None
    error: Mapping[str, str] | None = None
    again: bool = True
    pause: float | None = None


class AtWork(Protocol):
    """The jobs that the clients of a gateway work on."""

    def attempts(self) -> list[Attempt]:
        """All of them."""

    def cancel(self, job: str) -> None:
        """Somebody wants it cancelled; perhaps it is not one of these."""

    def over(self, attempt: Attempt, state: str) -> None:
        """It was ended elsewhere."""


class WorkPort(Protocol):
    """Who records the attempts of the jobs that clients work on."""

    def attach(self, at_work: AtWork) -> None:
        """Whom to tell of what becomes of jobs. Called once, before anything else."""

    def begin(self, offer: Offer, answer: Callable[[Attempt | NotBegun], None]) -> None:
        """Begin an attempt, if the job may. Answers later, once that is durable; while the database is away, not at
        all."""

    def end(self, attempt: Attempt, end: End, done: Callable[[str | None], None]) -> None:
        """Record that an attempt is over. Answers later with the job's state; None: it was over already."""


class BrowsedMessage(NamedTuple):
    """A waiting message as a browser sees it. `headers` are as the engine keeps them."""

    id: int
    headers: bytes
    body: bytes
    deliveries: int


class QueuePort(Protocol):
    """What a client does to a queue beside its messages. Errors are subclasses of MsgwebError."""

    async def declare(self, namespace: str, queue: str, settings: Mapping[str, Any]) -> None:
        """A queue that has these settings, by the names of `apps.broker.queue_settings`; made if it is missing.

        Raises:
            SettingsDiffer: it has others.
            BadSetting: they cannot be.
            Unavailable: the database is away.
        """

    def browse(self, namespace: str, queue: str) -> AsyncIterator[Sequence[BrowsedMessage]]:
        """The messages that are ready now, in the order of delivery, page by page; none is taken.

        Raises:
            Unavailable: the database is away.
        """
