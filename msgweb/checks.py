"""System checks of what the environment says, so that a wrong setting is named before anything starts."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from msgweb.home import stomp_listen


@register(Tags.security)
def check_environment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """msgweb.E001 to E004 and W001."""
    found: list[CheckMessage] = []
    try:
        stomp_listen()  # MSGWEB_HTTP was read with the settings
    except ValueError as error:
        found.append(Error(str(error), id="msgweb.E001"))
    url = urlsplit(settings.MSGWEB_PUBLIC_URL)
    if url.scheme not in ("http", "https") or not url.hostname:
        found.append(
            Error(
                f"MSGWEB_PUBLIC_URL must be an address such as https://msgweb.example.com, "
                f"not {settings.MSGWEB_PUBLIC_URL!r}",
                hint="Links to status pages begin with it.",
                id="msgweb.E002",
            )
        )
    if not 1 <= settings.MSGWEB_LEASE_SECONDS <= 3600:
        found.append(
            Error(
                f"MSGWEB_LEASE_SECONDS must lie between 1 and 3600, not {settings.MSGWEB_LEASE_SECONDS:g}",
                hint="After so many seconds of silence a gateway or worker counts as dead.",
                id="msgweb.E003",
            )
        )
    if not 1 <= settings.MSGWEB_HORIZON_SECONDS < float("inf"):
        found.append(
            Error(
                f"MSGWEB_HORIZON_SECONDS must be a number of seconds from 1, not {settings.MSGWEB_HORIZON_SECONDS:g}",
                hint="Who holds up VACUUM for so long is told of.",
                id="msgweb.E004",
            )
        )
    if settings.DEBUG and "*" in settings.ALLOWED_HOSTS:
        found.append(Warning("MSGWEB_DEBUG=1 shows settings and sources to whoever causes an error", id="msgweb.W001"))
    return found
