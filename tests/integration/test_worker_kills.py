"""Whoever of a worker is killed, or cut off, at whatever point of a job's life: nothing is lost, and what must not be
done twice is not."""

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from tests.cable import Cable
from tests.installation import Installation, Postgres, Template
from tests.lifepoints import CUT_POINTS, ENVIRONMENT, POINTS, TASKS, CutOff, bring_to, row_held
from tests.mortal import Mortal
from tests.working import Jobs, gone, start, together

Workplaces = Callable[[], Jobs]


@pytest.fixture
def workplaces(
    postgres: Postgres, template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workplaces]:
    """Makes installations, for cases that have nothing to do with each other."""
    with contextlib.ExitStack() as ending:

        def make() -> Jobs:
            home = tmp_path_factory.mktemp("installation")
            installation = ending.enter_context(Installation.fresh(postgres, template, home))
            installation.env.update(ENVIRONMENT)
            installation.env["MSGWEB_LEASE_SECONDS"] = "300"  # nobody may have to wait for it: the dead are seen
            return Jobs(installation, tmp_path_factory.mktemp("jobs"))

        yield make


@pytest.fixture
def jobs(workplaces: Workplaces) -> Jobs:
    return workplaces()


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


def kill_at(jobs: Jobs, point: str, victim: str, task: str) -> None:
    """Kill processes of a worker with a job at some point of its life, and look at what becomes of that."""
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
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_and_nothing_done_twice_that_must_not(workplaces: Workplaces, point: str, task: str) -> None:
    victims = ("slots", "supervisor", "main", "all")
    together({victim: partial(kill_at, workplaces(), point, victim, task) for victim in victims})


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


@contextlib.contextmanager
def cabled(jobs: Jobs) -> Iterator[Cable]:
    cable = Cable(jobs.installation.database)
    try:
        yield cable
    finally:
        cable.close()


def cut_off_at(jobs: Jobs, point: str, task: str) -> None:
    """Cut a worker off for longer than its lease."""
    jobs.installation.env["MSGWEB_LEASE_SECONDS"] = "3"
    with cabled(jobs) as cable:
        cut_off = CutOff(jobs, cable, point, task)
        cut_off.cut()
        jobs.until(cut_off.is_taken_up, "the other worker takes the job up")
        cut_off.mend()
        cut_off.check()


@pytest.mark.chaos
@pytest.mark.parametrize("task", TASKS)
def test_a_worker_cut_off_for_longer_than_its_lease_loses_the_job_and_its_late_word_is_refused(
    workplaces: Workplaces, task: str
) -> None:
    """For a minute, with the usual lease: `make chaos ARGS="--cut 60"`."""
    together({point: partial(cut_off_at, workplaces(), point, task) for point in CUT_POINTS})


def cut_off_shortly_at(jobs: Jobs, point: str, task: str) -> None:
    """Cut a worker off for less than its lease."""
    with cabled(jobs) as cable:
        jobs.installation.env["DATABASE_URL"] = cable.conninfo
        start(jobs)
        with contextlib.ExitStack() as keeping:
            job = bring_to(jobs, point, task, keeping)
            cable.cut()
        jobs.go()
        if point in ("started", "midway"):
            jobs.until(lambda: (jobs.folder / "ended").exists(), "the job ends")
            assert jobs.row(job)["state"] == "running"
        cable.mend()
        ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], jobs.outcomes(job)) == ("succeeded", 1, ["succeeded"])
    assert len(jobs.begun()) == 1


@pytest.mark.chaos
@pytest.mark.parametrize("task", TASKS)
def test_a_worker_cut_off_for_a_while_keeps_its_job_and_records_its_end(workplaces: Workplaces, task: str) -> None:
    together({point: partial(cut_off_shortly_at, workplaces(), point, task) for point in CUT_POINTS})


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    with Mortal.prepared() as postgres:
        yield postgres


@pytest.fixture
def endangered(mortal: Mortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplaces]:
    """Makes installations on a Postgres that is killed."""
    credentials = json.loads((mortal.home / "credentials.json").read_text())
    with contextlib.ExitStack() as ending:

        def make() -> Jobs:
            database = mortal.copied(f"msgweb_{uuid.uuid4().hex[:12]}")
            installation = Installation(tmp_path_factory.mktemp("installation"), database, credentials)
            ending.callback(installation.close)
            installation.env.update(ENVIRONMENT)
            return Jobs(installation, tmp_path_factory.mktemp("jobs"))

        yield make


@pytest.mark.chaos
@pytest.mark.parametrize("task", TASKS)
def test_postgres_killed_and_started_again_costs_a_job_nothing(
    endangered: Workplaces, mortal: Mortal, task: str
) -> None:
    cases = {point: endangered() for point in POINTS}
    jobs_of: dict[str, str] = {}

    def prepare(point: str) -> None:
        start(cases[point])
        jobs_of[point] = bring_to(cases[point], point, task, keeping)

    def look(point: str) -> None:
        jobs = cases[point]
        jobs.go()
        ended = jobs.end(jobs_of[point])
        assert (ended["state"], ended["failures"], len(jobs.begun())) == ("succeeded", 0, 1)
        jobs.until(lambda: jobs.waiting() == 0, "the message is acked")

    # What keeps the jobs where they are is closed when the connections of it are broken.
    with contextlib.suppress(psycopg.OperationalError), contextlib.ExitStack() as keeping:
        together({point: partial(prepare, point) for point in POINTS})
        mortal.kill()
    together({point: partial(look, point) for point in POINTS})
