"""The messages of a run: what they are called, what lane they are in, what their bodies say."""

import random
from collections import defaultdict
from typing import Any

from tests.chaos.plans import QueuePlan


class Numbers:
    """The messages of one producer: each lane's are numbered."""

    def __init__(self, producer: str, chance: random.Random) -> None:
        self.producer = producer
        self._chance = chance
        self._next: dict[str, int] = defaultdict(int)

    def draw(self, queue: QueuePlan) -> dict[str, Any]:
        """The next message for a queue: what `Client.send` wants to know of it."""
        priority = self._chance.choice(queue.priorities)
        group = f"g{self._chance.randrange(queue.groups)}" if queue.groups else None
        turn = self._chance.randrange(2) if queue.selective else None
        lane = f"{queue.name}/{priority if group is None else group}"
        if turn is not None and group is None:  # a selector takes some before others that come first
            lane += f"t{turn}"
        self._next[lane] += 1
        number = self._next[lane]
        return {
            "message": f"{self.producer}:{lane}:{number}",
            "producer": self.producer,
            "queue": queue.name,
            "lane": lane,
            "number": number,
            "priority": priority,
            "group": group,
            "turn": turn,
        }


def body_of(message: str, size: int) -> bytes:
    """A body that names its message and shows whether it is whole."""
    return f"{message} {size} ".encode() + b"." * size


def message_of(body: bytes) -> str:
    """The message that a body names; all of the body where it is not whole."""
    name, _, rest = body.partition(b" ")
    size, _, filling = rest.partition(b" ")
    if size.isdigit() and filling == b"." * int(size):
        return name.decode(errors="replace")
    return repr(body[:200])
