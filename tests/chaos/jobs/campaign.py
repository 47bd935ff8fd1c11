"""Asks for jobs, strikes at those who do them, waits until all have ended."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from msgweb.home import REPOSITORY
from tests.chaos.jobs.audit import audit, runs
from tests.chaos.jobs.kinds import KINDS
from tests.installation import Installation
from tests.mortal import Mortal

BATCH = 50  # jobs in one transaction
LEASE = 2.0
DRAIN_SECONDS = 180.0  # a deadline for a loaded machine, not an expectation
WORKERS = {"worker": ("--slots", "2"), "worker2": ("--slots", "1", "--threads", "3"), "worker3": ("--slots", "2")}
#: What may happen, and how often in proportion.
STRIKES = {
    "slot-kill": 8,
    "main-kill": 3,
    "supervisor-kill": 3,
    "worker-kill": 3,
    "worker-term": 3,
    "supervisor-freeze": 2,
    "backend-kill": 3,
    "postgres-kill": 1,
}
_ASK = """
import json, random, sys
import django
django.setup()
from django.db import transaction
from apps.jobs.submit import submit
namespace, jobs = sys.argv[1], json.loads(sys.argv[2])
with transaction.atomic():
    for name, arguments in jobs:
        submit(namespace, f"chaos.{name}", arguments, reply_to="answers")
"""
_CANCEL = """
import sys, uuid
import django
django.setup()
from apps.jobs.control import cancel
from msgweb.errors import Conflict
try:
    cancel(uuid.UUID(sys.argv[1]), "chaos")
except Conflict:
    pass
