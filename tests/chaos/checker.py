"""The rules that a history is held against. `check` is pure: the same history, the same violations.

What is promised exactly, and where the bounds come from, stands in docs/reference/chaos.md.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.chaos.facts import Delivery, Facts, Send, Transaction
from tests.chaos.history import Event

Rule = Callable[[Facts], "Iterator[Violation]"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    Attributes:
        rule: its short name, one of `RULES`.
        text: what happened, for people.
        messages: which are concerned.
        transactions: which are concerned.
    """

    rule: str
    text: str
    messages: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(history: Iterable[Event]) -> list[Violation]:
    """All violations of a history whose workload has ended and whose queues were drained."""
    facts = Facts(history)
    return [violation for rule in RULES.values() for violation in rule(facts)]


# -- each message for itself


def lost(facts: Facts) -> Iterator[Violation]:
    """What was receipted is delivered until it is acked; what is not persistent may go in a crash of Postgres."""
    for send in facts.sends.values():
        if send.fate == "done" and not _may_be_done_with(facts, send):
            how = "was never delivered" if not send.deliveries else "was given back and never came again"
            yield Violation("lost", f"{send.name} was receipted and {how}", (send.name,))


def stuck(facts: Facts) -> Iterator[Violation]:
    """After the drain nothing is left in a queue."""
    for left in facts.remaining:
        yield Violation("stuck", f"{left.messages} messages are left in {left.queue} ({left.state})")


def unmarked(facts: Facts) -> Iterator[Violation]:
    """Of a message's deliveries only one is no marked repeat: each was handed out under a count of its own."""
    for send in facts.sends.values():
        counts: set[int] = set()
        for delivery in send.deliveries:
            count, marked = delivery.event.count, delivery.event.redelivered
            if (count > 1) != marked:
                yield Violation("unmarked", f"{send.name}: delivery-count {count}, redelivered {marked}", (send.name,))
            if count in counts:
                text = f"{send.name} was delivered twice with delivery-count {count}"
                yield Violation("unmarked", text, (send.name,))
            counts.add(count)


def resurrected(facts: Facts) -> Iterator[Violation]:
    """What was acked, and the ack receipted, does not come back.

    An ack that came too late is no such ack, though it gets its receipt: the session had ended before, and the message
    was with others.
    """
    for send in facts.sends.values():
        for acked in send.deliveries:
            if not is_settled(acked, "ack", "done") or void(facts, acked):
                continue
            for later in send.deliveries:
                if later.event.count > acked.event.count:
                    text = (
                        f"{send.name} was acked (delivery {acked.event.count}) and came again (as {later.event.count})"
                    )
                    yield Violation("resurrected", text, (send.name,))


def held_twice(facts: Facts) -> Iterator[Violation]:
    """One consumer holds a message at a time."""
    for send in facts.sends.values():
        for first, second in _overlaps(send.deliveries):
            if first is not second:
                yield Violation(
                    "held-twice",
                    f"{send.name} was with {first.event.subscription} and {second.event.subscription} at once",
                    (send.name,),
                )


def phantom(facts: Facts) -> Iterator[Violation]:
    """Only what was sent is delivered, whole, from its own queue, and never what was refused or aborted."""
    for delivery in facts.unsent:
        yield Violation("phantom", f"nobody sent {delivery.event.message!r}", (delivery.event.message,))
    for send in facts.sends.values():
        for delivery in send.deliveries:
            if delivery.event.queue != send.event.queue or delivery.place.event.queue != send.event.queue:
                yield Violation("phantom", f"{send.name} came from {delivery.event.queue}", (send.name,))
        if send.transaction is None and send.fate == "never" and send.deliveries:
            yield Violation("phantom", f"{send.name} was refused and delivered", (send.name,))
        if send.deliveries and send.deliveries[0].at < send.at:
            yield Violation("phantom", f"{send.name} was delivered before it was sent or committed", (send.name,))


def overdrawn(facts: Facts) -> Iterator[Violation]:
    """No subscription holds more than its credit."""
    for event in facts.unpaid:
        yield Violation("overdrawn", f"{event.message} exceeds the credit of {event.subscription}", (event.message,))


# -- messages among each other


def disordered(facts: Facts) -> Iterator[Violation]:
    """A producer's messages of a lane are handed out in order; what is released goes back to its own place."""
    for lane in _lanes(facts, grouped=False):
        earliest = _earliest_after(lane)
        for place, first in enumerate(lane):
            for delivery in first.deliveries:
                if earliest[place] <= delivery.rank:
                    yield from _overtakers(facts, first, delivery, lane[place + 1 :])


