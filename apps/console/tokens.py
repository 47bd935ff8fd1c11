"""Short-lived signed tokens that open one event stream: `/events/<kind>/<token>`.

`job` is everything of a job; `status` is its state and progress only, for the person who waits; `topic` is what is
published on a topic.

A normal view, which knows who asks, makes the token; the event stream itself needs no session and no database to
check it. A token says what may be listened to, not who listens.
"""

from typing import Literal, NamedTuple

from django.core import signing

from msgweb.errors import AccessRefused

Kind = Literal["job", "status", "topic"]

SALT = "msgweb.console.events"
#: Seconds. A page that was open longer asks for a new token by reloading itself.
LIFETIME = 12 * 3600


class Grant(NamedTuple):
    """What a token opens: a job (`value` is its id), or a topic of a namespace (`value` is its name)."""

    kind: Kind
    value: str
    namespace: str


class TokenExpired(AccessRefused):
    """The token was good once; the page must be loaded again."""

    code = "token_expired"
    status = 401


def stream_token(kind: Kind, value: str, namespace: str = "") -> str:
    """A token for one stream.

    Args:
        kind: `job`, `status` or `topic`.
        value: the job's id, or the topic's name without `/topic/`.
        namespace: the topic's namespace; not needed for a job.

    Raises:
        ValueError: a topic without its namespace.
    """
    if kind == "topic" and not namespace:
        raise ValueError("a topic's token needs the namespace")
    return signing.dumps([kind, value, namespace], salt=SALT, compress=False)


def stream_path(kind: Kind, value: str, namespace: str = "") -> str:
    """The path of the stream with a fresh token in it, ready for an EventSource."""
    return f"/events/{kind}/{stream_token(kind, value, namespace)}"


def grant_of(kind: Kind, token: str, lifetime: int = LIFETIME) -> Grant:
    """What the token opens.

    Raises:
        TokenExpired: it is older than `lifetime` seconds.
        AccessRefused: it was not made here, or for another kind of stream.
    """
    try:
        content = signing.loads(token, salt=SALT, max_age=lifetime)
    except signing.SignatureExpired as error:
        raise TokenExpired("this page has been open for too long; load it again") from error
    except signing.BadSignature as error:
        raise AccessRefused("this stream's token is not valid") from error
    grant = Grant(*content)
    if grant.kind != kind:
        raise AccessRefused("this stream's token is not valid")
    return grant
