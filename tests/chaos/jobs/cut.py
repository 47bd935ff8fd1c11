"""Workers cut off from Postgres for a minute, in real time and with the usual lease: one for each point of a job's life
and each kind of task."""

import contextlib
import json
import tempfile
import time
from pathlib import Path

from tests.cable import Cable
from tests.installation import Installation
from tests.lifepoints import CUT_POINTS, ENVIRONMENT, TASKS, CutOff
from tests.mortal import Mortal
from tests.working import Jobs

LEASE_SECONDS = 15.0


def cut(seconds: float) -> int:
    """Cut each of them off for so long, print what became of the jobs; how many went wrong.

    Raises:
        AssertionError: a worker does not start.
    """
    wrong = 0
    with Mortal.prepared() as postgres, contextlib.ExitStack() as closing:
        credentials = json.loads((postgres.home / "credentials.json").read_text())
        for task in TASKS:
            cases = {}
            for point in CUT_POINTS:
                home = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="msgweb-cut-")))
                (home / "jobs").mkdir()
                (home / "home").mkdir()
                database = postgres.copied(f"{task}-{point}")
                installation = Installation(home / "home", database, credentials)
                closing.callback(installation.close)
                installation.env.update(ENVIRONMENT)
                installation.env["MSGWEB_LEASE_SECONDS"] = str(LEASE_SECONDS)
                cable = Cable(database)
                closing.callback(cable.close)
                jobs = Jobs(installation, home / "jobs")
                cases[point] = CutOff(jobs, cable, point, task)
            wrong += _cut(task, cases, seconds)
            closing.pop_all().close()
    return wrong


def _cut(task: str, cases: dict[str, CutOff], seconds: float) -> int:
    since, taken = {}, {}
    for point, case in cases.items():
        case.cut()
        since[point] = case.cut_at
    wrong = 0
    while (now := time.monotonic()) < max(since.values()) + seconds:
        for point, case in cases.items():
            if point not in taken and case.is_taken_up():
                taken[point] = now - since[point]
        time.sleep(0.1)
    for point, case in cases.items():
        after = f"after {taken[point]:.1f} s" if point in taken else "never"
        try:
            case.mend()
            became = case.check()
        except AssertionError as error:
            wrong += 1
            became = f"WRONG: {error}"
        print(f"{task:13} {point:9} taken up {after}; {became}", flush=True)
    return wrong
