"""Bodies and their content types: what Python values become on the wire, and back."""

import json
from email.message import EmailMessage
from typing import Any

from apps.messaging.errors import BadBody

JSON = "application/json"
TEXT = "text/plain;charset=utf-8"
BYTES = "application/octet-stream"


def encode(body: Any) -> tuple[bytes, str]:
    """The bytes of a body and their content type: `str` is text, bytes-like is bytes, all else is JSON.

    Raises:
        BadBody: the value cannot be written as JSON.
    """
    if isinstance(body, str):
        return body.encode(), TEXT
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), BYTES
    try:
        # NaN and Infinity are no JSON: every other language's parser would stumble over them.
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), JSON
    except (TypeError, ValueError) as error:
        raise BadBody(f"the body cannot be written as JSON: {error}") from error


def decode(data: bytes, content_type: str | None) -> Any:
    """The value of a received body, by its content type.

    JSON (`application/json`, `*+json`) is parsed, `text/*` is decoded by its `charset` (UTF-8 without one); all else,
    and a body without a content type, stays bytes (STOMP 1.2, "Header content-type").

    Raises:
        BadBody: the bytes are not what the content type says.
    """
    if not content_type:
        return data
    header = EmailMessage()
    try:
        header["Content-Type"] = content_type
        kind = header.get_content_type()
        if kind == JSON or kind.endswith("+json"):
            return json.loads(data)
        # get_content_type() answers text/plain for a type that it cannot read, so the text itself is asked too.
        if kind.startswith("text/") and content_type.lstrip().lower().startswith("text/"):
            return data.decode(header.get_content_charset("utf-8"))
    except (ValueError, LookupError) as error:  # LookupError: an unknown charset
        raise BadBody(f"the body is not {content_type}: {error}") from error
    return data
