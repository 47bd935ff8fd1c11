"""Every error that Msgweb raises on purpose, as one tree.

MsgwebError
├── BadRequest             the asker must change what it sends
│   ├── BadDestination
│   ├── BadMessage
│   └── BadArguments       a task's arguments do not fit it
├── AccessRefused          the credentials may not do that
├── NotFound               a destination, job, task or key that does not exist
├── Conflict               the thing exists already, or is past the state where that was possible
├── LimitExceeded          a limit that protects the server; the text names it
├── SessionLost            this process was taken for dead and fenced off; what it held is with others
└── Unavailable            the database is away; try again
    └── PooledDatabase     a pooler lends the server's sessions out for a transaction each; no trying again helps

Each class has a stable `code`, the same in STOMP ERROR frames, REST problem details and the log, and an HTTP status.
Apps add subclasses beside what they describe.
"""


class MsgwebError(Exception):
    """Base of the tree.

    Attributes:
        code: stable, machine-readable, snake_case.
        status: the HTTP status that the REST API answers with.
    """

    code = "internal_error"
    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(MsgwebError):
    """The asker must change what it sends."""

    code = "bad_request"
    status = 400


class BadDestination(BadRequest):
    """A destination that cannot exist, such as an empty name."""

    code = "bad_destination"


class BadMessage(BadRequest):
    """A message that cannot be stored, such as a priority of 12."""

    code = "bad_message"


class BadArguments(BadRequest):
    """A task's arguments do not fit it."""

    code = "bad_arguments"


class AccessRefused(MsgwebError):
    """The credentials are unknown, or may not do that."""

    code = "access_refused"
    status = 403


class NotFound(MsgwebError):
    """A destination, job, task or key that does not exist."""

    code = "not_found"
    status = 404


class Conflict(MsgwebError):
    """The thing exists already, or is past the state where that was possible."""

    code = "conflict"
    status = 409


class LimitExceeded(MsgwebError):
    """A limit that protects the server; the message names it."""

    code = "limit_exceeded"
    status = 413


class SessionLost(MsgwebError):
    """This process was taken for dead and fenced off; what it held is with others."""

    code = "session_lost"
    status = 503


class Unavailable(MsgwebError):
    """The database is away; try again."""

    code = "unavailable"
    status = 503


class PooledDatabase(Unavailable):
    """A pooler before Postgres lends the server's sessions out, for a transaction or a statement each. Whoever starts
    gateways or workers has to change that: a process that starts ends with `os.EX_CONFIG` (78)."""

    code = "pooled_database"