"""


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        states: how many jobs ended in each.
        begun: how often jobs were begun.
        strikes: what was done.
        wrong: what should not be.
    """

    jobs: int
    seconds: float
    states: dict[str, int] = field(default_factory=dict)
    begun: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """For people."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        strikes = ", ".join(f"{count} {kind}" for kind, count in sorted(self.strikes.items()))
        return (
            f"{self.jobs} jobs in {self.seconds:.0f} s: {states}; begun {self.begun} times\n"
            f"strikes: {strikes or 'none'}\n"
            f"wrong: {len(self.wrong)}"
        )


class Campaign:
    """One installation, and what is done to it."""

    def __init__(self, installation: Installation, postgres: Mortal, folder: Path, seed: int) -> None:
        self._installation = installation
        self._postgres = postgres
        self._folder = folder
        self._chance = random.Random(seed)
        self._namespace = installation.credentials["stomp"]["namespace"]
        self._asking: list[subprocess.Popen[bytes]] = []
        self._asked = 0
        self._cancelled: set[str] = set()
        self._strikes: Counter[str] = Counter()

    def work(self, jobs: int, seconds: float, pause: float) -> Result:
        """Ask for so many jobs within so many seconds, strike every `pause` seconds or so, wait for the end, and look.

        Raises:
            AssertionError: the jobs could not be asked for, or a worker does not start.
        """
        begun = time.monotonic()
        for name, arguments in WORKERS.items():
            self._start(name, arguments)
        struck = begun
        while self._asked < jobs or any(one.poll() is None for one in self._asking):
            share = min(1.0, (time.monotonic() - begun) / seconds)
            if self._asked < jobs and self._asked <= jobs * share and len(self._busy()) < 2:
                self._ask(min(BATCH, jobs - self._asked))
            if time.monotonic() - struck > pause * self._chance.uniform(0.5, 1.5):
                self._strike()
                struck = time.monotonic()
            time.sleep(0.02)
        failed = [one.returncode for one in self._asking if one.returncode]
        for name, arguments in WORKERS.items():
            if not self._installation.running(name):
                self._start(name, arguments)
        result = Result(self._asked, 0.0, strikes=self._strikes)
        if not self._wait_for_the_end():
            result.wrong.append("some jobs have not ended")
        result.seconds = time.monotonic() - begun
        result.states = dict(self._query("SELECT state, count(*) FROM jobs_job GROUP BY state"))
        result.begun = sum(what == "begin" for wrote in runs(self._folder).values() for what, _ in wrote)
        if failed:  # a batch is all or nothing: Postgres was killed under it
            self._asked = self._query("SELECT count(*) FROM jobs_job")[0][0]
            result.jobs = self._asked
        result.wrong += audit(self._query, self._folder, self._asked, self._cancelled)
        return result

    # -- jobs

    def _busy(self) -> list["subprocess.Popen[bytes]"]:
        return [one for one in self._asking if one.poll() is None]

    def _ask(self, count: int) -> None:
        names = self._chance.choices(list(KINDS), [kind.weight for kind in KINDS.values()], k=count)
        jobs = []
        for name in names:
            self._asked += 1
            seconds = KINDS[name].seconds
            seconds = seconds if name == "endless" else seconds * self._chance.random()
            jobs.append((name, {"number": self._asked, "seconds": seconds}))
        self._asking.append(self._python(_ASK, self._namespace, json.dumps(jobs)))

    def _cancel(self) -> None:
        with contextlib.suppress(psycopg.Error):
            rows = self._query(
                "SELECT id::text FROM jobs_job WHERE state IN ('ready', 'running') ORDER BY random() LIMIT 1"
            )
            for (job,) in rows:
                self._cancelled.add(job)
                self._asking.append(self._python(_CANCEL, job))

    def _python(self, code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=REPOSITORY,
            env={**self._installation.env, "DJANGO_SETTINGS_MODULE": "msgweb.settings", "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
        )

    # -- strikes

    def _start(self, name: str, arguments: tuple[str, ...]) -> None:
        self._installation.start(name, arguments=("--queue", "chaos", "--cancel-grace", "0.5", *arguments))

    def _strike(self) -> None:
        name = self._chance.choice([name for name in WORKERS if self._installation.running(name)])
        kind = self._chance.choices(list(STRIKES), list(STRIKES.values()))[0]
        main = self._installation.pid(name)
        supervisor, slots = family(main)
        match kind:
            case "slot-kill":
                _kill(slots[:1])
            case "main-kill":
                _kill([main])
            case "supervisor-kill":
                _kill([supervisor])
            case "worker-kill":
                _kill([main, supervisor, *slots])
            case "worker-term":
                os.kill(main, signal.SIGTERM)
                os.kill(main, self._chance.choice([signal.SIGTERM, signal.SIGCONT]))
            case "supervisor-freeze":
                self._freeze(supervisor)
            case "backend-kill":
                self._kill_backends()
            case "postgres-kill":
                self._postgres.kill()
        self._strikes[kind] += 1
        if kind in ("main-kill", "supervisor-kill", "worker-kill", "worker-term"):
            self._installation.wait(name, DRAIN_SECONDS)
            self._start(name, WORKERS[name])
        self._cancel()

    def _freeze(self, pid: int) -> None:
        """Stop it for about as long as it takes to count as dead, and let it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(LEASE * self._chance.uniform(0.2, 2.5))
            os.kill(pid, signal.SIGCONT)

    def _kill_backends(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'msgweb worker%%' AND random() < 0.5"
            )

    # -- the end

    def _wait_for_the_end(self) -> bool:
        deadline = time.monotonic() + DRAIN_SECONDS
        open_jobs = "SELECT count(*) FROM jobs_job WHERE state IN ('scheduled', 'ready', 'running', 'waiting')"
        messages = (
            "SELECT count(*) FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination"
            " WHERE d.name = 'chaos'"
        )
        while time.monotonic() < deadline:
            if self._query(open_jobs) == [(0,)] and self._query(messages) == [(0,)]:
                return True
            time.sleep(0.1)
        return False

    def _query(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        return self._installation.query(statement, parameters)


def family(main: int) -> tuple[int, list[int]]:
    """The supervisor of a worker, which is its main process's first child, and its slots."""
    found = subprocess.run(
        ["ps", "-o", "pid=,sid=", "--ppid", str(main), "--sort", "start_time"],
        capture_output=True,
        text=True,
        check=False,
    )
    pids = [tuple(map(int, line.split())) for line in found.stdout.splitlines()]
    slots = [pid for pid, session in pids if pid == session]  # each leads a session of its own
    return next((pid for pid, session in pids if pid != session), 0), slots


def _kill(pids: list[int]) -> None:
    for pid in pids:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def installation() -> Iterator[Callable[[int], Campaign]]:
    """An installation on a Postgres of its own; call it with a seed."""
    with Mortal.prepared() as postgres, tempfile.TemporaryDirectory(prefix="msgweb-chaos-jobs-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        credentials = json.loads((postgres.home / "credentials.json").read_text())
        place = Installation(home, postgres.conninfo, credentials)
        place.env.update(
            MSGWEB_TASK_MODULES="tests.chaos.jobs.kinds", MSGWEB_LEASE_SECONDS=str(LEASE), CHAOS_FOLDER=folder
        )
        try:
            yield lambda seed: Campaign(place, postgres, Path(folder), seed)
        finally:
            place.close()


def campaign(jobs: int, seconds: float, pause: float, seed: int) -> Result:
    """All of it."""
    with installation() as made:
        return made(seed).work(jobs, seconds, pause)
