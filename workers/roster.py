"""The slots of a worker: how many there are, which of them may take a job, who is replaced."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from workers import wire
from workers.claims import Claim
from workers.durations import AHEAD_JOBS, AHEAD_SECONDS, QUICK, Durations
from workers.process import Forks, Owner, SlotProcess

log = logging.getLogger(__name__)

RESPAWN_SECONDS = 0.5, 15.0  # the pause before a slot that did not come up is started again, doubling
REFILL = 4  # a slot gets more jobs when one in so many of those that wait in it is done
RECALL_SECONDS = 0.1  # what waits in a slot behind a job that takes longer goes elsewhere


@dataclass(slots=True, eq=False)
class Slot:
    """A slot and its jobs.

    Attributes:
        reserved: jobs that are being begun on paper, and go there then.
        claims: what it has, in order: those at work first.
        load: seconds that these are expected to take.
        moved: when one of its jobs began or ended last, by the loop's clock.
        recalled: it was asked to give back what it has not begun.
        stopping: it was told to end.
    """

    process: SlotProcess
    reserved: set[Claim] = field(default_factory=set)
    claims: dict[str, Claim] = field(default_factory=dict)
    load: float = 0.0
    moved: float = 0.0
    recalled: bool = False
    stopping: bool = False

    @property
    def count(self) -> int:
        """How many jobs it has or will have."""
        return len(self.claims) + len(self.reserved)

    def is_held_up(self, threads: int, late: float) -> bool:
        """Whether it has been at the same jobs, as many as it does at a time, since a moment by the loop's clock."""
        return self.moved < late and len(self.claims) >= threads


