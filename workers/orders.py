"""Tell workers what to do: pause, resume, resize, stop. The rest of the installation needs to know no more of them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from apps.broker import catalogue
from msgweb.errors import BadRequest, NotFound
from workers.models import Order

CHANNEL = "msgweb_worker"  # the payload is the worker's session
KEPT = timedelta(days=1)  # an order is forgotten so long after it was given
SLOTS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is alive.

    Attributes:
        session: its id, by which it is told what to do.
        details: slots, threads, queues, paused, draining.
    """

    session: int
    host: str
    pid: int
    details: dict[str, Any]


def workers() -> list[Worker]:
    """Those that are alive."""
    return [
        Worker(one.id, one.host, one.pid, one.details)
        for one in catalogue.sessions()
        if one.kind == "worker" and one.alive
    ]


def give(session: int, by: str, *, slots: int | None = None, paused: bool | None = None, stop: bool = False) -> None:
    """Give a worker an order. It acts on it at once, and still does so if it is out of reach for the moment.

    Raises:
        NotFound: no such worker is alive.
        BadRequest: a number of slots that cannot be.
    """
    if slots is not None and not 0 <= slots <= SLOTS_LIMIT:
        raise BadRequest(f"a worker has 0 to {SLOTS_LIMIT} slots, not {slots}")
    if not any(worker.session == session for worker in workers()):
        raise NotFound(f"there is no worker {session}")
    now = timezone.now()
    told: dict[str, Any] = {"by": by[:200], "at": now}
    told |= {} if slots is None else {"slots": slots}
    told |= {} if paused is None else {"paused": paused}
    told |= {"stop": True} if stop else {}
    with transaction.atomic():
        Order.objects.filter(at__lt=now - KEPT).delete()
        Order.objects.update_or_create(session=session, defaults=told)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(session)])
