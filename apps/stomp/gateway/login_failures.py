"""Failed log-ins, counted by address: who fails often has to wait before it may try again."""

import asyncio
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from apps.accounts.errors import TooManyFailures

logger = logging.getLogger(__name__)

ADDRESSES = 10_000  # remembered at most: some 2 MB; who failed longest ago is forgotten first
FREE = 3  # failures that cost nothing: somebody mistyped
FIRST_SECONDS = 0.25  # between attempts after that; doubled by each further failure
MOST_SECONDS = 4.0
WAIT_SECONDS = 5.0  # who would have to wait longer is refused unseen
REFUSED_SECONDS = 2.0  # not at once: who is refused quickly comes again quickly
HALVED_SECONDS = 30.0  # after so long half of the failures are forgotten


class _Entry:
    __slots__ = ("at", "count", "free_at", "score")

    def __init__(self, now: float) -> None:
        self.at = self.free_at = now
        self.score = 0.0
        self.count = 0


class LoginFailures:
    """The failures of one gateway process.

    Args:
        clock: seconds.
        sleep: waits for so many seconds.

    Attributes:
        failed, slowed, refused: log-ins since the start that failed, that had to wait, that were refused unseen.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self.failed = self.slowed = self.refused = 0
        self._clock = clock
        self._sleep = sleep
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def wait(self, address: str) -> None:
        """Before the credentials of somebody there are looked at. Those who fail take turns, whatever they try.

        Raises:
            TooManyFailures: the turn would be too far away.
        """
        entry = self._entries.get(network_of(address))
        if entry is None:
            return
        now = self._clock()
        pause = self._pause(entry, now)
        if not pause:
            return
        turn = max(now, entry.free_at)
        if turn - now > WAIT_SECONDS:
            self.refused += 1
            await self._sleep(REFUSED_SECONDS)
            raise TooManyFailures("too many log-ins from this address have failed; try again later")
        entry.free_at = turn + pause
        if turn > now:
            self.slowed += 1
            await self._sleep(turn - now)

    def note(self, address: str, login: str | None) -> None:
        """Somebody there has failed. Logged less and less often."""
        self.failed += 1
        network = network_of(address)
        now = self._clock()
        entry = self._entries.get(network)
        if entry is None:
            if len(self._entries) >= ADDRESSES:
                self._entries.popitem(last=False)
            entry = self._entries[network] = _Entry(now)
        else:
            self._entries.move_to_end(network)
        entry.score = self._score(entry, now) + 1
        entry.at = now
        entry.count += 1
        entry.free_at = max(entry.free_at, now + self._pause(entry, now))
        if entry.count & (entry.count - 1) == 0:  # 1, 2, 4, 8, ...
            logger.warning(
                "log-in refused address=%s login=%.64r failures=%d", network or "local", login or "-", entry.count
            )

    @staticmethod
    def _score(entry: _Entry, now: float) -> float:
        return float(entry.score * 0.5 ** ((now - entry.at) / HALVED_SECONDS))

    def _pause(self, entry: _Entry, now: float) -> float:
        over = self._score(entry, now) - FREE
        return 0.0 if over < 0 else min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(over, 20.0))


def network_of(address: str) -> str:
    """Whom failures are counted for: an IPv4 address, or the /64 that one IPv6 host has for itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
