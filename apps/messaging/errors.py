"""Every error that the Messaging API raises on purpose, as one tree.

MessagingError
├── BadCredentials     the file or the environment does not say where to connect to
├── BadMessage         a message that cannot be sent, such as a priority of 12
│   └── BadBody        a body that is no JSON, or bytes that are not what their content type says
├── ConnectionFailed   nobody answered before the deadline; nothing was sent
├── Refused            the server's ERROR frame; `code` is the server's
├── OutcomeUnknown     sent, but no receipt came: the server may have taken it or not
├── ReplyTimeout       no reply before the deadline; the work may go on
├── RequestFailed      the reply is an error; `code` is the worker's
└── JobCancelled       the job that a handler works on is to stop, or is somebody else's

Each has a stable, machine-readable `code`. The server's own codes (`access_refused`, `bad_destination`, ...) arrive
unchanged in `Refused.code` and `RequestFailed.code`.
"""


class MessagingError(Exception):
    """Base of the tree.

    Attributes:
        code: stable, machine-readable, snake_case.
    """

    code = "messaging_error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code


class BadCredentials(MessagingError):
    """Neither the environment nor the credentials file says where to connect to, and as whom."""

    code = "bad_credentials"


class BadMessage(MessagingError):
    """A message that cannot be sent: a bad destination, header or priority. Nothing was sent."""

    code = "bad_message"


class BadBody(BadMessage):
    """A body that cannot be written as JSON, or received bytes that are not what their content type says."""

    code = "bad_body"


class ConnectionFailed(MessagingError):
    """Nobody answered before the deadline. Nothing was sent; trying again is safe."""

    code = "connection_failed"


class Refused(MessagingError):
    """The server answered with an ERROR frame. Nothing took effect; `code` is the server's."""

    code = "refused"


class OutcomeUnknown(MessagingError):
    """The message left, but the connection was lost, or the deadline passed, before its receipt came.

    The server may have taken it or not. Sending it again makes at worst a duplicate; not sending it again loses it at
    worst. Which of the two is right only the caller can know.
    """

    code = "outcome_unknown"


class ReplyTimeout(MessagingError):
    """The reply did not come before the deadline. The work itself goes on.

    Attributes:
        job_id: the request's correlation id, which is the job's id if a task was asked for.
        status_url: the page on which a person can follow the job, if the server has told it.
    """

    code = "reply_timeout"

    def __init__(self, message: str, job_id: str, status_url: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.status_url = status_url


class RequestFailed(MessagingError):
    """The reply is an error: the job failed, was cancelled, or the worker refused it.

    Attributes:
        job_id: the request's correlation id, which is the job's id if a task was asked for.
    """

    code = "request_failed"

    def __init__(self, message: str, code: str | None, job_id: str) -> None:
        super().__init__(message, code)
        self.job_id = job_id


class JobCancelled(MessagingError):
    """The job that this handler works on is to stop, or is somebody else's: clear up and let this pass.

    `code` says why: `cancelled`, `timeout`, `lost` (another worker has it) or `ended`.
    """

    code = "cancelled"
