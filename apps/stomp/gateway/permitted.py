"""What a login allows: asked once for each head of a SEND and once for each SUBSCRIBE, never for a message."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from apps.accounts.permissions import Verb
from apps.broker.engine import REPLY_PREFIX, Address
from apps.stomp.gateway.destinations import Job, Target, Task, parse_destination
from apps.stomp.gateway.ports import Principal

NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


def check_send(
    principal: Principal, targets: Iterable[Target], reply_to: str = "", settings: Mapping[str, Any] = NO_SETTINGS
) -> None:
    """Whether somebody may send there.

    Args:
        reply_to: where the answer to a task goes, which is sent in the asker's place.
        settings: of a queue that the SEND may make; its dead letters go on from there.

    Raises:
        AccessRefused: they may not; the text says what.
        BadDestination: an answer cannot go there.
    """
    for target in targets:
        _check(principal, Verb.SEND, target)
        if isinstance(target, Task) and reply_to:
            _check(principal, Verb.SEND, parse_destination(principal.namespace, reply_to))
    _check_dead_letters(principal, settings)


def check_receive(principal: Principal, address: Address, settings: Mapping[str, Any] = NO_SETTINGS) -> None:
    """Whether somebody may receive from there: a queue, a topic, all topics of a pattern.

    Raises:
        AccessRefused: they may not; the text says what.
    """
    _check(principal, Verb.RECEIVE, address)
    _check_dead_letters(principal, settings)


def _check(principal: Principal, verb: Verb, target: Target) -> None:
    name: str | None = None
    match target:
        case Task():
            name = f"task/{target.name}"
        case Job():
            name = f"job/{target.id}"
        # The name of a temporary destination cannot be guessed: who has it was told it, or made it.
        case Address() if not target.name.startswith(REPLY_PREFIX):
            name = f"{target.kind}/{target.name}"
    if name is not None:
        principal.access.check(verb, principal.namespace, name)


def _check_dead_letters(principal: Principal, settings: Mapping[str, Any]) -> None:
    queue = settings.get("dead_letter_queue")
    if queue is not None:
        principal.access.check(Verb.SEND, principal.namespace, f"queue/{queue}")
