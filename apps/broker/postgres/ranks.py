"""Which consumers of a queue go first, where several processes have some: what each says to the others.

The priorities of a process's consumers are in the database (`msgweb.consumer`), and change rarely. Whether those of a
high priority have credit left changes with every message; that is said by notifications, and only where a consumer of a
lower priority elsewhere waits for it: a process *bids* the highest priority for which it has credit. It bids lower when
something waits that it cannot take, and higher when it could take more than there was. Between these two it says
nothing: a consumer that is never idle costs one notification, one that works off now and then a message costs two a
message at the most.

Nobody takes a message for a consumer below the highest bid of the others. Who was never heard is believed to have
credit. Who has, by what was heard, and leaves a message lying all the same, is asked, and not waited for until it
answers.
"""

from collections.abc import Iterable

NO_RANK = -(2**31)  # below every priority: of nobody, or of nobody who could take anything
ANY_RANK = 2**31 - 1  # above every priority


class Ranks:
    """What one process knows of the priorities at a queue.

    Attributes:
        told: the highest and the lowest of its own priorities, as the others know them.
        stale: the others' are to be read again.
        said: its last bid; None: the others are to hear it at any rate.
        bar: the highest of the others' bids.
    """

    __slots__ = ("_bids", "_highest", "_lowest", "_seen", "_unheard", "bar", "said", "stale", "told")

    def __init__(self) -> None:
        self._bids: dict[int, int] = {}
        self._seen = 0
        self.reset()

    def reset(self) -> None:
        """Nothing is known of the others, nor to them."""
        self.told: tuple[int, int] | None = None
        self.stale = False
        self.said: int | None = None
        self.bar = NO_RANK
        self._highest: dict[int, int] = {}
        self._lowest = ANY_RANK
        self._bids.clear()
        self._unheard: set[int] = set()

    @property
    def heeded(self) -> bool:
        """Whether somebody elsewhere waits for what this process has credit for."""
        return self.told is not None and self._lowest < self.told[0]

    @property
    def mixed(self) -> bool:
        """Whether others have consumers of other priorities."""
        return self.told is not None and (self._lowest < self.told[0] or self.outranked(self.told[1]))

    def outranked(self, highest: int) -> bool:
        """Whether another process has a consumer of a higher priority."""
        return any(other > highest for other in self._highest.values())

    def learn(self, others: Iterable[tuple[int, int, int]]) -> None:
        """Who else consumes the queue: sessions, their highest and their lowest priority."""
        self.stale = False
        self.said = None
        rows = list(others)
        self._highest = {session: highest for session, highest, _ in rows}
        self._lowest = min((lowest for _, _, lowest in rows), default=ANY_RANK)
        self._bids = {session: bid for session, bid in self._bids.items() if session in self._highest}
        self._unheard &= self._highest.keys()
        self._raise_bar()

    def hear(self, session: int, bid: int) -> None:
        """Another process has credit for that priority."""
        self._bids[session] = bid
        self._unheard.discard(session)
        if session not in self._highest:
            self.stale = True
        self._raise_bar()

    def left_lying(self, place: int, lowest: int) -> bool:
        """Somebody has credit, it is said, and there is a message at that place. Whether to ask: it lay there a second
        ago. Who should have taken it is not waited for until it is heard."""
        lay, self._seen = self._seen == place, place
        if not lay:
            return False
        self._seen = 0
        self._unheard = {session for session in self._highest if self._bid_of(session) > lowest}
        self._raise_bar()
        return True

    def _bid_of(self, session: int) -> int:
        return self._bids.get(session, self._highest.get(session, NO_RANK))

    def _raise_bar(self) -> None:
        sessions = (self._highest.keys() | self._bids.keys()) - self._unheard
        self.bar = max(map(self._bid_of, sessions), default=NO_RANK)