class Roster:
    """Starts slots, keeps their number, and says where a job may go."""

    def __init__(
        self,
        owner: Owner,
        forks: Forks,
        durations: Durations,
        spawned: Callable[[Coroutine[Any, Any, None], str], object],
        *,
        size: int,
        threads: int,
        jobs: int,
        rss: int,
    ) -> None:
        """
        Args:
            spawned: runs a coroutine as a task of the worker's.
            size: how many slots.
            threads: how many jobs a slot does at a time.
            jobs: a slot is replaced after so many,
            rss: or when it holds so many bytes.
        """
        self._owner = owner
        self._forks = forks
        self._durations = durations
        self._spawned = spawned
        self._size = size
        self._threads = threads
        self._jobs = jobs
        self._rss = rss
        self._slots: dict[SlotProcess, Slot] = {}
        self._failed_starts = 0
        self._closed = False
        self._respawn: asyncio.TimerHandle | None = None

    # -- who there is

    @property
    def size(self) -> int:
        """How many slots there are to be."""
        return self._size

    def resize(self, size: int) -> None:
        """Have so many slots: more at once, fewer as their jobs end."""
        self._size = max(0, size)
        self.fill()

    def fill(self) -> None:
        """Start what is missing, and let go what is too many: who has the fewest jobs first."""
        if self._closed:
            return
        staying = [slot for slot in self._slots.values() if not slot.stopping]
        for _ in range(self._size - len(staying)):
            process = SlotProcess(self._owner, self._forks, self._threads)
            self._slots[process] = Slot(process)
            self._spawned(self._start(process), "start of a slot")
        staying.sort(key=lambda slot: slot.count)
        for slot in staying[: max(0, len(staying) - self._size)]:
            self._retire(slot)

    async def _start(self, process: SlotProcess) -> None:
        try:
            await process.start()
        except OSError as error:
            log.error("no process for a slot: %s", error)
            self.gone(process)

    def up(self, process: SlotProcess) -> None:
        """It has come up."""
        self._failed_starts = 0
        if self._closed or self._slots[process].stopping:
            self._retire(self._slots[process])

    def look_at(self, process: SlotProcess) -> None:
        """One that has done enough, or has grown too large, gives way to a fresh one, which is started beside it."""
        slot = self._slots[process]
        if not slot.stopping and (process.jobs >= self._jobs or process.rss >= self._rss):
            log.info("slot %d is replaced after %d jobs, with %d MiB", process.pid, process.jobs, process.rss >> 20)
            self._retire(slot)
            self.fill()

    def kill(self, slot: Slot) -> None:
        """End its process at once. It gets no more jobs meanwhile."""
        slot.stopping = True
        slot.process.kill()

    def gone(self, process: SlotProcess) -> list[Claim]:
        """Its process is no more: another takes its place. Returns what it had, in order."""
        slot = self._slots.pop(process)
        for claim in slot.reserved:
            claim.slot = None  # to be placed again when its attempt has begun
        if not self._closed:
            if process.up:
                self.fill()
            elif self._respawn is None:
                first, longest = RESPAWN_SECONDS
                pause = min(longest, first * 2.0**self._failed_starts)
                self._failed_starts += 1
                log.error("slot %d did not come up; another is started in %g s", process.pid, pause)
                self._respawn = asyncio.get_running_loop().call_later(pause, self._refill)
        return list(slot.claims.values())

    def _refill(self) -> None:
        self._respawn = None
        self.fill()

    def _retire(self, slot: Slot) -> None:
        slot.stopping = True
        if slot.process.up:
            slot.process.stop()
            if not slot.claims:
                slot.process.hurry()

    async def close(self) -> None:
        """End all slots; none of them has a job."""
        self._closed = True
        if self._respawn is not None:
            self._respawn.cancel()
        for slot in list(self._slots.values()):
            self._retire(slot)
        await asyncio.gather(*(process.wait() for process in list(self._slots)))

    # -- who may take a job

    def room(self) -> int:
        """How many jobs the slots could take now, if all were like those of late."""
        ahead, late = self._durations.ahead(), asyncio.get_running_loop().time() - RECALL_SECONDS
        return sum(
            max(0, self._threads + (0 if slot.is_held_up(self._threads, late) else ahead) - slot.count)
            for slot in self._taking()
        )

    def busy(self) -> bool:
        """Whether each slot has nearly all the jobs that it may have."""
        ahead = self._durations.ahead()
        few = self._threads + ahead - ahead // REFILL
        taking = self._taking()
        return ahead >= REFILL and bool(taking) and all(slot.count >= few for slot in taking)

    def free(self) -> int:
        """How many jobs could begin at once."""
        return sum(max(0, self._threads - slot.count) for slot in self._taking())

    def place(self, claim: Claim, *, pressed: bool = False) -> Slot | None:
        """A slot for the job: where it begins soonest. None: there is no room for it now.

        Args:
            pressed: it was on its way to another slot: take it even if that makes one job too many.
        """
        best: Slot | None = None
        late = asyncio.get_running_loop().time() - RECALL_SECONDS
        for slot in self._slots.values():
            if slot.stopping or slot.recalled or not slot.process.up:
                continue
            count = len(slot.claims) + len(slot.reserved)
            if count >= self._threads and not self._may_wait(slot, claim, 2 if pressed else 1, late):
                continue
            if best is None or (count, slot.load) < (best.count, best.load):
                best = slot
        return best

    def _taking(self) -> list[Slot]:
        return [slot for slot in self._slots.values() if slot.process.up and not (slot.stopping or slot.recalled)]

    def _may_wait(self, slot: Slot, claim: Claim, most: int, late: float) -> bool:
        return (
            not (claim.alone or slot.is_held_up(self._threads, late))
            and claim.expected <= QUICK
            and slot.load + claim.expected <= AHEAD_SECONDS * most
            and slot.count < self._threads + AHEAD_JOBS * most
            and not math.isinf(slot.load)
        )

    # -- what a slot has

    def reserve(self, slot: Slot, claim: Claim) -> None:
        """The job will go there."""
        claim.slot = slot
        slot.reserved.add(claim)
        slot.load += math.inf if claim.alone else claim.expected

    def enter(self, claim: Claim) -> bool:
        """The job goes where it was to go. False: that slot does not take it any more."""
        slot: Slot | None = claim.slot
        if slot is None:
            return False
        slot.reserved.discard(claim)
        if slot.stopping or slot.recalled or not slot.process.alive:
            self._lighten(slot)
            claim.slot = None
            return False
        if not slot.claims:
            slot.moved = asyncio.get_running_loop().time()
        assert claim.frame is not None
        slot.claims[claim.frame.job] = claim
        return True

    def leave(self, claim: Claim) -> None:
        """It has ended, or does not go there after all."""
        slot: Slot | None = claim.slot
        if slot is None:
            return
        claim.slot = None
        slot.reserved.discard(claim)
        if claim.frame is not None and slot.claims.pop(claim.frame.job, None) is not None:
            slot.moved = asyncio.get_running_loop().time()
        if not math.isinf(slot.load):
            slot.load = max(0.0, slot.load - claim.expected)
        else:
            self._lighten(slot)
        if slot.stopping and not slot.count:
            slot.process.hurry()

    def _lighten(self, slot: Slot) -> None:
        slot.load = sum(
            math.inf if claim.alone else claim.expected for claim in (*slot.claims.values(), *slot.reserved)
        )

    def at_work(self, claim: Claim) -> bool:
        """Whether its slot has begun with it, and not only on paper."""
        slot: Slot | None = claim.slot
        if slot is None:
            return False
        for number, other in enumerate(slot.claims.values()):
            if number >= self._threads:
                return False
            if other is claim:
                return True
        return False

    def beginning(self, slot: Slot) -> list[Claim]:
        """The jobs that the slot is at."""
        return list(slot.claims.values())[: self._threads]

    def of(self, process: SlotProcess) -> Slot:
        """The slot of a process."""
        return self._slots[process]

    def slots(self) -> list[Slot]:
        """All of them."""
        return list(self._slots.values())

    # -- what waits too long

    def recall(self, slot: Slot) -> None:
        """Ask for what it has not begun."""
        if not slot.recalled and len(slot.claims) > self._threads:
            slot.recalled = True
            slot.process.send(wire.Recall())

    def recall_held_up(self) -> None:
        """Ask for what waits behind jobs that take longer than was expected."""
        late = asyncio.get_running_loop().time() - RECALL_SECONDS
        for slot in self._slots.values():
            if slot.is_held_up(self._threads, late):
                self.recall(slot)
