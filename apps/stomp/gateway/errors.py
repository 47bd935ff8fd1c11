"""What the gateway adds to the tree of `msgweb.errors`."""

from msgweb.errors import BadRequest, Conflict, LimitExceeded, MsgwebError


class NotSupported(BadRequest):
    """A feature of another broker that this one lacks: refused, since ignoring it would break a promise."""

    code = "not_supported"
    status = 501


class BadHeader(BadRequest):
    """A header whose value cannot be."""

    code = "bad_header"


class TooMany(LimitExceeded):
    """One more of what a connection may have so many of."""


class LoginTimeout(MsgwebError):
    """No CONNECT in time."""

    code = "login_timeout"
    status = 408


class BeatMissed(MsgwebError):
    """The client promised heart-beats and fell silent."""

    code = "heart_beat_missed"
    status = 408


class ShuttingDown(MsgwebError):
    """This process is being stopped; connect again."""

    code = "shutting_down"
    status = 503


class SettingsDiffer(Conflict):
    """A queue has other settings than a client declares."""

    code = "settings_differ"


class EndedByOperator(MsgwebError):
    """Somebody at the console ended the connection."""

    code = "ended_by_operator"
    status = 410
