"""Log-in by access key, by a person's name and password, by certificate; with a memory: a PHP page connects on each
request."""

import asyncio
import hashlib
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from apps.accounts.errors import LoginRefused, TooManyFailures
from apps.accounts.models import Namespace
from apps.accounts.standings import (
    Identity,
    Standing,
    log_in_by_certificate,
    log_in_by_key,
    log_in_by_name,
    log_in_by_password,
    standings,
)
from apps.stomp.gateway.database_threads import DatabaseThreads
from apps.stomp.gateway.login_failures import LoginFailures, network_of
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import AccessRefused

MEMORY_SECONDS = 5.0  # so long a log-in is believed without asking the database
# So long after the last log-in a secret is known to be right as long as the database says that it did not change: its
# hash is not paid again, and its owner does not wait for those who guess.
PROVEN_SECONDS = 600.0
MEMORY_ENTRIES = 10_000
THREADS = 4
# A password's hash takes a good part of a second, in threads of its own, so that keys do not queue behind it. Of each
# kind one at a time for an address, so that somebody who guesses does not hold up another's log-in.
HASH_THREADS = 2
HASHES_WAITING = 20  # for one address
KEYS_WAITING = 200
REST = 4.0  # times as long as a log-in took that failed, no other of its address is looked at,
REST_LIMIT = 0.05  # seconds at most


class Accounts(NamedTuple):
    """The questions to the database; each blocks."""

    by_key: Callable[[str, str], Standing | None] = log_in_by_key
    by_password: Callable[[str, str], Standing] = log_in_by_password
    by_certificate: Callable[[list[str]], Standing] = log_in_by_certificate
    by_name: Callable[[str], Standing] = log_in_by_name
    standings: Callable[[Iterable[Identity]], dict[Identity, Standing]] = standings
    namespace_exists: Callable[[str], bool] = lambda name: Namespace.objects.filter(name=name).exists()


class Shown(NamedTuple):
    """What a client has shown; the kind keeps a certificate's name apart from a login that reads like it."""

    kind: str
    login: str
    secret: str = ""


T = TypeVar("T")
Prove = Callable[[Credentials], Awaitable[Standing]]


