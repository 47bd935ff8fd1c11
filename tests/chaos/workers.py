"""The workers of a run: processes that `tests/chaos/hand.py` describes, and what they write down."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.hand import HandPlan
from tests.chaos.history import Delivered, Ending, Event, Opened, Outcome, from_json
from tests.chaos.plans import ConsumerPlan
from tests.chaos.world import Slot

if TYPE_CHECKING:
    from tests.chaos.runner import Run

READ_SECONDS = 0.02  # between two looks at what they have written


class Workers:
    """Starts a run's workers, tells them when to behave and when to end, and gathers their histories.

    Attributes:
        events: what they have written so far.
    """

    def __init__(self, run: "Run") -> None:
        self.events: list[Event] = []
        self._open: dict[str, set[int]] = {}  # commits without an outcome yet, by worker
        self._run = run
        self._slots: list[Slot] = []
        self._lives = 0
        self._path = run.world.home / f"workers.{run.prefix}jsonl"
        self._calm: Path | None = None
        self._read = 0
        self._rest = b""

    async def start(self, plans: list[ConsumerPlan]) -> None:
        """One process for each plan."""
        for plan in plans:
            slot = Slot(plan.name, 0, lambda name, plan=plan: self._arguments(name, plan))  # type: ignore[misc]
            await self._run.world.start(slot)
            self._run.world.slots[plan.name] = slot
            self._slots.append(slot)

    def _arguments(self, name: str, plan: ConsumerPlan) -> list[str]:
        self._lives += 1
        run = self._run
        told = HandPlan(
            name=name,
            life=self._lives,
            seed=run.plan.seed,
            plan=plan,
            namespace=run.world.namespace,
            prefix=run.prefix,
            conninfo=run.world.conninfo,
            lease=run.world.lease,
            path=str(self._path),
        )
        self._calm = told.calm
        return ["hand", told.to_json()]

    @property
    def waiting(self) -> bool:
        """Whether a commit of one that lives has no outcome yet."""
        self._look()
        living = {slot.process.name for slot in self._slots if slot.process is not None and slot.process.alive}
        return any(ops for name, ops in self._open.items() if name in living)

    def behave(self) -> None:
        """From now on they only ack and commit."""
        if self._calm is not None:
            self._calm.touch()

    async def end(self) -> None:
        """They end in order, and what they wrote last is read."""
        self._signal(signal.SIGTERM)
        for slot in self._slots:
            if slot.process is not None:
                await slot.process.ended
        self._look()

    def forget(self) -> None:
        """The world is without them again."""
        self._signal(signal.SIGKILL)
        for slot in self._slots:
            self._run.world.slots.pop(slot.name, None)

    async def watch(self) -> None:
        """Read along, so that the run knows how far it is."""
        while True:
            self._look()
            await asyncio.sleep(READ_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.signal(number)

    def _look(self) -> None:
        data = _read_from(self._path, self._read)
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = from_json(line.decode())
            self.events.append(event)
            match event:
                case Delivered():
                    self._run.delivered(event.message)
                case Opened():
                    self._open[event.connection] = set()
                case Ending():
                    self._open[event.connection].add(event.op)
                case Outcome():
                    for ops in self._open.values():
                        ops.discard(event.op)


def _read_from(path: Path, place: int) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(file, 1 << 24, place)
    finally:
        os.close(file)
