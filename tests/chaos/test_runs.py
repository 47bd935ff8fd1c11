"""A short run of what `make chaos` does at length: whole installations, random clients, kills, and the checker."""

import asyncio
import time
from collections import Counter

import pytest

from tests.chaos.excerpt import excerpt
from tests.chaos.history import describe
from tests.chaos.plans import Features, plan
from tests.chaos.runner import Run
from tests.chaos.summary import summary
from tests.chaos.world import World

SEED = 1_000  # always the same plans; what the machine makes of them differs
SECONDS = 20.0  # after that no run begins
RUNS = 5  # at least


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_runs_with_kills_break_no_promise() -> None:
    """Fails with the seed, the plan and the excerpt that shows it; `make chaos ARGS="--replay SEED --times 20"`."""
    counts = asyncio.run(_runs())
    assert counts["operations"] > 1_000, summary(counts, SECONDS, 0, 0, [])


async def _runs() -> Counter[str]:
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    async with World(grace=0.5) as world:
        number = 0
        while number < RUNS or time.monotonic() - begun < SECONDS:
            one = plan(SEED + number, Features())
            result = await Run(one, world, number).work()
            counts += result.counts
            shown = ""
            for violation in result.violations[:1]:
                shown = "\n".join([one.describe(), *describe(excerpt(result.events, violation))])
            assert not result.violations, "\n".join([*map(str, result.violations[:10]), shown])
            number += 1
    return counts
