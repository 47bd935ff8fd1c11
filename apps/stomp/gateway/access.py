"""Log-in by access key, with a short memory: a PHP page connects on each request."""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.db import Error, close_old_connections

from apps.accounts.models import AccessKey, Namespace
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import AccessRefused, Unavailable

MEMORY_SECONDS = 5.0  # a revoked key opens no new connection after this long
MEMORY_ENTRIES = 10_000
THREADS = 4

LookUp = Callable[[Credentials], Principal]


class KeyAuthenticator:
    """An `Authenticator` over `AccessKey`. Belongs to one event loop; the database is asked in threads.

    Many connections that log in alike at the same time ask once. Refusals are not remembered.

    Args:
        look_up: asks the database, in a thread.
        clock: seconds; the loop's own, if none is given.
    """

    def __init__(self, look_up: LookUp | None = None, clock: Callable[[], float] | None = None) -> None:
        self._look_up = look_up or principal_of
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="log-in")
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._asking: dict[bytes, asyncio.Future[Principal]] = {}

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See `ports.Authenticator`."""
        if credentials.login is None or credentials.passcode is None:
            raise AccessRefused("a login and a passcode are needed")
        # A digest, so that no passcode stays in memory.
        shown = (credentials.login, credentials.passcode, credentials.host or "", credentials.namespace or "")
        key = hashlib.sha256("\0".join(shown).encode()).digest()
        known = self._known.get(key)
        now = self._clock()
        if known is not None and known[0] > now:
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._loop.run_in_executor(self._threads, self._look_up_in_thread, credentials)
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        principal = await asyncio.shield(asking)  # one asker that goes away does not take the others along
        if len(self._known) >= MEMORY_ENTRIES:
            self._known.clear()
        self._known[key] = (now + MEMORY_SECONDS, principal)
        return principal

    def _look_up_in_thread(self, credentials: Credentials) -> Principal:
        close_old_connections()  # as Django does before and after a request: drops what is broken or too old
        try:
            return self._look_up(credentials)
        finally:
            close_old_connections()

    def close(self) -> None:
        """End the threads, and their database connections with them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def principal_of(credentials: Credentials) -> Principal:
    """Ask the database; see `ports.Authenticator`."""
    login, passcode, host = credentials.login or "", credentials.passcode or "", credentials.host
    if "\0" in login:
        raise AccessRefused("the login or the passcode is wrong, or the key was revoked")
    try:
        key = AccessKey.authenticate(login, passcode)
        namespace = credentials.namespace or key.default_namespace.name
        if namespace != key.default_namespace.name and namespace not in key.may_enter():
            raise AccessRefused(f"this key does not open the namespace {namespace!r}, which is this port's")
        if host and host != namespace:
            if host in key.may_enter():
                namespace = host
            elif "\0" not in host and Namespace.objects.filter(name=host).exists():
                raise AccessRefused(f"this key does not open the namespace {host!r}")
    except Error as error:
        raise Unavailable("the database is away; try again") from error
    return Principal(key.login, namespace)
