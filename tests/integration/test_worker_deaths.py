"""Jobs that kill the process, or the worker, that does them."""

import os
import signal
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.working import Jobs, start

TOLD = "SELECT 1 FROM jobs_attempt WHERE job_id = %s AND number = %s AND stopping_at IS NOT NULL"


@pytest.fixture
def jobs(installation: Installation, tmp_path: Path) -> Jobs:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    installation.env["MSGWEB_LEASE_SECONDS"] = "300"  # nobody may have to wait for it
    return Jobs(installation, tmp_path)


def history(jobs: Jobs, job: str) -> list[tuple[str, str | None, str | None]]:
    """State, text and error's message of each change."""
    return jobs.query(
        "SELECT data->>'state', data->>'text', data->'error'->>'message' FROM msgweb.job_event"
        " WHERE job_id = %s AND kind = 'state' ORDER BY id",
        job,
    )


@pytest.mark.chaos
def test_a_job_that_kills_its_whole_worker_each_time_is_given_up(jobs: Jobs) -> None:
    job = jobs.ask("samples.kill_worker", folder=str(jobs.folder))
    for deaths in (1, 2, 3):
        jobs.installation.launch("worker", arguments=("--queue", "samples"))  # it may die before it is seen to serve
        assert jobs.installation.wait("worker") == -signal.SIGKILL
        assert len(jobs.begun()) == deaths
    start(jobs)
    ended = jobs.end(job)
    assert (ended["state"], ended["failures"], len(jobs.begun())) == ("failed", 0, 3)
    assert ended["error"]["code"] == "too_many_deaths"
    assert ended["error"]["message"].startswith("3 workers in a row died")
    assert jobs.outcomes(job) == ["interrupted"] * 3
    jobs.until(lambda: jobs.waiting() == 0, "no message is left")
    bystander = jobs.ask("samples.add", a=1)
    assert jobs.end(bystander)["state"] == "succeeded"


@pytest.mark.chaos
def test_who_may_not_outlive_a_death_does_not_wait_begun_on_paper_beside_the_one_that_causes_it(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    for _ in range(5):  # it is known to be a quick one
        assert jobs.end(jobs.ask("samples.fragile"))["state"] == "succeeded"
    code = (
        "import sys, django\n"
        "django.setup()\n"
        "from django.db import transaction\n"
        "from apps.jobs.submit import submit\n"
        "namespace, folder = sys.argv[1:]\n"
        "with transaction.atomic():\n"
        "    for number in range(10):\n"
        "        submit(namespace, 'samples.fragile', {} if number else {'folder': folder})\n"
    )
    jobs.python(code, jobs.namespace, str(jobs.folder))
    assert jobs.installation.wait("worker") == -signal.SIGKILL
    start(jobs, "worker", "--slots", "1")
    jobs.until(lambda: jobs.waiting() == 0, "all have ended")
    ended = "SELECT state, count(*) FROM jobs_job WHERE task = 'samples.fragile' GROUP BY 1 ORDER BY 1"
    assert jobs.query(ended) == [("failed", 1), ("succeeded", 14)]


@pytest.mark.chaos
def test_a_worker_killed_while_it_drains_costs_its_job_nothing_however_often(jobs: Jobs) -> None:
    """As a container that is given ten seconds to stop."""
    job = jobs.ask("samples.hold", folder=str(jobs.folder), polite=False)
    for number in (1, 2, 3):
        start(jobs)
        jobs.until(lambda number=number: len(jobs.begun()) == number, "it begins")
        jobs.installation.signal("worker", signal.SIGTERM)
        jobs.until(lambda number=number: jobs.query(TOLD, job, number), "that it is to stop is on disk")
        os.killpg(jobs.installation.pid("worker"), signal.SIGKILL)
        jobs.installation.wait("worker")
    start(jobs)
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["failures"], ended["attempt"]) == ("succeeded", 0, 4)
    assert jobs.query("SELECT deaths FROM jobs_job WHERE id = %s", job) == [(0,)]


@pytest.mark.chaos
def test_only_its_process_killed_a_job_runs_again_at_once_counted_and_its_history_says_why(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.patient", folder=str(jobs.folder))
    jobs.until(jobs.begun, "it begins")
    os.kill(jobs.begun()[0][1], signal.SIGKILL)
    jobs.until(lambda: len(jobs.begun()) == 2, "it begins again, though its task's pause is an hour")
    os.kill(jobs.begun()[1][1], signal.SIGTERM)  # which slots ignore
    os.kill(jobs.begun()[1][1], signal.SIGSEGV)
    jobs.until(lambda: jobs.row(job)["state"] == "waiting", "the second time it waits")
    row = jobs.row(job)
    assert (row["failures"], row["attempt"]) == (2, 2)
    why = [message for state, _, message in history(jobs, job) if state == "waiting"]
    assert why == [
        "the process of the job was ended by SIGKILL, probably out of memory",
        "the process of the job was ended by SIGSEGV",
    ]
    assert jobs.outcomes(job) == ["failed", "failed"]
    due = "SELECT run_at > now() + interval '40 minutes' FROM jobs_job WHERE id = %s"
    assert jobs.query(due, job) == [(True,)]


@pytest.mark.chaos
def test_a_process_that_leaves_of_its_own_is_told_by_its_exit_code(jobs: Jobs) -> None:
    start(jobs)
    ended = jobs.end(jobs.ask("samples.leave", status=7))
    assert (ended["state"], ended["error"]["message"]) == ("failed", "the process of the job exited with status 7")
