"""Jobs of an installation, as a test asks for them, watches them and lets them go on; and the workers that do them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tests.sample_tasks  # noqa: F401 -- what most of them ask for
from apps.jobs import registry
from apps.jobs.asking import Ask, encoded, request_of
from apps.jobs.errors import UnknownTask
from apps.jobs.queries import query
from msgweb.home import REPOSITORY
from tests.installation import Installation, until

SECONDS = 30.0  # a deadline for a loaded machine, not an expectation
ENDED = ("succeeded", "failed", "cancelled")


class Jobs:
    """Asks an installation for jobs and watches them."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.installation = installation
        self.folder = folder
        self.namespace = installation.credentials["stomp"]["namespace"]

    def ask(self, task: str, reply_to: str = "", **arguments: Any) -> str:
        """Ask for a job; its id. By the statement that `submit` sends, of which Django need not be started anew."""
        try:
            declared = registry.find(task)
        except UnknownTask:
            return self.ask_elsewhere(task, reply_to, **arguments)
        request = request_of(declared, self.namespace, arguments, Ask(reply_to=reply_to or None))
        (job, _, _), *_ = self.installation.query(query("enqueue"), {"request": encoded(request)})
        return str(job)

    def ask_elsewhere(self, task: str, reply_to: str = "", **arguments: Any) -> str:
        """The same in a process of its own, as an application would: of tasks that are not loaded here."""
        code = (
            "import json, sys\n"
            "import django\n"
            "django.setup()\n"
            "from apps.jobs.submit import submit\n"
            "namespace, task, arguments, reply_to = sys.argv[1:]\n"
            "print(submit(namespace, task, json.loads(arguments), reply_to=reply_to or None).id)\n"
        )
        return self.python(code, self.namespace, task, json.dumps(arguments), reply_to)

    def ask_many(self, task: str, count: int, **arguments: Any) -> None:
        """Ask for many jobs at once, which take no arguments or the same."""
        code = (
            "import json, sys\n"
            "import django\n"
            "django.setup()\n"
            "from django.db import transaction\n"
            "from apps.jobs.submit import submit\n"
            "namespace, task, count, arguments = sys.argv[1:]\n"
            "with transaction.atomic():\n"
            "    for _ in range(int(count)):\n"
            "        submit(namespace, task, json.loads(arguments))\n"
        )
        self.python(code, self.namespace, task, str(count), json.dumps(arguments))

    def cancel(self, job: str) -> None:
        """Cancel a job in a process of its own."""
        code = (
            "import sys, uuid\n"
            "import django\n"
            "django.setup()\n"
            "from apps.jobs.control import cancel\n"
            "cancel(uuid.UUID(sys.argv[1]), 'the test')\n"
        )
        self.python(code, job)

    def hold(self, polite: bool = True) -> str:
        """A job that has begun and waits for `go`."""
        job = self.ask("samples.hold", folder=str(self.folder), polite=polite)
        self.until(lambda: self.begun(), "the job begins")
        return job

    def begun(self) -> list[list[int]]:
        """Attempt and process id of each time that a holding job began."""
        try:
            text = (self.folder / "begun").read_text()
        except FileNotFoundError:
            return []
        return [[int(word) for word in line.split()] for line in text.splitlines()]

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL on the database."""
        return self.installation.query(statement, parameters)

    def go(self) -> None:
        """Let the holding jobs end."""
        (self.folder / "go").touch()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that the processes do."""
        try:
            until(condition, SECONDS, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.installation.logs()}") from None

    def row(self, job: str) -> dict[str, Any]:
        """State, attempt, failures, result, error and worker of a job."""
        names = ["state", "attempt", "failures", "result", "error", "worker"]
        query = f"SELECT {', '.join(names)} FROM jobs_job WHERE id = %s"
        return dict(zip(names, self.installation.query(query, (job,))[0], strict=True))

    def end(self, job: str) -> dict[str, Any]:
        """The job when it has ended."""
        self.until(lambda: self.row(job)["state"] in ENDED, "the job ends")
        return self.row(job)

    def states(self, job: str) -> list[str]:
        """The states that it went through."""
        query = "SELECT data->>'state' FROM msgweb.job_event WHERE job_id = %s AND kind = 'state' ORDER BY id"
        return [row[0] for row in self.installation.query(query, (job,))]

    def log(self, job: str) -> list[tuple[str, str]]:
        """Level and text of its log."""
        query = "SELECT data->>'level', data->>'text' FROM jobs_event WHERE job_id = %s AND kind = 'log' ORDER BY id"
        return self.installation.query(query, (job,))

    def outcomes(self, job: str) -> list[str]:
        """How its attempts ended."""
        query = "SELECT outcome FROM jobs_attempt WHERE job_id = %s ORDER BY number"
        return [row[0] for row in self.installation.query(query, (job,))]

    def waiting(self, queue: str = "samples") -> int:
        """How many messages there are in a queue, held ones too."""
        query = (
            "SELECT count(*) FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination WHERE d.name = %s"
        )
        return int(self.installation.query(query, (queue,))[0][0])

    def supervisor(self) -> int:
        """The process id of the latest worker's supervisor."""
        query = "SELECT pid FROM msgweb.session WHERE kind = 'worker' ORDER BY id DESC LIMIT 1"
        return int(self.installation.query(query)[0][0])

    def slots(self, worker: str = "worker") -> list[int]:
        """The process ids of a worker's slots, where it is the latest worker."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.installation.pid(worker))],
            capture_output=True,
            text=True,
            check=False,
        )
        supervisor = self.supervisor()
        return [pid for word in found.stdout.split() if (pid := int(word)) != supervisor]

    def everybody(self, worker: str = "worker") -> list[int]:
        """The process ids of a worker: main process, supervisor, slots."""
        return [self.installation.pid(worker), self.supervisor(), *self.slots(worker)]

    def python(self, code: str, *arguments: str) -> str:
        """Run code in a process of its own, on the installation; its output."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=REPOSITORY,
            env={
                **self.installation.env,
                "DJANGO_SETTINGS_MODULE": "msgweb.settings",
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), self.installation.env.get("PYTHONPATH", "")]),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def together(cases: Mapping[str, Callable[[], object]]) -> None:
    """Run cases at once, each in a thread: most of the time each waits for processes of its own.

    Raises:
        ExceptionGroup: what went wrong, with the name of the case.
    """
    with ThreadPoolExecutor(len(cases)) as threads:
        runs = {name: threads.submit(case) for name, case in cases.items()}
    errors = []
    for name, run in runs.items():
        error = run.exception()
        if isinstance(error, Exception):
            error.add_note(f"the case: {name}")
            errors.append(error)
        elif error is not None:
            raise error
    if errors:
        raise ExceptionGroup("cases that went wrong", errors)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def start(jobs: Jobs, name: str = "worker", *arguments: str) -> None:
    jobs.installation.start(name, arguments=("--queue", "samples", *arguments))
