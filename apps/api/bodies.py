"""Request bodies: read once, with a limit, and JSON without surprises."""

import json
from typing import Any, NoReturn

from rest_framework.request import Request

from msgweb.body_limit import BODY_LIMIT
from msgweb.errors import BadRequest, LimitExceeded

LIMIT = BODY_LIMIT  # `msgweb.body_limit` refuses more before we see it, where the server is the ASGI one


def read(request: Request) -> bytes:
    """The body.

    Raises:
        LimitExceeded: it is larger than LIMIT.
        BadRequest: it came incomplete.
    """
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) <= LIMIT:
        try:
            # Not `request.body`: its own limit of 2.5 MB is for forms.
            body: bytes = request._request.read(LIMIT + 1)
        except OSError as error:
            raise BadRequest("the body ended too early") from error
        if len(body) <= LIMIT:
            return body
    raise LimitExceeded(f"a request's body has at most {LIMIT} bytes")


def read_json(request: Request) -> dict[str, Any]:
    """The body, a JSON object.

    Raises:
        BadRequest: it is none.
        LimitExceeded: it is too large.
    """
    data = read(request)
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
