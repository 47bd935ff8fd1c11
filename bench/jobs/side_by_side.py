"""Msgweb's jobs and those of its peers, in turns, on one Postgres and one RabbitMQ; and a table.

Each peer has an environment of its own under `MSGWEB_HOME/bench`, made when it is first measured. What cannot be
measured is told in a line, and the others go on.
"""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.brokers import BenchError, Broker, Installation, installation, rabbitmq, why_no_rabbitmq
from msgweb.home import home

FOLDER = Path(__file__).parent
RUN_SECONDS = 600

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool, in one of the ways to run it.

    Attributes:
        packages: for its environment; none: Msgweb's own.
        settings: of its module.
        scenarios: of what it is measured in this way; empty: of all.
        quick: it does as many jobs in a run as Msgweb.
        broker: it needs RabbitMQ.
        python: the version that it needs at least.
        npm: what Node needs for it.
    """

    title: str
    module: str
    packages: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    scenarios: tuple[str, ...] = ()
    quick: bool = False
    broker: bool = False
    python: tuple[int, int] = (3, 11)
    npm: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its environment and its database."""
        return self.module.removesuffix("_app")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of jobbench's.

    Attributes:
        arguments: its options; `{n}` is the number of jobs.
        jobs: unless the caller says otherwise.
        slow: of the number for tools that are not quick, one in so many.
        shown: figures, and how the table calls them.
    """

    command: str
    arguments: tuple[str, ...]
    shown: tuple[tuple[str, str], ...]
    jobs: int = 0
    slow: int = 1


CELERY = ("celery", "sqlalchemy", "psycopg2-binary", "psycopg[binary]")
PGQUEUER = ("pgqueuer", "psycopg[binary,pool]")
BURN = ("jobs-burn",)
PEERS = (
    Peer("Msgweb", "msgweb_app", quick=True),
    Peer("Msgweb, coroutines", "msgweb_app", (), {"MSGWEB_ASYNC": "1", "MSGWEB_THREADS": "100"}, BURN, quick=True),
    Peer("Celery", "celery_app", CELERY, {"CELERY_LATE": "1"}, broker=True),
    Peer("Celery, no results", "celery_app", CELERY, {"CELERY_LATE": "1", "CELERY_RESULTS": "0"}, BURN, broker=True),
    Peer("dramatiq, no results", "dramatiq_app", ("dramatiq[rabbitmq]", "psycopg[binary]"), quick=True, broker=True),
    Peer("procrastinate", "procrastinate_app", ("procrastinate", "psycopg[binary]")),
    Peer("django-tasks-db", "djtasks_app", ("django==5.2.*", "django-tasks", "django-tasks-db", "psycopg[binary]")),
    Peer("django-ox", "djox_app", ("django-ox", "psycopg[binary]"), python=(3, 12)),
    Peer("chancy", "chancy_app", ("chancy", "click", "psycopg[binary]")),
    Peer("pgqueuer", "pgqueuer_app", PGQUEUER, {"PGQUEUER_DRIVER": "psycopg"}, quick=True),
    Peer(
        "pgqueuer, by 100",
        "pgqueuer_app",
        PGQUEUER,
        {"PGQUEUER_DRIVER": "psycopg", "PGQUEUER_BATCH": "100"},
        BURN,
        True,
    ),
    Peer("graphile-worker", "graphile_app", ("psycopg[binary]",), npm=("graphile-worker",)),
    Peer(
        "graphile-worker, tuned",
        "graphile_app",
        ("psycopg[binary]",),
        {"GRAPHILE_CONCURRENCY": "10", "GRAPHILE_LOCAL_QUEUE": "500"},
        BURN,
        quick=True,
        npm=("graphile-worker",),
    ),
)
SCENARIOS = {
    "jobs-burn": Scenario(
        "burn",
        ("-n", "{n}"),
        (("jobs_per_s", "jobs/s"), ("worker_cpu_us", "worker µs"), ("server_cpu_us", "Postgres µs")),
        jobs=40_000,
        slow=16,
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


def environment(peer: Peer) -> tuple[str, dict[str, str]]:
    """The Python of a peer, and what its processes' environment is to have; made if it is missing.

    Raises:
        BenchError: it cannot be installed.
    """
    if not peer.packages:
        return sys.executable, {}
    folder = home() / "bench" / peer.name
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        commands = [
            [_python(peer), "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages],
        ]
        if peer.npm:
            if not shutil.which("npm"):
                raise BenchError(f"{peer.title} is not in the table: it needs Node and npm")
            commands.append(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *peer.npm])
        for command in commands:
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                raise BenchError(f"{peer.title} cannot be installed: {made.stderr.strip()[-500:]}")
        done.touch()
    return str(python), {"NODE_MODULES": str(folder)} if peer.npm else {}


def _python(peer: Peer) -> str:
    """An interpreter that is new enough.

    Raises:
        BenchError: there is none.
    """
    if sys.version_info >= peer.python:
        return sys.executable
    named = [f"python3.{minor}" for minor in range(peer.python[1], peer.python[1] + 4)]
    found = [path for name in named if (path := shutil.which(name))]
    found += map(str, Path.home().glob(f".pyenv/versions/{peer.python[0]}.{peer.python[1]}*/bin/python"))
    for candidate in found:
        if not subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode:
            return candidate
    raise BenchError(f"{peer.title} is not in the table: it needs Python {peer.python[0]}.{peer.python[1]} or newer")


def measure(
    place: Installation, rabbitmq: Broker | None, peer: Peer, scenario: Scenario, runs: int, jobs: int | None
) -> list[Figures]:
    """The figures of each run.

    Raises:
        BenchError: a run failed, or something is missing for it.
    """
    python, more = environment(peer)
    count = jobs or scenario.jobs
    if not peer.quick:
        count //= scenario.slow
    arguments = [one.replace("{n}", str(count)) for one in scenario.arguments]
    env = {**place.env, **peer.settings, **more}
    if peer.packages:
        env["DATABASE_URL"] = _database(place, peer)
    if peer.broker:
        if rabbitmq is None:
            raise BenchError(f"{peer.title} is not in the table: {why_no_rabbitmq()}")
        env["BROKER_URL"] = f"amqp://{rabbitmq.login}:{rabbitmq.passcode}@127.0.0.1:{rabbitmq.amqp}//"
        env["BROKER_PID"] = str(rabbitmq.pids["rabbitmq"])
    ended = subprocess.run(
        [python, "jobbench.py", peer.module, scenario.command, "--runs", str(runs), *arguments],
        cwd=FOLDER,
        env=env,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    if ended.returncode:
        raise BenchError(f"{peer.title}, {scenario.command}: {ended.stderr.strip()[-500:]}")
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def _database(place: Installation, peer: Peer) -> str:
    """The URL of a peer's own database on the same server, made if it is missing."""
    name = "bench_" + peer.name
    with psycopg.connect(make_conninfo(place.conninfo, dbname="postgres"), autocommit=True) as admin:
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    known = conninfo_to_dict(place.conninfo)
    return f"postgresql://{known['user']}@/{name}?host={quote(str(known['host']), safe='/')}&port={known['port']}"


def compare(names: Sequence[str], runs: int, jobs: int | None, *, tools: Sequence[str] | None, as_json: bool) -> int:
    """Measure, and print; 1 if something could not be measured.

    Args:
        tools: which (`Peer.name`); None: all.
    """
    wrong = 0
    peers = [peer for peer in PEERS if tools is None or peer.name in tools]
    with ExitStack() as stack:
        place = stack.enter_context(installation())
        broker = None
        if any(peer.broker for peer in peers) and why_no_rabbitmq() is None:
            broker = stack.enter_context(rabbitmq())
        for name in names:
            scenario = SCENARIOS[name]
            results: dict[str, list[Figures]] = {}
            for peer in peers:
                if peer.scenarios and name not in peer.scenarios:
                    continue
                try:
                    results[peer.title] = measure(place, broker, peer, scenario, runs, jobs)
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
