"""A queue as one process sees it: its local subscriptions, their credit, and where to look for waiting messages."""

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.broker.engine import Address, Delivery, MessageId, Subscription
from apps.broker.postgres.ahead import ReadAhead
from apps.broker.postgres.callbacks import guarded
from apps.broker.postgres.floors import Floors
from apps.broker.postgres.names import Described
from apps.broker.postgres.ranks import ANY_RANK, NO_RANK, Ranks
from apps.broker.postgres.scans import Scan, fields_of
from apps.broker.postgres.statistics import Counts

if TYPE_CHECKING:
    from apps.broker.postgres.operations import Operation

CLAIM_LIMIT = 500  # messages a claim
CLAIM_BYTES = 8 * 1024 * 1024  # what a claim may bring into memory, by the mean size seen so far
LANES = tuple(range(9, -1, -1))  # priorities in the order of delivery
NOTHING = 2**63 - 1  # no id is above it
SHARE_SECONDS = 1.0  # after which a process that is alone is no longer waited for
STICKY_GROUPS = 10_000  # groups whose consumer is remembered while nothing of theirs waits
#: ActiveMQ: a number below zero closes the group; what comes after it goes to anybody ("Message Groups").
GROUP_ENDS = b"\nJMSXGroupSeq:-"


class Queue:
    """The local side of a queue.

    Attributes:
        id: its id in the database; None until resolved.
        owned: a reply queue of this process.
        subscriptions: the local ones, those of higher priority first.
        waiting: whether rows may be ready that nobody here has claimed yet. A claim clears it, unless it
            comes back full. While it is set nothing is handed over before it is written.
        claiming: a claim is under way. Until it has answered nothing is handed over either.
        floors: where claims begin to look in each lane. Whoever makes an earlier message ready lowers them (`lower`).
        unannounced, unannounced_priority: the earliest place, and the highest priority, at which something became ready
            by this process's doing since it told the others.
        lowered: how often that happened.
        ranks: the priorities of its consumers here and elsewhere.
        paused, exclusive, special, keeps: settings; see the statement `describe`.
        grouped: it holds messages of groups, or did.
        active: this session is the consumer of the exclusive queue.
        gathered: sends that may be handed over at the end of this turn of the event loop.
        unwritten: how many sends are on their way to the database that were not handed over.
        pending: those of them that no batch has carried yet, in the order of delivery as far as they are `simple`: what
            is to be handed over once there is credit.
        looked_at: when the last claim was asked for that has answered, by `time.monotonic()`.
        joined: the other processes know that this one consumes it; until then it claims nothing.
        joining: they are being told.
        alone: it is the only one.
        shares: how often another one asked to share.
        heard: the earliest place at which another process made something ready since the last claim was asked for.
        recalled: what was at hand has gone back while a claim was under way; what that brings comes behind it.
        gathered_at: the value of `lowered` when that began.
        ahead: what was claimed beyond the credit of the subscriptions.
        settling: of the messages that waited for more batches, the share that was acked by then, of late.
        spare: the last claim found less than there was credit for.
        watched: somebody will look whether it still moves.
    """

    __slots__ = (
        "active",
        "address",
        "ahead",
        "alone",
        "asked_at",
        "claiming",
        "counts",
        "exclusive",
        "floors",
        "gathered",
        "gathered_at",
        "grouped",
        "heard",
        "id",
        "joined",
        "joining",
        "keeps",
        "looked_at",
        "lowered",
        "mean_size",
        "owned",
        "paused",
        "pending",
        "ranks",
        "recalled",
        "rotation",
        "scans",
        "settling",
        "shares",
        "spare",
        "special",
        "sticky",
        "subscriptions",
        "unannounced",
        "unannounced_priority",
        "unwritten",
        "waiting",
        "watched",
    )

    def __init__(self, address: Address, owned: bool = False) -> None:
        self.address = address
        self.id: int | None = None
        self.owned = owned
        self.subscriptions: list[Subscription] = []
        self.rotation = 0
        self.scans: list[Scan] = []
        self.waiting = True
        self.claiming = False
        self.mean_size = 1024.0 * 1024  # before anything is known, a claim is small
        self.floors = Floors(LANES)
        self.lowered = 0
        self.unannounced = NOTHING
        self.unannounced_priority = LANES[-1]
        self.paused = False
        self.ranks = Ranks()
        self.exclusive = False
        self.special = False
        self.keeps = False
        self.grouped = False
        self.active = False
        self.gathered: list[Operation] = []
        self.gathered_at = 0
        self.ahead = ReadAhead()
        self.joined = self.alone = owned
        self.joining = False
        self.recalled = False
        self.heard = NOTHING
        self.shares = 0
        self.unwritten = 0
        self.pending: deque[Operation] = deque()
        self.looked_at = 0.0
        self.asked_at: float | None = None  # when one that is alone was asked to share
        self.watched = False
        self.settling = 1.0
        self.spare = True
        self.sticky: OrderedDict[str, Subscription] = OrderedDict()
        self.counts = Counts()

    def settle(self, described: Described) -> None:
        """Its settings, as they are now."""
        paused, exclusive, special, keeps, grouped = described
        if (self.paused and not paused) or self.exclusive != exclusive:
            self.waiting = True
        self.paused, self.exclusive, self.special, self.keeps = paused, exclusive, special, keeps
        if grouped:
            self.expect_groups()

    @property
    def immediate(self) -> bool:
        """Whether a message for it may be handed over before it is written."""
        return not self.unwritten and self.drained

    @property
    def drained(self) -> bool:
        """Whether that is so, but for what is on its way to the database."""
        return not (
            self.waiting
            or self.claiming
            or self.ahead
            or not self.joined
            or self.paused
            or self.exclusive
            or self.special
            or self.keeps
            or self.grouped
            or self.scans
            or not self.id
        )

    @property
    def stocked(self) -> bool:
        """Whether rows may be ready that nobody here has claimed yet, or are about to be."""
        return self.waiting or self.unwritten > 0

    @property
    def reads_ahead(self) -> bool:
        """Whether messages may be claimed beyond the credit: nothing but their order decides who gets them."""
        return self.alone and not (self.paused or self.exclusive or self.special or self.grouped or self.scans)

    def wait_for_share(self) -> None:
        """Another process is alone here and was asked to share."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    @property
    def impatient(self) -> bool:
        """Whether who is alone was asked so long ago that it must be frozen."""
        return self.asked_at is not None and time.monotonic() - self.asked_at > SHARE_SECONDS

    def part(self) -> None:
        """Others are to be asked anew, before anything is claimed."""
        if not self.owned:
            self.joined = self.alone = False
        self.ranks.reset()
        self.asked_at = None

    def lower(self, message_id: int = 0) -> None:
        """A message became ready, none before it (0: nothing is known of it)."""
        self.waiting = True
        self.lowered += 1
        floor = max(message_id - 1, 0)
        self.floors.lower(floor)
        for scan in self.scans:
            scan.lower(floor)

    def expect_groups(self) -> None:
        """There may be messages of groups: what is ready behind another one's back is not known by a floor."""
        if not self.grouped:
            self.grouped = True
            self.lower()

    def note(self, message_id: int, priority: int = LANES[0]) -> None:
        """By this process's doing a message becomes ready for others, none before it, of that priority at the most."""
        self.unannounced = min(self.unannounced, message_id)
        self.unannounced_priority = max(self.unannounced_priority, priority)

    def announce(self) -> tuple[int, int]:
        """What was noted since the last time: the earliest place (NOTHING: nothing was), and the highest priority."""
        noted = self.unannounced, self.unannounced_priority
        self.unannounced, self.unannounced_priority = NOTHING, LANES[-1]
        return noted

    def expect(self) -> None:
        """A message is on its way into it: selectors look again."""
        for scan in self.scans:
            scan.waiting = True

    def add(self, subscription: Subscription) -> None:
        """A local consumer has come."""
        place = len(self.subscriptions)
        while place and self.subscriptions[place - 1].priority < subscription.priority:
            place -= 1
        self.subscriptions.insert(place, subscription)
        if subscription.selector is not None:
            self.scans.append(Scan(subscription, LANES))
            self.scans.sort(key=lambda scan: -scan.subscription.priority)
        self.waiting = True

    def remove(self, subscription: Subscription) -> None:
        """A local consumer has gone."""
        self.subscriptions.remove(subscription)
        self.scans = [scan for scan in self.scans if scan.subscription is not subscription]
        for group in [group for group, owner in self.sticky.items() if owner is subscription]:
            del self.sticky[group]
        if self.grouped:  # what others left to it is theirs again
            self.lower()

    # -- whose turn it is

    def rank(self) -> tuple[int, int]:
        """The highest priority of its local subscriptions that others have to heed, and the lowest of all."""
        heeded = [one.priority for one in self.subscriptions if one.selector is None or self.exclusive]
        return max(heeded, default=NO_RANK), min((one.priority for one in self.subscriptions), default=ANY_RANK)

    def bid(self) -> int | None:
        """The highest priority for which there is credit here, if the others are to hear of it now."""
        ranks = self.ranks
        if self.exclusive or not ranks.heeded:
            return None
        free = [one.priority for one in self.subscriptions if one.selector is None and one.credit > len(one.held)]
        now = max(free, default=NO_RANK)
        if ranks.said is None:
            return now
        if now > ranks.said:
            return now if self.spare else None
        return now if now < ranks.said and self.stocked and not self.capacity() else None

    @property
    def yields(self) -> bool:
        """Whether it is exclusive, this process's, and a consumer of a higher priority waits for it elsewhere."""
        return self.exclusive and self.active and self.ranks.outranked(self.rank()[0])

    @property
    def idle(self) -> bool:
        """Whether nothing of it is held here, nor about to be."""
        return not (self.claiming or self.ahead or any(one.held for one in self.subscriptions))

    @property
    def barred(self) -> bool:
        """Whether something may wait that there is credit for here, and is left to others of a higher priority."""
        return self.stocked and self.ranks.bar > NO_RANK and not self.capacity() and bool(self._free(self._served()))

    def _served(self) -> Sequence[Subscription]:
        """The subscriptions without a selector that may get something."""
        subscriptions = self._foremost() if self.exclusive else self.subscriptions
        if self.scans:
            return [subscription for subscription in subscriptions if subscription.selector is None]
        return subscriptions

    def _foremost(self) -> Sequence[Subscription]:
        """The one of an exclusive queue whose turn it is: when those before it have done what they hold."""
        if self.yields or any(one.held for one in self.subscriptions[1:]):
            return ()
        return self.subscriptions[:1]

    def capacity(self) -> int:
        """How many messages the local subscriptions could take now, without passing over others elsewhere."""
        subscriptions = self._served()
        if self.ranks.bar > NO_RANK and not self.exclusive:
            subscriptions = [one for one in subscriptions if one.priority >= self.ranks.bar]
        return self._free(subscriptions)

    @staticmethod
    def _free(subscriptions: Sequence[Subscription]) -> int:
        total = 0
        for subscription in subscriptions:
            free = subscription.credit - len(subscription.held)
            if free > 0:
                total += free
        return total

    def claim_limit(self) -> int:
        """How many to claim at once; 0 when nobody could take them."""
        room = self.capacity()
        if self.reads_ahead:
            room = max(room + self.ahead.reach - len(self.ahead), 0)
        return min(room, CLAIM_LIMIT, max(1, int(CLAIM_BYTES / self.mean_size)))

    def arrive(self, deliveries: list[Delivery], *, keep: bool) -> list[Delivery]:
        """Hand claimed messages to the subscriptions and, if asked to, keep some of the others at hand. Returns what is
        to go back."""
        ahead = self.ahead
        recalled, self.recalled = self.recalled, False
        self.claiming = False
        # Where others claim too, what went back could be overtaken by what they take meanwhile.
        overtaken = self.reads_ahead and any(delivery.place > self.heard for delivery in deliveries)
        if not self.subscriptions or recalled or overtaken:
            return ahead.merged(deliveries)
        keep = keep and self.reads_ahead
        now = time.monotonic()
        room = self._free(self._served())  # what is claimed is claimed, whoever has credit elsewhere meanwhile
        if keep and not ahead and ahead.quick(now, spare=self.spare):
            ahead.grow(room)
        whole = ahead.merged(deliveries)
        left = self.distribute(whole[:room]) + whole[room:]
        ahead.moved = now
        return ahead.keep(left) if keep else left

    def refill(self) -> None:
        """Hand over what is at hand, as the credit allows."""
        taken = self.ahead.take(self.capacity())
        if taken:
            self.ahead.put_back(self.distribute(taken))
            self.ahead.moved = time.monotonic()

    def distribute(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Hand messages to the subscriptions, each within its credit: to those of the highest priority in turn, then
        to the next; a group's to who had its last one. Returns what nobody could take."""
        if self.scans:
            deliveries = self._to_selectors(deliveries)
        subscriptions = self._served()
        if len(subscriptions) == 1 and not self.grouped:
            only = subscriptions[0]
            free = only.credit - len(only.held)
            self.rotation = 1  # who comes next gets the next
            self._hand(only, deliveries[:free] if free > 0 else [])
            return deliveries[max(free, 0) :]
        shares: list[list[Delivery]] = [[] for _ in subscriptions]
        free_of = [subscription.credit - len(subscription.held) for subscription in subscriptions]
        bound = self._bound(deliveries, subscriptions, free_of) if self.grouped else {}
        levels = _levels(subscriptions)
        left = []
        place = self.rotation
        for number, delivery in enumerate(deliveries):
            index = bound.get(number, -1)
            if index < 0:
                for first, beyond in levels:
                    width = beyond - first
                    index = next((i for step in range(width) if free_of[i := first + (place + step) % width] > 0), -1)
                    if index >= 0:
                        place = index - first + 1
                        break
                else:
                    left.append(delivery)
                    continue
                free_of[index] -= 1
            shares[index].append(delivery)
            self._remember(delivery, subscriptions[index])
        self.rotation = place
        for subscription, share in zip(list(subscriptions), shares, strict=True):
            self._hand(subscription, share)
        return left

    def hand_chosen(self, scan: Scan, deliveries: list[Delivery]) -> list[Delivery]:
        """Hand messages to a subscription with a selector; returns what it cannot take any more."""
        subscription = scan.subscription
        free = max(0 if subscription.closed else subscription.credit - len(subscription.held), 0)
        for delivery in deliveries[:free]:
            self._remember(delivery, subscription)
        self._hand(subscription, deliveries[:free])
        return deliveries[free:]

    def look_at(
        self, scan: Scan, message_id: MessageId, lane: int, persistent: bool, headers: bytes, group: str
    ) -> None:
        """Choose a message that may be claimed for that subscription, if its selector matches.

        The one that had the last message of its group goes before, if it has credit and wants it: a consumer with a
        selector has it chosen for it, to one without it is left."""
        owner = self.sticky.get(group) if group else None
        if owner is not None and owner.selector is None and owner.credit > len(owner.held) and owner in self._served():
            return
        fields = fields_of(headers, lane, persistent)
        if owner is not None and owner is not scan.subscription:
            owning = next((one for one in self.scanning() if one.subscription is owner), None)
            if owning is not None and owning.room() > 0 and owning.wants(fields):
                owning.choose(message_id)
                return
        if scan.wants(fields):
            scan.choose(message_id)

    def scanning(self) -> list[Scan]:
        """The scans of the subscriptions that may get something."""
        if self.exclusive:
            foremost = self._foremost() if self.active else ()
            return [scan for scan in self.scans if scan.subscription in foremost]
        bar = self.ranks.bar
        return [scan for scan in self.scans if scan.subscription.priority >= bar] if bar > NO_RANK else self.scans

    def _to_selectors(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Of what was claimed for others, hand to subscriptions with a selector what they want: if they had the last
        message of its group, or are of a higher priority than all others that have credit. Returns the rest."""
        best = max((one.priority for one in self._served() if one.credit > len(one.held)), default=None)
        rest = []
        for delivery in deliveries:
            owner = self.sticky.get(delivery.group) if delivery.group is not None else None
            found = None
            fields: dict[str, str] = {}
            for scan in self.scanning():
                subscription = scan.subscription
                before = best is not None and subscription.priority > best and not scan.claiming
                if (before or subscription is owner) and scan.room() > 0:
                    fields = fields or fields_of(delivery.headers, delivery.priority, delivery.persistent)
                    if scan.wants(fields):
                        found = subscription
                        break
            if found is None:
                rest.append(delivery)
            else:
                self._remember(delivery, found)
                self._hand(found, [delivery])
        return rest

    def _bound(
        self, deliveries: list[Delivery], subscriptions: Sequence[Subscription], free_of: list[int]
    ) -> dict[int, int]:
        """Which of the messages (by place) go to which subscription (by place), since they had the group's last one."""
        bound = {}
        for number, delivery in enumerate(deliveries):
            owner = self.sticky.get(delivery.group) if delivery.group is not None else None
            if owner is not None and not owner.closed and owner in subscriptions:
                index = subscriptions.index(owner)
                if free_of[index] > 0:
                    free_of[index] -= 1
                    bound[number] = index
        return bound

    def _remember(self, delivery: Delivery, subscription: Subscription) -> None:
        group = delivery.group
        if group is None:
            return
        if GROUP_ENDS in b"\n" + delivery.headers:
            self.sticky.pop(group, None)
            return
        self.sticky[group] = subscription
        self.sticky.move_to_end(group)
        if len(self.sticky) > STICKY_GROUPS:
            self.sticky.popitem(last=False)

    def _hand(self, subscription: Subscription, deliveries: list[Delivery]) -> None:
        if not deliveries:
            return
        held = subscription.held
        bodies = headers = 0
        for delivery in deliveries:
            held[delivery.id] = delivery.persistent
            bodies += len(delivery.body)
            headers += len(delivery.headers)
        self.mean_size = max(bodies / len(deliveries), self.mean_size / 2, 64.0)
        counts = self.counts
        counts.delivered += len(deliveries)
        counts.delivered_bytes += bodies + headers
        counts.redelivered += sum(1 for delivery in deliveries if delivery.deliveries > 1)
        guarded(subscription.consumer.deliver, subscription, deliveries)  # what it fails to take it holds until it goes


def _levels(subscriptions: Sequence[Subscription]) -> list[tuple[int, int]]:
    """Runs of equal priority: first place, and the one behind the last."""
    levels: list[tuple[int, int]] = []
    first = 0
    for place in range(1, len(subscriptions) + 1):
        if place == len(subscriptions) or subscriptions[place].priority != subscriptions[first].priority:
            levels.append((first, place))
            first = place
    return levels
