"""What log-in adds to the tree of `msgweb.errors`."""

from msgweb.errors import AccessRefused, LimitExceeded


class LoginRefused(AccessRefused):
    """Credentials that are unknown, wrong, revoked or expired: a failed log-in, to be counted."""


class TooManyFailures(LimitExceeded):
    """So many log-ins from this address have failed that it has to wait."""

    code = "too_many_failures"
    status = 429
