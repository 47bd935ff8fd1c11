"""What a consumer with a selector has seen of its queue, and what it wants of it."""

from collections.abc import Iterable

from apps.broker.engine import MessageId, Subscription
from apps.broker.headers import decode_headers
from apps.broker.postgres.floors import Floors

MISSED = 100  # of these a scan remembers so many


class Scan:
    """Where a subscription with a selector has come to in its queue.

    Attributes:
        far: the last look found as much as one may, all of it sent some time ago: the end of the queue is far.
        floors: where it has come to in each lane.
        waiting: there may be more behind that.
        chosen: ids of messages that match, to be claimed.
        claiming: the batch under way, or the last one, claims some.
        missed: those that could not be claimed: whoever was at work on them has them now, or gives up.
    """

    __slots__ = ("chosen", "claiming", "far", "floors", "missed", "subscription", "waiting")

    def __init__(self, subscription: Subscription, lanes: tuple[int, ...]) -> None:
        self.subscription = subscription
        self.floors = Floors(lanes)
        self.waiting = True
        self.far = False
        self.chosen: list[MessageId] = []
        self.claiming = False
        self.missed: list[MessageId] = []

    def room(self) -> int:
        """How many more messages the subscription could take."""
        return self.subscription.credit - len(self.subscription.held) - len(self.chosen)

    @property
    def looks(self) -> bool:
        """Whether there is something to look at, and room for it."""
        return self.waiting and self.room() > 0

    @property
    def eager(self) -> bool:
        """Whether there is something to claim or to look at."""
        return bool(self.chosen) or self.looks

    def wants(self, fields: dict[str, str]) -> bool:
        """Whether the selector matches a message of these headers (`fields_of`)."""
        selector = self.subscription.selector
        return selector is None or selector.matches(fields)

    def choose(self, message_id: MessageId) -> None:
        """Claim it next."""
        if message_id not in self.chosen:
            self.chosen.append(message_id)

    def lower(self, floor: int) -> None:
        """Something may be ready behind that place."""
        self.far = False
        self.floors.lower(floor)
        self.waiting = True

    def claim(self) -> list[MessageId]:
        """What is claimed by the batch that is being made."""
        chosen, self.chosen = self.chosen, []
        self.claiming = bool(chosen)
        return chosen

    def give_up(self, chosen: list[MessageId]) -> None:
        """The batch that was to claim these has failed."""
        self.chosen = chosen + self.chosen
        self.waiting = True

    def miss(self, message_ids: Iterable[MessageId]) -> None:
        """Others were at work on these when they were to be claimed."""
        self.missed = [*self.missed, *message_ids][-MISSED:]

    def try_again(self) -> bool:
        """Choose what was missed once more. Whether there was any."""
        missed, self.missed = self.missed, []
        for message_id in missed[: max(self.room(), 0)]:
            self.choose(message_id)
        return bool(missed)


def fields_of(headers: bytes, priority: int, persistent: bool) -> dict[str, str]:
    """What a selector looks at: the stored headers, and what the server knows besides."""
    fields = decode_headers(headers)
    fields.setdefault("priority", str(priority))
    fields.setdefault("persistent", "true" if persistent else "false")
    return fields
