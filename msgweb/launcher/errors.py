"""Why an installation cannot start."""

from msgweb.errors import MsgwebError


class CannotStart(MsgwebError):
    """The message is one sentence for the person at the terminal: what is wrong and what helps."""

    code = "cannot_start"
    status = 503