def _overtakers(facts: Facts, first: Send, delivery: Delivery, others: list[Send]) -> Iterator[Violation]:
    """Those deliveries of later messages that were made while this one was ready."""
    before = next((one for one in first.deliveries if one.event.count == delivery.event.count - 1), None)
    if delivery.event.count > 1 and before is None:
        return  # it was handed out to somebody who did not live to see it: since when it is ready nobody knows
    for other in others:
        if not precedes(first, other):
            continue
        for overtaking in other.deliveries:
            if not _taken_after(facts, delivery, overtaking) or not _was_ready(facts, before, overtaking, other):
                continue
            since = first.at if before is None else before.at
            if facts.disturbed(overtaking.place.connection.server, first.event.queue, since, delivery.at):
                continue
            yield Violation(
                "disordered",
                f"{first.name} (delivery {delivery.event.count}) came after {other.name} "
                f"(delivery {overtaking.event.count})",
                (first.name, other.name),
            )


def _taken_after(facts: Facts, delivery: Delivery, overtaking: Delivery) -> bool:
    if delivery.place is overtaking.place:
        return delivery.order > overtaking.order
    return facts.claimed_after(delivery, overtaking.at, overtaking.place.connection.server)


def _was_ready(facts: Facts, before: Delivery | None, overtaking: Delivery, other: Send) -> bool:
    """Whether a message was ready when another's delivery was made. `before`: its own last delivery until then."""
    if before is None:
        return True  # it was ready from its send on, which precedes the other's
    given_back = before.settlement
    if given_back is not None:
        if given_back.verb != "nack" or given_back.seen is None or void(facts, before):
            return False
        if overtaking.place.connection is before.place.connection:
            return overtaking.rank > given_back.seen_rank
        return facts.claimed_after(overtaking, given_back.seen, before.place.connection.server)
    if before.tried or before.until == math.inf or before.place.event.patient:
        return False
    if facts.over(before.place.connection.server, before.place.event.at, before.until):
        return False
    # Nothing was said of it: it was released with all that its consumer held. Together with the other one?
    last = next((one for one in other.deliveries if one.event.count == overtaking.event.count - 1), None)
    return last is not None and last.place is before.place and not last.tried


def group_overlap(facts: Facts) -> Iterator[Violation]:
    """While a message of a group is held, no other of that group is."""
    for members in _groups(facts):
        deliveries = [delivery for send in members for delivery in send.deliveries]
        for first, second in _overlaps(deliveries):
            if first.event.message != second.event.message:
                yield Violation(
                    "group-overlap",
                    f"{second.event.message} was delivered while {first.event.message} was held",
                    (first.event.message, second.event.message),
                )


def group_order(facts: Facts) -> Iterator[Violation]:
    """A message of a group is delivered only when those before it are done with; a head that is retried keeps the
    group waiting, and nothing comes back behind its successors."""
    for lane in _lanes(facts, grouped=True):
        for place, head in enumerate(lane):
            if not head.existed:
                continue
            for follower in lane[place + 1 :]:
                if follower.deliveries and precedes(head, follower):
                    yield from _jumped(facts, head, follower)


def _jumped(facts: Facts, head: Send, follower: Send) -> Iterator[Violation]:
    first = min(follower.deliveries, key=lambda delivery: delivery.at)
    acked = any(d.settlement and d.settlement.verb == "ack" and d.settlement.at <= first.at for d in head.deliveries)
    if not acked and not _wiped(facts, head, first.at):
        yield Violation(
            "group-order",
            f"{follower.name} was delivered before {head.name} was acked",
            (head.name, follower.name),
        )
        return
    for delivery in head.deliveries:
        if delivery.surely_after(first):
            yield Violation(
                "group-order", f"{head.name} was delivered again after {follower.name}", (head.name, follower.name)
            )


# -- transactions


def torn(facts: Facts) -> Iterator[Violation]:
    """A transaction took effect as a whole or not at all; and as its outcome says, where that is known."""
    for transaction in facts.transactions.values():
        happened, missing = _traces(facts, transaction)
        concerned = tuple(send.name for send in transaction.sends) + tuple(
            delivery.event.message for one in transaction.settlements for delivery in one.deliveries
        )
        if transaction.fate == "never" and happened:
            text = f"{transaction.name} was aborted or refused, yet {happened[0]}"
        elif transaction.fate == "done" and missing:
            text = f"{transaction.name} was committed, yet {missing[0]}"
        elif transaction.fate == "unknown" and happened and missing:
            text = f"of {transaction.name} only a part took effect: {happened[0]}, yet {missing[0]}"
        else:
            continue
        yield Violation("torn", text, concerned, (transaction.name,))


def _traces(facts: Facts, transaction: Transaction) -> tuple[list[str], list[str]]:
    """What shows that it took effect, and what shows that it did not."""
    happened, missing = [], []
    for send in transaction.sends:
        if send.deliveries:
            happened.append(f"{send.name} was delivered")
        elif not _wiped(facts, send, math.inf):
            missing.append(f"{send.name} was not delivered")
    for settlement in transaction.settlements:
        for delivery in settlement.deliveries:
            message = facts.sends.get(delivery.event.message)
            if message is None:
                continue
            again = any(one.event.count > delivery.event.count for one in message.deliveries)
            if settlement.verb == "ack" and again:
                missing.append(f"{message.name}, which it acked, came again")
            elif settlement.verb == "ack" and not (_wiped(facts, message, math.inf) or _unwritten(facts, message)):
                happened.append(f"{message.name}, which it acked, never came again")
    return happened, missing


