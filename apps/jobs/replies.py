"""What an asker who gave a `reply-to` is told: headers and bodies of the reply, of progress, of the acceptance."""

import json
from collections.abc import Mapping
from typing import Any

from apps.broker.engine import parse_address
from msgweb.errors import BadDestination

JSON_TYPE = "application/json"
REPLY_QUEUE = "/reply-queue/"


def check_reply_to(reply_to: str) -> None:
    """Whether a reply can go there: `/queue/x`, `/topic/x`, `/reply-queue/x` or a bare `x` (a queue).

    Raises:
        BadDestination: it cannot.
    """
    if "\0" in reply_to:
        raise BadDestination("a destination's name may not hold control characters")
    name = reply_to.removeprefix(REPLY_QUEUE)
    parse_address("", f"/queue/{name}" if name != reply_to and name else reply_to)


def reply_headers(job_id: object, correlation_id: str | None, job_event: str) -> dict[str, str]:
    """The headers of a message to the asker. Without a correlation id of the asker's, the job's id is it."""
    return {
        "correlation-id": correlation_id or str(job_id),
        "job-id": str(job_id),
        "job-event": job_event,
        "content-type": JSON_TYPE,
    }


def outcome(state: str, result: str | None, error: Mapping[str, Any] | None) -> tuple[str, str]:
    """The `job-event` and the body (JSON) of the one reply to a job that ended in that state."""
    if state == "succeeded":
        return "result", result if result is not None else "null"
    told = error or {"code": state, "message": f"the job {state}"}
    return "error", json.dumps({"code": told["code"], "message": told["message"]}, ensure_ascii=False)
