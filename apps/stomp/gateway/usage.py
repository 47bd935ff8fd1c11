"""What an access key uses of this process, of all its connections, beside its limits."""

from apps.accounts.standings import NO_LIMITS, KeyLimits
from apps.stomp.gateway.errors import TooMany
from apps.stomp.gateway.ports import Principal


class Usage:
    """The use of one key (or person). What none of the limits speaks of is counted all the same.

    Attributes:
        limits: those of now; they may change while connections are open.
        connections, subscriptions: how many are open.
        unacked: what its subscriptions may hold unacknowledged at once, taken together.
    """

    __slots__ = ("_at", "_tokens", "connections", "limits", "subscriptions", "unacked")

    def __init__(self, limits: KeyLimits = NO_LIMITS) -> None:
        self.limits = limits
        self.connections = self.subscriptions = self.unacked = 0
        self._tokens = float(limits.sends_per_second or 0)  # a second's worth may come at once
        self._at = 0.0

    def pause_after(self, sends: int, now: float) -> float:
        """Count messages that were sent. Returns for how many seconds the sender's socket is to be read no more.

        A token bucket that holds a second's worth: it may fall below zero, since what was read is taken, and the sender
        waits until it has filled again. So nothing is dropped and the rate holds on average, however large the pieces
        are in which messages arrive.

        Args:
            now: seconds of a clock that only goes forward.
        """
        rate = self.limits.sends_per_second
        if rate is None:
            return 0.0
        self._tokens = min(float(rate), self._tokens + (now - self._at) * rate) - sends
        self._at = now
        return max(0.0, -self._tokens / rate)

    def subscribe(self, credit: int) -> int:
        """Count a subscription that acknowledges. Returns how much of the credit that it asks for it gets.

        Args:
            credit: 0: one that does not acknowledge, and holds nothing.

        Raises:
            TooMany: one more than the key may have, or nothing is left for it to hold.
        """
        limits = self.limits
        if limits.subscriptions is not None and self.subscriptions >= limits.subscriptions:
            raise TooMany(f"this key has at most {limits.subscriptions} subscriptions at once")
        if limits.unacked is not None and credit:
            credit = min(credit, limits.unacked - self.unacked)
            if credit <= 0:
                raise TooMany(
                    f"this key holds at most {limits.unacked} messages at once, and its subscriptions may hold them "
                    "already; give them a smaller prefetch-count"
                )
        self.subscriptions += 1
        self.unacked += credit
        return credit

    def unsubscribe(self, credit: int) -> None:
        """A subscription with that credit is gone."""
        self.subscriptions -= 1
        self.unacked -= credit


#: Of those who have not logged in.
NOTHING = Usage()


class Usages:
    """Of all who are connected to this process."""

    def __init__(self) -> None:
        self._by_holder: dict[tuple[str, int], Usage] = {}

    def enter(self, principal: Principal) -> Usage:
        """Somebody has logged in.

        Raises:
            TooMany: one more connection than the key may have.
        """
        usage = self._of(principal)
        most = principal.limits.connections
        if most is not None and usage.connections >= most:
            raise TooMany(f"this key has at most {most} connections at once")
        usage.connections += 1
        return usage

    def leave(self, principal: Principal, usage: Usage) -> None:
        """A connection is gone."""
        usage.connections -= 1
        if not usage.connections and principal.identity is not None:
            self._by_holder.pop(principal.identity[:2], None)

    def _of(self, principal: Principal) -> Usage:
        if principal.identity is None:
            return Usage(principal.limits)
        holder = principal.identity[:2]
        usage = self._by_holder.get(holder)
        if usage is None:
            usage = self._by_holder[holder] = Usage(principal.limits)
        usage.limits = principal.limits
        return usage