RULES: dict[str, Rule] = {
    "lost": lost,
    "stuck": stuck,
    "unmarked": unmarked,
    "resurrected": resurrected,
    "held-twice": held_twice,
    "phantom": phantom,
    "overdrawn": overdrawn,
    "disordered": disordered,
    "group-overlap": group_overlap,
    "group-order": group_order,
    "torn": torn,
}


# -- what the rules share


def precedes(first: Send, second: Send) -> bool:
    """Whether the first of two messages of a lane was sent before the other, by what the producer knew.

    On one connection by the order of the frames that make them take effect; on two, or from two, only if the first was
    receipted before the other was sent: whoever moves on without a receipt leaves a SEND behind that may arrive later.
    """
    if first.event.connection == second.event.connection:
        return first.rank < second.rank
    return first.seen is not None and first.fate == "done" and first.seen <= second.at


def is_settled(delivery: Delivery, verb: str, fate: str) -> bool:
    """Whether the consumer said so of it, with that fate."""
    settlement = delivery.settlement
    return settlement is not None and settlement.verb == verb and settlement.fate == fate


def void(facts: Facts, delivery: Delivery) -> bool:
    """Whether the session under which it was delivered may have ended before what was said of it took effect."""
    settlement = delivery.settlement
    before = settlement.seen if settlement is not None and settlement.seen is not None else math.inf
    return facts.over(delivery.place.connection.server, delivery.low, before)


def _may_be_done_with(facts: Facts, send: Send) -> bool:
    """Whether an ack of its last delivery may have ended the message, or a crash."""
    if not send.deliveries:
        return _wiped(facts, send, math.inf)
    last = max(send.deliveries, key=lambda delivery: (delivery.event.count, delivery.rank))
    settlement = last.settlement
    if settlement is not None and settlement.verb == "ack" and not _too_late(facts, send, last):
        return True
    return _wiped(facts, send, math.inf)


def _too_late(facts: Facts, send: Send, delivery: Delivery) -> bool:
    """Whether what the consumer said of it was void for certain: the session had ended before, and the message was
    written by then (what is acked before it is written needs no session)."""
    assert delivery.settlement is not None
    if delivery.event.count == 1 and send.seen is None:
        return False
    written = delivery.at if delivery.event.count > 1 or send.seen is None else max(delivery.at, send.seen)
    return facts.over(delivery.place.connection.server, written, delivery.settlement.at)


def _wiped(facts: Facts, send: Send, before: float) -> bool:
    """Whether a crash of Postgres may have taken the message."""
    return not send.event.persistent and facts.crashed(send.at, before)


def _unwritten(facts: Facts, send: Send) -> bool:
    """Whether the message may have been delivered and never written: it was not receipted, and its gateway died."""
    return send.fate != "done" and facts.over(facts.connections[send.event.connection].server, send.at)


def _lanes(facts: Facts, *, grouped: bool) -> Iterator[list[Send]]:
    """The messages of each producer and lane, by number, without those that certainly never existed."""
    lanes: dict[tuple[str, str], list[Send]] = defaultdict(list)
    for send in facts.sends.values():
        if (send.event.group is not None) == grouped and send.fate != "never":
            lanes[send.event.producer, send.event.lane].append(send)
    for lane in lanes.values():
        yield sorted(lane, key=lambda send: send.event.number)


def _groups(facts: Facts) -> Iterable[list[Send]]:
    groups: dict[tuple[str, str], list[Send]] = defaultdict(list)
    for send in facts.sends.values():
        if send.event.group is not None:
            groups[send.event.queue, send.event.group].append(send)
    return groups.values()


def _earliest_after(lane: list[Send]) -> list[float]:
    """For each place the rank of the first delivery of any message behind it: most need no closer look."""
    earliest: list[float] = [math.inf] * len(lane)
    for place in range(len(lane) - 2, -1, -1):
        next_one = min((delivery.rank for delivery in lane[place + 1].deliveries), default=math.inf)
        earliest[place] = min(earliest[place + 1], next_one)
    return earliest


def _overlaps(deliveries: list[Delivery]) -> Iterator[tuple[Delivery, Delivery]]:
    """Pairs that were held at the same time for certain, each beside the one before it that is held longest."""
    longest: Delivery | None = None
    for delivery in sorted((one for one in deliveries if one.held), key=lambda one: one.at):
        if longest is not None and longest.until > delivery.at:
            yield longest, delivery
        if longest is None or delivery.until > longest.until:
            longest = delivery
