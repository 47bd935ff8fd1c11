"""The ASGI application: the event stream beside Django.

Django's own ASGI handler holds a thread for each open stream, so `/events` goes to a plain ASGI callable instead
(300 streams cost 301 threads in Django, one in ours).
"""

import asyncio
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")

from django.core.asgi import get_asgi_application

from msgweb.body_limit import limited

django_application = limited(get_asgi_application())  # type: ignore[arg-type]  # a dict there, a mapping here

from apps.console.events import event_stream  # noqa: E402 -- after Django's set-up

_requests: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


async def application(scope, receive, send):  # type: ignore[no-untyped-def]
    """Route `/events` to the event stream, all else to Django."""
    if scope["type"] == "http" and scope["path"].startswith("/events"):
        await event_stream(scope, receive, send)
        return
    # Shielded: the server cancels us when the client has gone, and Django would leave its database connection behind
    # (measured: a pool of 20 was empty after 400 requests of clients that close at once). It hears of the disconnect
    # by `receive` too, and then ends in an orderly way.
    request = asyncio.create_task(django_application(scope, receive, send))
    _requests.add(request)
    request.add_done_callback(_requests.discard)
    await asyncio.shield(request)
