"""Is it alive, is it ready: for load balancers, container health checks and scripts. No log-in, no secrets.

`/healthz` asks this process alone. `/readyz` asks whether the whole installation works: the database, and at least one
gateway and one worker that serve and hold their lease.
"""

import logging
from collections.abc import Callable

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.broker import catalogue

log = logging.getLogger(__name__)


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return True


#: What must work, in the order in which it is asked; the names are part of the answer.
PARTS: dict[str, Callable[[], bool]] = {
    "database": _database,
    "gateway": lambda: catalogue.sessions_serving("gateway") > 0,
    "worker": lambda: catalogue.sessions_serving("worker") > 0,
}


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as this process answers."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when web, database, gateway and worker all work; else 503 with the parts that are missing."""
    parts = {"web": True}
    for name, works in PARTS.items():
        try:
            parts[name] = works()
        except DatabaseError as error:
            log.warning("readyz: %s: %s", name, str(error).partition("\n")[0])
            parts[name] = False
            if name == "database":  # the others cannot be asked
                parts.update(dict.fromkeys(PARTS, False))
                break
    missing = [name for name, works in parts.items() if not works]
    return JsonResponse(
        {"status": "unavailable" if missing else "ready", "parts": parts, "missing": missing},
        status=503 if missing else 200,
    )
