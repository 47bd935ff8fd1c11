"""What an access key uses beside its limits, of all its connections: those of this process, and as far as is known of
other gateway processes (`apps.stomp.gateway.sharing`)."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from apps.accounts.standings import NO_LIMITS, KeyLimits
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.ports import Principal

PACE_SECONDS = 1.0  # over which the pace of sends is taken, at least
PACE_KEPT = 0.5  # of a pace, at the next report
SILENCE_SECONDS = 10.0  # who sends less often than this does not send

#: A key (or person): its kind and id, as in `Identity`.
Holder = tuple[str, int]


class Use(NamedTuple):
    """What a key uses of one process, or of several taken together.

    Attributes:
        unacked: what its subscriptions may hold unacknowledged at once, taken together.
        sends: a second, of late.
        senders: how many of the processes it sends to.
    """

    connections: int = 0
    subscriptions: int = 0
    unacked: int = 0
    sends: float = 0.0
    senders: int = 0

    @staticmethod
    def together(uses: "Iterable[Use]") -> "Use":
        """What several processes use."""
        found = NO_USE
        for one in uses:
            found = Use(
                found.connections + one.connections,
                found.subscriptions + one.subscriptions,
                found.unacked + one.unacked,
                found.sends + one.sends,
                found.senders + one.senders,
            )
        return found


NO_USE = Use()


def _nothing() -> None:
    """Nobody is to be told."""


class Usage:
    """The use of one key (or person). What none of the limits speaks of is counted all the same.

    Args:
        changed: called when it has changed and there are limits.

    Attributes:
        limits: those of now; they may change while connections are open.
        connections, subscriptions, unacked: of this process; see `Use`.
        elsewhere: what other processes have told.
    """

    __slots__ = (
        "_at",
        "_changed",
        "_metered",
        "_metered_since",
        "_pace",
        "_tokens",
        "connections",
        "elsewhere",
        "limits",
        "subscriptions",
        "unacked",
    )

    def __init__(self, limits: KeyLimits = NO_LIMITS, changed: Callable[[], None] = _nothing) -> None:
        self.limits = limits
        self.connections = self.subscriptions = self.unacked = 0
        self.elsewhere = NO_USE
        self._changed = changed
        self._tokens = float(limits.sends_per_second or 0)  # a second's worth may come at once
        self._at = 0.0
        self._metered = 0
        self._metered_since = 0.0
        self._pace = 0.0

    def enter(self) -> None:
        """One more connection.

        Raises:
            TooMany: the key may not have it.
        """
        most = self.limits.connections
        if most is not None and self.connections + self.elsewhere.connections >= most:
            raise TooMany(f"this key has at most {most} connections at once")
        self.connections += 1
        self._tell()

    def leave(self) -> None:
        """A connection is gone."""
        self.connections -= 1
        self._tell()

    def take_report(self, now: float) -> Use:
        """What is used of this process now; of sends, their pace of late.

        Args:
            now: as for `pause_after`.
        """
        seconds = now - self._metered_since
        if seconds >= PACE_SECONDS:
            # It sinks slowly, since who is slowed sends in jerks: others must not take its pauses for a retreat.
            pace = max(self._metered / seconds, self._pace * PACE_KEPT)
            self._pace = pace if pace >= 1 / SILENCE_SECONDS else 0.0
            self._metered, self._metered_since = 0, now
        return Use(self.connections, self.subscriptions, self.unacked, self._pace, int(self._pace > 0))

    def pause_after(self, sends: int, now: float) -> float:
        """Count messages that were sent. Returns for how many seconds the sender's socket is to be read no more.

        A token bucket that holds a second's worth: it may fall below zero, since what was read is taken, and the sender
        waits until it has filled again. So nothing is dropped and the rate holds on average, however large the pieces
        are in which messages arrive.

        Args:
            now: seconds of a clock that only goes forward.
        """
        most = self.limits.sends_per_second
        if most is None:
            return 0.0
        # What other processes leave, but no less than an equal share: so those that all want more come to share alike.
        rate = max(most / (1 + self.elsewhere.senders), most - self.elsewhere.sends)
        self._tokens = min(rate, self._tokens + (now - self._at) * rate) - sends
        self._at = now
        self._metered += sends
        return max(0.0, -self._tokens / rate)

    def subscribe(self, credit: int) -> int:
        """Count a subscription that acknowledges. Returns how much of the credit that it asks for it gets.

        Args:
            credit: 0: one that does not acknowledge, and holds nothing.

        Raises:
            TooMany: one more than the key may have, or nothing is left for it to hold.
        """
        limits, elsewhere = self.limits, self.elsewhere
        if limits.subscriptions is not None and self.subscriptions + elsewhere.subscriptions >= limits.subscriptions:
            raise TooMany(f"this key has at most {limits.subscriptions} subscriptions at once")
        if limits.unacked is not None and credit:
            credit = min(credit, limits.unacked - self.unacked - elsewhere.unacked)
            if credit <= 0:
                raise TooMany(
                    f"this key holds at most {limits.unacked} messages at once, and its subscriptions may hold them "
                    "already; give them a smaller prefetch-count"
                )
        self.subscriptions += 1
        self.unacked += credit
        self._tell()
        return credit

    def unsubscribe(self, credit: int) -> None:
        """A subscription with that credit is gone."""
        self.subscriptions -= 1
        self.unacked -= credit
        self._tell()

    def _tell(self) -> None:
        if self.limits != NO_LIMITS:
            self._changed()


#: Of those who have not logged in.
NOTHING = Usage()


class Usages:
    """Of all who are connected to this process.

    Attributes:
        changed: called when the use of a key that has limits has changed.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = _nothing
        self._by_holder: dict[Holder, Usage] = {}
        self._elsewhere: dict[str, Mapping[Holder, Use]] = {}  # by process

    def enter(self, principal: Principal) -> Usage:
        """Somebody has logged in.

        Raises:
            TooMany: one more connection than the key may have.
        """
        usage = self._of(principal)
        usage.enter()
        return usage

    def leave(self, principal: Principal, usage: Usage) -> None:
        """A connection is gone."""
        usage.leave()
        if not usage.connections and principal.identity is not None:
            self._by_holder.pop(principal.identity[:2], None)

    def take_report(self, now: float) -> dict[Holder, Use]:
        """What the keys that have limits use of this process; see `Usage.take_report`."""
        return {
            holder: usage.take_report(now)
            for holder, usage in self._by_holder.items()
            if usage.limits != NO_LIMITS and usage.connections
        }

    def hear(self, process: str, told: Mapping[Holder, Use]) -> None:
        """What keys use of another process now; nothing, where it has ended."""
        before = self._elsewhere.pop(process, {})
        if told:
            self._elsewhere[process] = told
        for holder in before.keys() | told.keys():
            usage = self._by_holder.get(holder)
            if usage is not None:
                usage.elsewhere = self.elsewhere(holder)

    def elsewhere(self, holder: Holder) -> Use:
        """What a key uses of other processes, as far as is known."""
        return Use.together(told[holder] for told in self._elsewhere.values() if holder in told)

    def _of(self, principal: Principal) -> Usage:
        if principal.identity is None:
            return Usage(principal.limits)
        holder = principal.identity[:2]
        usage = self._by_holder.get(holder)
        if usage is None:
            usage = self._by_holder[holder] = Usage(principal.limits, self._changed)
            usage.elsewhere = self.elsewhere(holder)
        usage.limits = principal.limits
        return usage

    def _changed(self) -> None:
        self.changed()
