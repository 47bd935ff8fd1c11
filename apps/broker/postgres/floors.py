"""Where in a queue a claim begins to look: behind what was taken before, but not quite.

Without floors each claim would walk over the dead index entries of all that was taken before, which nothing can remove
while some old transaction is open. Whoever makes something ready below a floor says so, and it is lowered.

But that word may arrive later than the next claim. A message gets its place while its transaction runs: one that is
committed late lies below what others committed meanwhile, and its sender's next message lies above. So claims begin at
the floor of some moments ago, by when a short transaction has ended and its notification has come.

While a claim is under way, such words go on arriving, in a busy queue without a pause. What the claim brings lifts the
floors all the same, up to the lowest place that was named meanwhile: floors that stayed where they were would make the
next claim longer, and the more words arrive during it.
"""

from collections.abc import Iterable

UNNAMED = 2**63 - 1  # above every place
LAG = 0.025  # seconds; claims begin at a floor that is one to two times as old


class Floors:
    """For each of some lanes a place up to which nothing is ready, by what this process knows."""

    __slots__ = ("_named", "_older", "_oldest", "_turned", "highest")

    def __init__(self, lanes: Iterable[int]) -> None:
        self.highest = dict.fromkeys(lanes, 0)
        self._older = dict(self.highest)
        self._oldest = dict(self.highest)
        self._named = UNNAMED  # the lowest place that was named since the claim under way was begun
        self._turned = 0.0

    def lower(self, floor: int) -> None:
        """Something may be ready behind that place, in any lane."""
        self._named = min(self._named, floor)
        for floors in (self.highest, self._older, self._oldest):
            for lane, known in floors.items():
                if known > floor:
                    floors[lane] = floor

    def reaches(self, place: int) -> bool:
        """Whether something at or below that place may have become ready behind the back of the claim under way."""
        return place > self._named

    def lift(self, lane: int, place: int) -> None:
        """Everything up to there was taken, or looked at, by the claim that was begun last."""
        place = min(place, self._named)
        if place > self.highest[lane]:
            self.highest[lane] = place

    def start(self, now: float, *, far: bool = False) -> list[int]:
        """Where a claim is to begin in each lane; one is under way at a time.

        Args:
            now: seconds, of a clock that does not go back.
            far: not that of some moments ago but where the last claim ended. What is found so must have been written
                some time ago: then nothing that its sender sent before comes late.
        """
        self._named = UNNAMED
        if now - self._turned >= LAG:
            self._oldest, self._older = self._older, dict(self.highest)
            self._turned = now
        return list((self.highest if far else self._oldest).values())
