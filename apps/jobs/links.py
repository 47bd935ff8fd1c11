"""The signed link with which somebody who waits may look at one job, and at nothing else.

It does not expire: it opens a page to read, of a job whose id nobody can guess.
"""

import base64
import binascii
import uuid

from django.conf import settings
from django.core.signing import BadSignature, Signer

from apps.jobs.errors import UnknownJob


def _signer() -> Signer:
    return Signer(salt="msgweb.jobs.status", sep=".")


def token_of_job(job_id: uuid.UUID) -> str:
    """The token of a job; the same one each time."""
    return _signer().sign(base64.urlsafe_b64encode(job_id.bytes).decode().rstrip("="))


def job_of_token(token: str) -> uuid.UUID:
    """The id of the job that the token opens.

    Raises:
        UnknownJob: the token was not made here.
    """
    try:
        value = _signer().unsign(token)
        return uuid.UUID(bytes=base64.urlsafe_b64decode(value + "=="))
    except (BadSignature, binascii.Error, ValueError) as error:
        raise UnknownJob("this link leads nowhere") from error


def status_path(job_id: uuid.UUID) -> str:
    """The path of the status page of a job."""
    # Spelt out, though a URL pattern has it too (a test compares): workers and gateways need not load every view.
    return f"/status/{token_of_job(job_id)}/"


def status_url(job_id: uuid.UUID) -> str:
    """The absolute URL of the status page of a job."""
    return settings.MSGWEB_PUBLIC_URL.rstrip("/") + status_path(job_id)