class _Lane:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class AccountAuthenticator:
    """An `Authenticator` over `apps.accounts`. Belongs to one event loop; the database is asked in threads.

    Many connections that log in alike at the same time ask once. Refusals are not remembered; who fails often is slowed
    (`LoginFailures`), but not those whose credentials were right a short while ago.

    Args:
        accounts: asks the database.
        clock: seconds; the loop's own, if none is given.

    Attributes:
        failures: the count of failed log-ins.
    """

    def __init__(self, accounts: Accounts | None = None, clock: Callable[[], float] | None = None) -> None:
        self._accounts = accounts or Accounts()
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._threads = DatabaseThreads(THREADS, "log-in")
        self._hash_threads = DatabaseThreads(HASH_THREADS, "password")
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._proven: dict[bytes, tuple[float, Identity]] = {}
        self._asking: dict[tuple[bytes, str], asyncio.Task[Principal]] = {}
        self._lanes: dict[tuple[str, DatabaseThreads], _Lane] = {}
        self._changes = 0
        self.failures = LoginFailures(self._clock)

    def remembered(self, credentials: Credentials) -> Principal | None:
        """See `ports.Authenticator`."""
        if not credentials.login or credentials.passcode is None:
            return None
        known = self._known.get(self._key(Shown("passcode", credentials.login, credentials.passcode), credentials))
        return known[1] if known is not None and known[0] > self._clock() else None

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See `ports.Authenticator`. A login and a passcode come before a certificate, and that before no name at all.

        No name at all is taken from this machine only, wherever the listener listens.
        """
        login, passcode = credentials.login, credentials.passcode
        if not login and not passcode:
            if credentials.certificate:
                names = names_of(credentials.certificate)
                return await self._remembered(Shown("certificate", repr(names)), credentials, self._by_certificate)
            if credentials.anonymous and is_loopback(credentials.peer):
                return await self._remembered(Shown("name", credentials.anonymous), credentials, self._by_name)
        if login is None or passcode is None:
            raise AccessRefused("a login and a passcode are needed")
        return await self._remembered(Shown("passcode", login, passcode), credentials, self._by_secret)

    async def look_again(self, principals: Iterable[Principal]) -> dict[Principal, Principal]:
        """See `ports.Authenticator`."""
        asked = list(principals)
        identities = {principal.identity for principal in asked if principal.identity is not None}
        found = await self._threads.run(lambda: self._accounts.standings(identities))
        now: dict[Principal, Principal] = {}
        for principal in asked:
            if principal.identity is None:
                now[principal] = principal
            elif (standing := found.get(principal.identity)) and standing.access.enters(principal.namespace):
                now[principal] = _principal(standing, principal.namespace)
        return now

    def forget(self) -> None:
        """See `ports.Authenticator`. Passwords stay proven: whether they are still the same is asked each time."""
        self._changes += 1
        self._known.clear()

    def close(self) -> None:
        """End the threads, and their database connections with them. Waits for what they are at, not for what waits."""
        self._threads.close()
        self._hash_threads.close()

    async def _remembered(self, shown: Shown, credentials: Credentials, prove: Prove) -> Principal:
        # Keyed digests, so that no passcode stays in memory, nor what it could be found from by trying.
        secret = self._digest(*shown)
        key = self._key(shown, credentials)
        known = self._known.get(key)
        if known is not None and known[0] > self._clock():
            return known[1]
        proven = self._proven.get(secret)
        identity = proven[1] if proven is not None and proven[0] > self._clock() else None
        if identity is None:
            await self.failures.wait(credentials.peer)
        flight = (key, network_of(credentials.peer))
        asking = self._asking.get(flight)
        if asking is None:
            asking = self._loop.create_task(self._ask(key, secret, identity, credentials, prove))
            self._asking[flight] = asking
            asking.add_done_callback(partial(self._asked, flight))
        try:
            return await asyncio.shield(asking)  # one asker that goes away does not take the others along
        except LoginRefused:
            self.failures.note(credentials.peer, shown.login)
            raise

    def _asked(self, flight: tuple[bytes, str], task: "asyncio.Task[Principal]") -> None:
        del self._asking[flight]
        if not task.cancelled():
            task.exception()  # all askers may have gone away

    async def _ask(
        self, key: bytes, secret: bytes, identity: Identity | None, credentials: Credentials, prove: Prove
    ) -> Principal:
        changes = self._changes
        if identity is None:
            standing = await prove(credentials)
            _make_room(self._proven)
        else:
            found = await self._threads.run(lambda: self._accounts.standings([identity]))
            if identity not in found:
                self._proven.pop(secret, None)
                raise LoginRefused("this log-in was revoked, or its secret was changed")
            standing = found[identity]
        self._proven[secret] = (self._clock() + PROVEN_SECONDS, standing.identity)
        principal = _principal(standing, await self._namespace(standing, credentials))
        if changes == self._changes:
            _make_room(self._known)
            self._known[key] = (self._clock() + MEMORY_SECONDS, principal)
        return principal

    async def _namespace(self, standing: Standing, credentials: Credentials) -> str:
        access, host = standing.access, credentials.host
        default = credentials.namespace or standing.namespace
        # Not each word that a client calls its host is a namespace, even where all may be entered.
        if host and host != default and "\0" not in host and await self._exists(host):
            default = host
        if default is None:
            raise AccessRefused("say by the header `host` which namespace is meant")
        if not access.enters(default):
            port = ", which is this port's" if default == credentials.namespace != host else ""
            raise AccessRefused(f"these credentials do not open the namespace {default!r}{port}")
        return default

    async def _exists(self, host: str) -> bool:
        return await self._threads.run(lambda: self._accounts.namespace_exists(host))

    async def _by_secret(self, credentials: Credentials) -> Standing:
        login, passcode = credentials.login or "", credentials.passcode or ""
        accounts, peer = self._accounts, credentials.peer
        standing = await self._in_lane(self._threads, KEYS_WAITING, peer, lambda: accounts.by_key(login, passcode))
        if standing is not None:
            return standing
        return await self._in_lane(
            self._hash_threads, HASHES_WAITING, peer, lambda: accounts.by_password(login, passcode)
        )

    async def _by_certificate(self, credentials: Credentials) -> Standing:
        accounts, names = self._accounts, names_of(credentials.certificate or {})
        return await self._in_lane(
            self._threads, KEYS_WAITING, credentials.peer, lambda: accounts.by_certificate(names)
        )

    async def _by_name(self, credentials: Credentials) -> Standing:
        accounts, name = self._accounts, credentials.anonymous or ""
        return await self._in_lane(self._threads, KEYS_WAITING, credentials.peer, lambda: accounts.by_name(name))

    async def _in_lane(self, threads: DatabaseThreads, most: int, peer: str, call: Callable[[], T]) -> T:
        place = (network_of(peer), threads)
        lane = self._lanes.setdefault(place, _Lane())
        if lane.users >= most:
            raise TooManyFailures("too many log-ins are under way from this address; try again")
        lane.users += 1
        try:
            async with lane.lock:
                begun = self._loop.time()
                try:
                    return await threads.run(call)
                except LoginRefused:
                    # Its address rests for longer than it was busy, so that guessing leaves the processor to others.
                    await asyncio.sleep(min(REST_LIMIT, REST * (self._loop.time() - begun)))
                    raise
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[place]

    def _key(self, shown: Shown, credentials: Credentials) -> bytes:
        return self._digest(*shown, credentials.host or "", credentials.namespace or "")

    def _digest(self, *parts: str) -> bytes:
        return hashlib.blake2b(repr(parts).encode(), key=self._secret, digest_size=32).digest()


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's; empty is a Unix socket's."""
    if not address:
        return True
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def names_of(certificate: Mapping[str, Any]) -> list[str]:
    """The names in a certificate: its subject alternative names, then the common name."""
    names = [str(value) for _, value in certificate.get("subjectAltName", ())]
    names += [str(value) for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return list(dict.fromkeys(names))


def _principal(standing: Standing, namespace: str) -> Principal:
    return Principal(standing.login, namespace, standing.access, standing.limits, standing.identity)


def _make_room(memory: dict[bytes, Any]) -> None:
    if len(memory) >= MEMORY_ENTRIES:
        memory.clear()
