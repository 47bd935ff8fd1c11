"""Runs one after the other in a world, in a process of their own: seeds come in by lines, results go out by lines."""

import asyncio
import contextlib
import json
import random
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.chaos.history import save
from tests.chaos.plans import Features, plan
from tests.chaos.runner import Run
from tests.chaos.world import World

RUN_SECONDS = 240.0  # a deadline for a loaded machine, not an expectation
WORLD_RUNS = 60  # then a fresh one: nothing that a run left behind is without end


async def serve(keep: Path, features: Features) -> None:
    """Until the input ends."""
    loop = asyncio.get_running_loop()
    number = 0
    async with contextlib.AsyncExitStack() as stack:
        world: World | None = None
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            seed = int(line)
            if world is None or number % WORLD_RUNS == 0:
                await stack.aclose()
                world = await stack.enter_async_context(_world(seed))
            number += 1
            answer = await one_run(seed, number, world, features, keep)
            if answer.pop("broken"):
                world = None
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _world(seed: int) -> World:
    """A world with lease and grace drawn by chance."""
    chance = random.Random(f"{seed}/world")
    return World(lease=chance.choice((1.0, 2.0, 4.0)), grace=chance.choice((0.5, 1.0, 3.0)))


async def one_run(seed: int, number: int, world: World, features: Features, keep: Path) -> dict[str, Any]:
    """A run's result as the campaign reads it; what failed is kept, with the gateways' logs."""
    before = dict(world.kills)
    answer: dict[str, Any] = {
        "seed": seed,
        "counts": {},
        "violations": [],
        "history": None,
        "broken": False,
        "drained": 0.0,
        "stood": 0.0,
        "still": [],
    }
    run = Run(plan(seed, features), world, number)
    try:
        async with asyncio.timeout(RUN_SECONDS):
            result = await run.work()
    except Exception:  # noqa: BLE001 -- a run that cannot end is a failure like others
        answer["violations"] = [f"the run broke:\n{traceback.format_exc()}"]
        answer["broken"] = True
        events = [*run.recorder.events, *world.events]
    else:
        kills = {kind: count - before.get(kind, 0) for kind, count in world.kills.items()}
        answer["counts"] = {**result.counts, **{f"kill {kind}": count for kind, count in kills.items() if count}}
        answer["violations"] = [str(violation) for violation in result.violations]
        answer["drained"] = result.drained
        answer["stood"] = result.stood
        answer["still"] = result.still
        events = result.events
    if answer["violations"]:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / f"{seed}.{number}.jsonl"
        save(events, path)
        answer["history"] = str(path)
        for log in world.home.glob("*.log"):
            (keep / f"{seed}.{number}.{log.name}").write_text(log.read_text(errors="replace")[-200_000:])
    return answer
