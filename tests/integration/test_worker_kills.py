"""Whoever of a worker is killed, at whatever point of a job's life: nothing is lost, and what must not be done twice is
not."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.installation import Installation, free_ports
from tests.mortal import Mortal
from tests.working import Jobs, gone, start

POINTS = ("claimed", "started", "midway", "finished")
CASES = [(p, v, t) for p in POINTS for v in ("slots", "all") for t in ("samples.hold", "samples.once")]
CASES += [("midway", victim, "samples.hold") for victim in ("main", "supervisor")]


@pytest.fixture
def jobs(installation: Installation, tmp_path: Path) -> Jobs:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    installation.env["MSGWEB_LEASE_SECONDS"] = "300"  # nobody may have to wait for it: who is gone is seen to be
    return Jobs(installation, tmp_path)


def kill(jobs: Jobs, victim: str) -> None:
    """End processes of the worker with SIGKILL, and wait until they are gone."""
    main, supervisor, slots = jobs.installation.pid("worker"), jobs.supervisor(), jobs.slots()
    condemned = {"main": [main], "supervisor": [supervisor], "slots": slots, "all": [main, supervisor, *slots]}[victim]
    for pid in condemned:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    leaving = slots if victim == "slots" else [main, supervisor, *slots]
    jobs.until(lambda: all(map(gone, leaving)), "nobody of them is left")
    if victim != "slots":
        jobs.installation.wait("worker")


@contextlib.contextmanager
def row_held(jobs: Jobs, job: str) -> Iterator[None]:
    """Somebody's transaction holds the job's row: nothing of it can be recorded."""
    with contextlib.closing(psycopg.connect(jobs.installation.database)) as holder:
        holder.execute("SELECT FROM jobs_job WHERE id = %s FOR UPDATE", (job,))
        yield


def claimed(jobs: Jobs) -> bool:
    return bool(jobs.query("SELECT 1 FROM msgweb.message WHERE session IS NOT NULL"))


def bring_to(jobs: Jobs, point: str, task: str, keeping: contextlib.ExitStack) -> str:
    """A job at that point of its life; `keeping` holds what keeps it there."""
    folder = str(jobs.folder)
    if point == "claimed":
        jobs.installation.signal("worker", signal.SIGUSR1)  # pauses it, until the row is held
        jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
        job = jobs.ask(task, folder=folder)
        keeping.enter_context(row_held(jobs, job))
        jobs.installation.signal("worker", signal.SIGUSR2)
        jobs.until(lambda: claimed(jobs), "the message is claimed")
    elif point == "started":
        for pid in jobs.slots():
            os.kill(pid, signal.SIGSTOP)
        job = jobs.ask(task, folder=folder)
        jobs.until(lambda: jobs.row(job)["state"] == "running", "its start is recorded")
    else:
        job = jobs.ask(task, folder=folder)
        jobs.until(jobs.begun, "it begins")
        if point == "finished":
            keeping.enter_context(row_held(jobs, job))
            jobs.go()
            jobs.until(lambda: (jobs.folder / "ended").exists(), "it ends")
    return job


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "victim", "task"), CASES)
def test_nothing_is_lost_and_nothing_done_twice_that_must_not(jobs: Jobs, point: str, victim: str, task: str) -> None:
    start(jobs)
    with contextlib.ExitStack() as keeping:
        job = bring_to(jobs, point, task, keeping)
        before = len(jobs.begun())
        kill(jobs, victim)
        if victim != "slots":
            start(jobs, "worker2")
    jobs.go()
    ended = jobs.end(job)
    runs, outcomes = len(jobs.begun()), jobs.outcomes(job)
    jobs.until(lambda: jobs.waiting() == 0, "no message is left")
    slot_only = victim == "slots"
    if point == "claimed" or (point == "finished" and slot_only):
        assert (ended["state"], runs, outcomes) == ("succeeded", 1, ["succeeded"])
    elif task == "samples.once":
        assert (ended["state"], runs) == ("failed", before)
        assert ended["error"]["code"] == ("slot_died" if slot_only else "worker_died")
    else:
        assert (ended["state"], runs) == ("succeeded", before + 1)
        assert outcomes == ["failed" if slot_only else "interrupted", "succeeded"]
        assert ended["failures"] == int(slot_only)


@pytest.mark.chaos
def test_quick_jobs_that_waited_in_a_killed_slot_are_done_and_only_the_one_at_work_pays(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    (slot,) = jobs.slots()
    jobs.ask_many("samples.nothing", 2000)
    jobs.until(lambda: jobs.query("SELECT 1 FROM jobs_job WHERE state = 'succeeded'"), "they are being done")
    os.kill(slot, signal.SIGKILL)
    unfinished = "SELECT count(*) FROM jobs_job WHERE state NOT IN ('succeeded', 'failed')"
    jobs.until(lambda: jobs.query(unfinished) == [(0,)], "all have ended")
    states = dict(jobs.query("SELECT state, count(*) FROM jobs_job GROUP BY state"))
    assert states.get("failed", 0) <= 1  # it has one attempt only
    assert sum(states.values()) == 2000


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["slots", "all"])
def test_a_job_that_was_to_be_quick_is_not_lost_when_it_was_begun_and_not_yet_on_record(
    jobs: Jobs, victim: str
) -> None:
    start(jobs)
    for _ in range(3):  # from then on it counts as quick
        jobs.end(jobs.ask("samples.mostly_quick"))
    with contextlib.ExitStack() as keeping:
        jobs.installation.signal("worker", signal.SIGUSR1)
        jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
        job = jobs.ask("samples.mostly_quick", folder=str(jobs.folder))
        jobs.installation.signal("worker", signal.SIGUSR2)
        jobs.until(jobs.begun, "it begins")
        keeping.enter_context(row_held(jobs, job))  # what was not on record by now is not either when it dies
        kill(jobs, victim)
        if victim == "all":
            start(jobs, "worker2")
    jobs.go()
    ended = jobs.end(job)
    if victim == "slots":
        assert (ended["state"], ended["attempt"], ended["error"]["code"]) == ("failed", 1, "slot_died")
        assert jobs.outcomes(job) == ["failed"]
        assert jobs.states(job) == ["ready", "running", "failed"]
    else:
        assert ended["state"] == "succeeded"
        assert len(jobs.begun()) == 2
        assert jobs.outcomes(job)[-1] == "succeeded"
    jobs.until(lambda: jobs.waiting() == 0, "no message is left")


@pytest.mark.chaos
def test_a_signal_to_every_process_at_once_still_lets_the_job_end(jobs: Jobs) -> None:
    """systemd's default: `KillMode=control-group`."""
    start(jobs)
    job = jobs.hold()
    for pid in jobs.everybody():
        os.kill(pid, signal.SIGTERM)
    jobs.until(lambda: "draining" in jobs.installation.log("worker"), "the worker drains")
    jobs.go()
    assert jobs.installation.wait("worker") == 0
    row = jobs.row(job)
    assert (row["state"], row["attempt"], jobs.outcomes(job)) == ("succeeded", 1, ["succeeded"])


