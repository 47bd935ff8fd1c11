"""The WSGI application, for hosts without ASGI: everything but the live event stream."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")

application = get_wsgi_application()
