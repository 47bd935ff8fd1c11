"""Msgweb's jobs and those of the peers that can be installed, in turns, on one Postgres; and a table.

Each peer has a virtual environment of its own under `MSGWEB_HOME/bench`, made when it is first measured.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench.brokers import BenchError, Installation, installation
from msgweb.home import home

FOLDER = Path(__file__).parent
RUN_SECONDS = 600

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool.

    Attributes:
        packages: for its environment; none: Msgweb's own.
        settings: of its module.
    """

    title: str
    module: str
    packages: tuple[str, ...] = ()
    settings: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of jobbench's.

    Attributes:
        arguments: its options; `{n}` is the number of jobs.
        jobs: unless the caller says otherwise.
        slow: of the number for peers, one in so many.
        shown: figures, and how the table calls them.
    """

    command: str
    arguments: tuple[str, ...]
    shown: tuple[tuple[str, str], ...]
    jobs: int = 0
    slow: int = 1


PEERS = (
    Peer("Msgweb", "msgweb_app"),
    Peer("procrastinate", "procrastinate_app", ("procrastinate", "psycopg[binary]")),
    Peer("django-tasks-db", "djtasks_app", ("django==5.2.*", "django-tasks", "django-tasks-db", "psycopg[binary]")),
    Peer("pgqueuer", "pgqueuer_app", ("pgqueuer", "psycopg[binary,pool]"), {"PGQUEUER_DRIVER": "psycopg"}),
)
SCENARIOS = {
    "jobs-burn": Scenario(
        "burn",
        ("-n", "{n}"),
        (("jobs_per_s", "jobs/s"), ("worker_cpu_us", "worker µs"), ("server_cpu_us", "Postgres µs")),
        jobs=40_000,
        slow=8,
    ),
    "jobs-paced": Scenario("paced", ("--rate", "100", "--seconds", "10"), (("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"))),
    "jobs-enqueue": Scenario(
        "enqueue",
        ("-n", "{n}"),
        (("one_by_one.per_s", "one by one /s"), ("bulk.per_s", "in bulk /s")),
        jobs=4_000,
    ),
    "jobs-kill": Scenario("kill", ("--patience", "40"), (("again_after_s", "runs again after s"),)),
    "jobs-kill-slot": Scenario("kill", ("--child", "--patience", "40"), (("again_after_s", "runs again after s"),)),
    "jobs-term": Scenario(
        "term",
        ("--group", "--patience", "10"),
        (("ended_before_exit", "done before exit"), ("again_after_s", "repeated after s")),
    ),
    "jobs-idle": Scenario("idle", ("--seconds", "10"), (("pss_mib", "PSS MiB"), ("processes", "processes"))),
}


def environment(peer: Peer) -> str:
    """The Python of a peer, made if it is missing.

    Raises:
        BenchError: it cannot be installed.
    """
    if not peer.packages:
        return sys.executable
    folder = home() / "bench" / peer.title
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages],
        ):
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                raise BenchError(f"{peer.title} cannot be installed: {made.stderr.strip()[-500:]}")
        done.touch()
    return str(python)


def measure(place: Installation, peer: Peer, scenario: Scenario, runs: int, jobs: int | None) -> list[Figures]:
    """The figures of each run.

    Raises:
        BenchError: a run failed.
    """
    count = jobs or scenario.jobs // (scenario.slow if peer.packages else 1)
    arguments = [one.replace("{n}", str(count)) for one in scenario.arguments]
    env = {**place.env, **(peer.settings or {})}
    if peer.packages:
        env["DATABASE_URL"] = _database(place, peer)
    ended = subprocess.run(
        [environment(peer), "jobbench.py", peer.module, scenario.command, "--runs", str(runs), *arguments],
        cwd=FOLDER,
        env=env,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    if ended.returncode:
        raise BenchError(f"{peer.title}, {scenario.command}: {ended.stderr.strip()[-500:]}")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _database(place: Installation, peer: Peer) -> str:
    """An own database of a peer on the same server, made if it is missing."""
    name = "bench_" + peer.module.removesuffix("_app")
    with psycopg.connect(make_conninfo(place.conninfo, dbname="postgres"), autocommit=True) as admin:
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(place.conninfo, dbname=name)


def compare(names: Sequence[str], runs: int, jobs: int | None, *, ours_only: bool, as_json: bool) -> int:
    """Measure, and print; 1 if something could not be measured."""
    wrong = 0
    with installation() as place:
        for name in names:
            scenario = SCENARIOS[name]
            results: dict[str, list[Figures]] = {}
            for peer in PEERS[:1] if ours_only else PEERS:
                try:
                    results[peer.title] = measure(place, peer, scenario, runs, jobs)
                except (BenchError, subprocess.TimeoutExpired, OSError) as error:
                    print(f"  {name}: {error}", file=sys.stderr)
                    wrong = 1
                else:
                    print(f"  {name}: {peer.title} done", file=sys.stderr, flush=True)
            print(json.dumps({name: results}) if as_json else table(name, scenario, results), flush=True)
    return wrong


def table(name: str, scenario: Scenario, results: Mapping[str, Sequence[Figures]]) -> str:
    """In Markdown; medians, with minimum and maximum where there are several runs."""
    lines = [[name, *(title for _, title in scenario.shown)], ["---", *("---:" for _ in scenario.shown)]]
    lines += [[peer, *(_cell(runs, key) for key, _ in scenario.shown)] for peer, runs in results.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def _cell(runs: Sequence[Figures], key: str) -> str:
    values = [value for run in runs if isinstance(value := _figure(run, key), int | float)]
    if not values:
        return "never"
    middle = f"{statistics.median(values):,.6g}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.6g}-{max(values):,.6g})"


def _figure(run: Figures, key: str) -> Any:
    found: Any = run
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
