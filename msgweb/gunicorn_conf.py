"""gunicorn's configuration: its own ASGI worker, because the event stream needs no thread for each reader.

Environment: MSGWEB_HTTP (host:port), MSGWEB_WEB_PROCESSES (default 1), MSGWEB_FORWARDED_ALLOW_IPS (which reverse
proxies may say `X-Forwarded-Proto`, default loopback).
"""

import os
from typing import TYPE_CHECKING

from msgweb.home import REPOSITORY, http_listen
from msgweb.pidfile import write_pid

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

wsgi_app = "msgweb.asgi:application"
worker_class = "msgweb.web_worker.WebWorker"
workers = int(os.environ.get("MSGWEB_WEB_PROCESSES") or 1)
chdir = str(REPOSITORY)
raw_env = [f"MSGWEB_DB_POOL={os.environ.get('MSGWEB_DB_POOL') or 20}"]  # see msgweb.database.django_settings
bind = [str(http_listen())]
backlog = 2048
proc_name = "msgweb-web"

asgi_lifespan = "off"  # Django's handler has none
asgi_disconnect_grace_period = 0  # a reader who has gone away needs no more of the stream
keepalive = 5
graceful_timeout = 3  # seconds for requests in flight; open streams are told to end at once
timeout = 60  # without a heartbeat of the event loop
max_requests = 0  # recycling a worker would cut every open stream

forwarded_allow_ips = os.environ.get("MSGWEB_FORWARDED_ALLOW_IPS") or "127.0.0.1,::1"
accesslog = None
errorlog = "-"
loglevel = "warning"
control_socket_disable = True  # its socket would be shared by all gunicorns of the account


def when_ready(server: "Arbiter") -> None:
    """The port is open. Not gunicorn's own `pidfile`: that one refuses to start beside a stale pid of a stranger."""
    write_pid("web", server.pid)
