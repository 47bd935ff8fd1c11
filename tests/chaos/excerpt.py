"""The part of a history that shows a violation, as small as it can be made."""

from collections.abc import Iterable

from tests.chaos.checker import Violation, check
from tests.chaos.history import (
    Closed,
    Delivered,
    Ending,
    Event,
    Opened,
    Outcome,
    Remaining,
    Sending,
    Settling,
    Subscribing,
    Unsubscribing,
    in_order,
)

EFFORT = 400  # checks of a smaller history, at the most


def excerpt(history: Iterable[Event], violation: Violation) -> list[Event]:
    """A smallest history, as far as leaving out messages and connections goes, in which the same rule is broken for
    the same messages."""
    events = in_order(history)
    wanted = set(violation.messages)
    budget = EFFORT

    def shows(part: list[Event]) -> bool:
        nonlocal budget
        budget -= 1
        return any(one.rule == violation.rule and wanted <= set(one.messages) for one in check(part))

    if not wanted or not shows(events):
        return events
    messages = _messages(events) - wanted
    kept = sorted(messages)
    size = max(1, len(kept))
    while size and budget > 0:
        place = 0
        while place < len(kept) and budget > 0:
            fewer = kept[:place] + kept[place + size :]
            if shows(_only(events, wanted | set(fewer))):
                kept = fewer
            else:
                place += size
        size //= 2
    smaller = _only(events, wanted | set(kept))
    quiet = _without_idle_connections(smaller)
    return quiet if shows(quiet) else smaller


def _messages(events: Iterable[Event]) -> set[str]:
    return {event.message for event in events if isinstance(event, Sending | Delivered)}


def _only(events: list[Event], messages: set[str]) -> list[Event]:
    """The history as if there had been no other messages."""
    tags = {event.tag for event in events if isinstance(event, Delivered) and event.message in messages}
    kept: list[Event] = []
    ops: set[int] = set()
    transactions: set[str] = set()
    for event in events:
        match event:
            case Sending():
                wanted = event.message in messages
            case Delivered():
                wanted = event.tag in tags
            case Settling():
                covered = tuple(tag for tag in event.tags if tag in tags)
                wanted = bool(covered)
                event = Settling(
                    event.at, event.op, event.connection, event.verb, covered, event.transaction, event.asked
                )
            case Ending():
                wanted = event.transaction in transactions
            case Outcome():
                wanted = event.op in ops
            case Remaining():
                wanted = False
            case _:
                wanted = True
        if not wanted:
            continue
        kept.append(event)
        if isinstance(event, Sending | Settling | Ending):
            ops.add(event.op)
            if event.transaction is not None:
                transactions.add(event.transaction)
    return kept


def _without_idle_connections(events: list[Event]) -> list[Event]:
    used = {event.connection for event in events if isinstance(event, Sending | Settling | Ending)}
    places = {event.subscription for event in events if isinstance(event, Delivered)}
    used |= {event.connection for event in events if isinstance(event, Subscribing) and event.subscription in places}
    kept = []
    for event in events:
        if isinstance(event, Opened | Closed | Subscribing) and event.connection not in used:
            continue
        if isinstance(event, Subscribing | Unsubscribing) and event.subscription not in places:
            continue
        kept.append(event)
    return kept
