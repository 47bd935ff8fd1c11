"""Every error as problem details (RFC 9457): `application/problem+json` with a stable `code`."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from msgweb.errors import MsgwebError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: `title`: the same for every occurrence of a status, as the RFC asks; `detail` says what happened this time.
TITLES = {
    400: "The request cannot be understood",
    401: "Credentials are needed",
    403: "That is not allowed",
    404: "There is no such thing",
    405: "Not with this method",
    406: "The answer is not available in that form",
    409: "That is not possible in the present state",
    413: "The request is too large",
    415: "The content type is not understood",
    500: "The server made a mistake",
    503: "The service is not available at the moment",
}

#: Codes of the errors that REST framework raises itself.
CODES = {400: "bad_request", 401: "not_authenticated", 403: "access_refused", 404: "not_found", 405: "bad_method"}


def problem(status: int, code: str, detail: str, **more: Any) -> Response:
    """A problem details response."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "code": code}
    return Response({**body, "detail": detail, **more}, status=status, content_type=MEDIA_TYPE)


def handle(error: Exception, context: dict[str, Any]) -> Response:
    """REST framework's exception handler."""
    set_rollback()
    match error:
        case MsgwebError():
            response = problem(error.status, error.code, error.message)
        case exceptions.ValidationError():
            response = problem(400, "bad_request", _first(error.detail), errors=error.detail)
        case exceptions.APIException():
            code = CODES.get(error.status_code, str(error.default_code))
            response = problem(error.status_code, code, str(error.detail))
        case Http404():
            response = problem(404, "not_found", str(error) or "there is nothing at this address")
        case PermissionDenied():
            response = problem(403, "access_refused", str(error) or "that is not allowed")
        case OperationalError() | InterfaceError():
            log.warning("the database is away: %s", str(error).partition("\n")[0])
            response = problem(503, "unavailable", "the database is away; try again")
        case _:
            kind = "database" if isinstance(error, DatabaseError) else "server"
            log.error("unexpected %s error in %s", kind, context.get("view"), exc_info=error)
            response = problem(500, "internal_error", "the error was written to the server's log")
    if response.status_code == 401:
        response["WWW-Authenticate"] = getattr(error, "auth_header", None) or 'Bearer realm="msgweb"'
    if response.status_code == 503:
        response["Retry-After"] = "1"
    return response


def _first(detail: Any, path: str = "") -> str:
    """The first message of a ValidationError's tree, with the name of its field."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        return _first(inner, f"{path}.{name}" if path else str(name))
    if isinstance(detail, list):
        return _first(detail[0], path)
    return f"{path}: {detail}" if path and path != "non_field_errors" else str(detail)
