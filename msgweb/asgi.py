"""The ASGI application: the event stream beside Django.

Django's own ASGI handler holds a thread for each open stream, so `/events` goes to a plain ASGI callable instead
(300 streams cost 301 threads in Django, one in ours).
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from apps.console.events import event_stream  # noqa: E402 -- after Django's set-up


async def application(scope, receive, send):  # type: ignore[no-untyped-def]
    """Route `/events` to the event stream, all else to Django."""
    if scope["type"] == "http" and scope["path"].startswith("/events"):
        await event_stream(scope, receive, send)
    else:
        await django_application(scope, receive, send)
