"""Gateway processes tell each other what keys use of them, so that a key's limits hold for all of them together.

They do so over a topic, as people's questions come (`apps.stomp.gateway.supervision`): a moment after something has
changed, and every other second while a key with limits is in use. Who has not been heard for long uses nothing. So for
a fraction of a second a key may have more than its limit, where several processes let it in at once; while the database
is away, each process counts by itself.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from apps.broker.engine import Address, Delivery, Engine, Message, Subscription
from apps.stomp.gateway.supervision import CREDIT, NAMESPACE
from apps.stomp.gateway.usage import Holder, Usages, Use

logger = logging.getLogger(__name__)

TOPIC = Address(NAMESPACE, "topic", "usage")
GAP_SECONDS = 0.1  # between two reports; what changes meanwhile is told together
BEAT_SECONDS = 2.0  # while there is something to tell
SILENT_SECONDS = 10.0  # after which a process is taken to have ended


class Sharing:
    """A gateway's ear and voice. A `Consumer` of its engine; belongs to one event loop."""

    def __init__(self, engine: Engine, usages: Usages) -> None:
        self._engine = engine
        self._usages = usages
        self._name = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._report_timer: asyncio.TimerHandle | None = None
        self._silent: dict[str, asyncio.TimerHandle] = {}
        self._told = False  # the last report was not empty

    def start(self) -> None:
        """Listen from now on, and ask the others what is used of them."""
        self._engine.subscribe(TOPIC, self, CREDIT)
        self._usages.changed = self._changed
        self._publish({}, asks=True)

    def close(self) -> None:
        """Say that nothing is used here any more."""
        self._usages.changed = lambda: None
        for timer in [*self._silent.values(), self._report_timer]:
            if timer is not None:
                timer.cancel()
        if self._told:
            self._publish({})

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Take it up, and take no notice of what cannot be understood: another version may have said it."""
        for delivery in deliveries:
            try:
                report = json.loads(delivery.body)
                process = str(report["process"])
                used = {_holder(name): Use(*map(_number, figures)) for name, figures in report["used"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("what a gateway told of keys was not understood: %s: %s", type(error).__name__, error)
                continue
            if process != self._name:
                self._hear(process, used)
                if report.get("asks"):
                    self._changed()

    def lost(self, subscription: Subscription) -> None:
        """A topic holds nothing that could be lost."""

    def _hear(self, process: str, used: Mapping[Holder, Use]) -> None:
        timer = self._silent.pop(process, None)
        if timer is not None:
            timer.cancel()
        self._usages.hear(process, used)
        if used:
            self._silent[process] = self._loop.call_later(SILENT_SECONDS, self._hear, process, {})

    def _changed(self) -> None:
        due = self._loop.time() + GAP_SECONDS
        if self._report_timer is None or self._report_timer.when() > due:
            self._report_at(due)

    def _report_at(self, when: float) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._report_timer = self._loop.call_at(when, self._report)

    def _report(self) -> None:
        self._report_timer = None
        now = self._loop.time()
        used = self._usages.take_report(now)
        if used or self._told:
            self._publish(used)
        self._told = bool(used)
        if used:
            self._report_at(now + BEAT_SECONDS)

    def _publish(self, used: Mapping[Holder, Use], *, asks: bool = False) -> None:
        figures = {f"{kind}:{number}": use for (kind, number), use in used.items()}
        report: dict[str, Any] = {"process": self._name, "used": figures}
        if asks:
            report["asks"] = True
        self._engine.send(Message(TOPIC, json.dumps(report).encode()))


def _holder(name: str) -> Holder:
    kind, _, number = name.partition(":")
    return kind, int(number)


def _number(figure: object) -> Any:
    """A figure of a report.

    Raises:
        ValueError: it is none.
    """
    if isinstance(figure, bool) or not isinstance(figure, int | float) or not 0 <= figure < 2**53:
        raise ValueError(f"{figure!r} is no figure")
    return figure
