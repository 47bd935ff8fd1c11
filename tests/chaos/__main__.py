"""`make chaos`: random runs without end in sight, and what came of them. Exit code 1 when a promise was broken.

make chaos ARGS="--runs 1000 --seed 7 --minutes 30"
make chaos ARGS="--replay 700012 --times 20"     the plan of a run that failed, again
make chaos ARGS="--check FILE"                   the checker alone, on a history that was kept
make chaos ARGS="--jobs 5000 --minutes 5"        jobs of all kinds instead, asked for within so many minutes
make chaos ARGS="--cut 60"                       workers cut off from Postgres for so many seconds instead
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgweb.home import REPOSITORY
from tests import environment
from tests.chaos.checker import check
from tests.chaos.excerpt import excerpt
from tests.chaos.history import describe, load
from tests.chaos.jobs.campaign import campaign
from tests.chaos.jobs.cut import cut
from tests.chaos.plans import FAULTS, Features, plan
from tests.chaos.summary import summary
from tests.chaos.worlds import serve

SEEDS = 100_000  # runs of one --seed
EXCERPT_LINES = 80
STILL_LINES = 20


def main() -> int:
    """Read the command line and do what it says."""
    options = _options()
    try:
        if options.serve:
            asyncio.run(serve(options.keep, _features(options)))
            return 0
        if options.check:
            return _check(options.check)
        if options.cut:
            return 1 if cut(options.cut) else 0
        if options.jobs:
            return _jobs(options)
        keep = options.keep or Path(tempfile.mkdtemp(prefix="msgweb-chaos-failed-"))
        return asyncio.run(Campaign(options, keep).work())
    finally:
        shutil.rmtree(environment.HOME, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after so many minutes no run begins (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of all plans; default: the time")
    parser.add_argument("--worlds", type=int, default=3, help="so many installations side by side (default 3)")
    parser.add_argument("--replay", type=int, help="the plan of this run, --times times, in one world")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="kinds to draw from, by commas; empty: none")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first run that fails")
    parser.add_argument("--keep", type=Path, help="a folder for the histories of failed runs; default: a temporary one")
    parser.add_argument("--jobs", type=int, metavar="N", help="N jobs of all kinds, on workers that are killed")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two strikes at them (default 3)")
    parser.add_argument("--cut", type=float, metavar="SECONDS", help="cut workers off from Postgres, for so long")
    parser.add_argument("--check", type=Path, help="check a history that was kept")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _features(options: argparse.Namespace) -> Features:
    return Features(faults=tuple(kind for kind in options.faults.split(",") if kind))


def _jobs(options: argparse.Namespace) -> int:
    seed = int(time.time()) % SEEDS if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    result = campaign(options.jobs, options.minutes * 60, options.pause, seed)
    print(*result.wrong[:100], sep="\n")
    print(result.summary())
    return 1 if result.wrong else 0


def _check(path: Path) -> int:
    history = load(path)
    violations = check(history)
    for violation in violations:
        print(violation)
    if violations:
        print(*_lines(excerpt(history, violations[0])), sep="\n")
    print(f"{len(history)} events, {len(violations)} violations")
    return 1 if violations else 0


def _lines(history: list) -> Iterator[str]:  # type: ignore[type-arg]
    lines = list(describe(history))
    yield from lines[:EXCERPT_LINES]
    if len(lines) > EXCERPT_LINES:
        yield f"... and {len(lines) - EXCERPT_LINES} more"


class Campaign:
    """Many runs in worlds of their own processes, side by side."""

    def __init__(self, options: argparse.Namespace, keep: Path) -> None:
        self._options = options
        self._keep = keep
        self._counts: Counter[str] = Counter()
        self._failed: list[int] = []
        self._slowest = self._stood = 0.0
        self._begun = time.monotonic()
        base = int(time.time()) % SEEDS if options.seed is None else options.seed
        if options.replay is None:
            self._seeds = iter(range(base * SEEDS, base * SEEDS + options.runs))
        else:
            self._seeds = iter([options.replay] * options.times)
        self._seed = base

    async def work(self) -> int:
        """All of it; the exit code."""
        options = self._options
        worlds = 1 if options.replay is not None else max(1, options.worlds)
        if options.replay is None:
            print(f"seed {self._seed}; failed runs are kept in {self._keep}", flush=True)
        await asyncio.gather(*(self._world() for _ in range(worlds)))
        print(summary(self._counts, time.monotonic() - self._begun, self._slowest, self._stood, self._failed))
        return 1 if self._failed else 0

    def _next(self) -> int | None:
        if self._failed and not self._options.keep_going:
            return None
        if time.monotonic() - self._begun > self._options.minutes * 60:
            return None
        return next(self._seeds, None)

    async def _world(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos", "--serve", "--keep", str(self._keep)),
            *("--faults", self._options.faults),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        while (seed := self._next()) is not None:
            process.stdin.write(b"%d\n" % seed)
            line = await process.stdout.readline()
            if not line:
                print(f"the world of run {seed} fell apart; its own words are above", flush=True)
                self._failed.append(seed)
                break
            self._report(json.loads(line))
        process.stdin.close()
        await process.wait()

    def _report(self, result: dict) -> None:  # type: ignore[type-arg]
        self._counts.update(result["counts"])
        self._slowest = max(self._slowest, result["drained"])
        self._stood = max(self._stood, result["stood"])
        if result["still"]:
            print(f"\nRun {result['seed']} stood still while it ran empty")
            print(*(f"  {text}" for text in result["still"][:STILL_LINES]), sep="\n", flush=True)
        if result["violations"]:
            self._failed.append(result["seed"])
            print(f'\nRun {result["seed"]} FAILED. Again: make chaos ARGS="--replay {result["seed"]} --times 20"')
            print(f"  {plan(result['seed'], _features(self._options)).describe()}")
            print(*(f"  {text}" for text in result["violations"][:10]), sep="\n")
            if result["history"]:
                history = load(Path(result["history"]))
                broken = check(history)
                if broken:
                    print(*_lines(excerpt(history, broken[0])), sep="\n")
                print(f"  The whole of it: {result['history']}", flush=True)
        elif self._counts["runs"] % 50 == 0:
            minutes = (time.monotonic() - self._begun) / 60
            print(
                f"{self._counts['runs']} runs, {self._counts['operations']} operations, {minutes:.1f} min", flush=True
            )


if __name__ == "__main__":
    sys.exit(main())