class Cable:
    """A TCP port that leads to Postgres's Unix socket, until it is cut: then nothing passes, and nothing says so."""

    def __init__(self, conninfo: str) -> None:
        parts = conninfo_to_dict(conninfo)
        host, port = str(parts["host"]), parts.get("port") or 5432
        (self.port,) = free_ports(1)
        self.conninfo = make_conninfo(conninfo, host="127.0.0.1", port=self.port, sslmode="disable")
        self._target = f"{host}/.s.PGSQL.{port}"
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes any more, in either direction."""
        self._whole.clear()

    def mend(self) -> None:
        """It passes again, what was on its way too."""
        self._whole.set()

    def close(self) -> None:
        """Unplug it."""
        self.mend()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
        self._whole.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def cable(installation: Installation) -> Iterator[Cable]:
    cable = Cable(installation.database)
    yield cable
    cable.close()


@pytest.mark.chaos
def test_a_worker_cut_off_for_longer_than_its_lease_loses_the_job_and_its_late_word_is_refused(
    jobs: Jobs, cable: Cable
) -> None:
    direct = jobs.installation.env["DATABASE_URL"]
    jobs.installation.env.update(MSGWEB_LEASE_SECONDS="2", DATABASE_URL=cable.conninfo)
    start(jobs)
    jobs.installation.env["DATABASE_URL"] = direct
    job = jobs.hold(polite=False)
    first = jobs.begun()[0][1]
    cable.cut()
    start(jobs, "worker2")
    jobs.until(lambda: len(jobs.begun()) == 2, "the other worker begins the job again")
    (attempt, session) = jobs.query("SELECT attempt, worker FROM jobs_job WHERE id = %s", job)[0]
    assert attempt == 2
    cable.mend()
    jobs.until(lambda: gone(first), "the first worker learns that it has lost the job, and ends its run")
    assert jobs.query("SELECT state, attempt, worker FROM jobs_job WHERE id = %s", job) == [("running", 2, session)]
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["result"], ended["failures"]) == ("succeeded", 2, 0)
    assert jobs.outcomes(job) == ["interrupted", "succeeded"]
    assert jobs.installation.stop("worker") == 0


@pytest.mark.chaos
def test_a_worker_cut_off_for_a_while_keeps_its_job_and_records_its_end(jobs: Jobs, cable: Cable) -> None:
    direct = jobs.installation.env["DATABASE_URL"]
    jobs.installation.env.update(DATABASE_URL=cable.conninfo)
    start(jobs)
    jobs.installation.env["DATABASE_URL"] = direct
    job = jobs.hold()
    cable.cut()
    jobs.go()
    jobs.until(lambda: (jobs.folder / "ended").exists(), "the job ends")
    assert jobs.row(job)["state"] == "running"
    cable.mend()
    assert (jobs.end(job)["state"], jobs.outcomes(job)) == ("succeeded", ["succeeded"])


@pytest.fixture
def mortal(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Jobs, Callable[[], None]]]:
    with Mortal.prepared() as postgres:
        credentials = json.loads((postgres.home / "credentials.json").read_text())
        installation = Installation(tmp_path_factory.mktemp("installation"), postgres.conninfo, credentials)
        installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
        try:
            yield Jobs(installation, tmp_path), postgres.kill
        finally:
            installation.close()


@pytest.mark.chaos
@pytest.mark.parametrize("when", ["midway", "finished"])
def test_postgres_killed_and_started_again_costs_a_job_nothing(
    mortal: tuple[Jobs, Callable[[], None]], when: str
) -> None:
    jobs, kill_postgres = mortal
    start(jobs)
    job = jobs.hold()
    if when == "midway":
        kill_postgres()
        jobs.go()
    else:
        with contextlib.suppress(psycopg.OperationalError), row_held(jobs, job):
            jobs.go()
            jobs.until(lambda: (jobs.folder / "ended").exists(), "the job ends")
            kill_postgres()
    ended = jobs.end(job)
    assert (ended["state"], ended["failures"], len(jobs.begun())) == ("succeeded", 0, 1)
    jobs.until(lambda: jobs.waiting() == 0, "the message is acked")
