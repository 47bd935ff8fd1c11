"""What a task's options come to in real workers: timeouts, retries, limits, steps, schedules, Django's Tasks."""

import json
import signal
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.working import Jobs, start


@pytest.fixture
def jobs(installation: Installation, tmp_path: Path) -> Jobs:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks,tests.sample_django_tasks"
    return Jobs(installation, tmp_path)


def test_an_attempt_that_takes_too_long_is_asked_to_stop_then_ended_and_tried_again(jobs: Jobs) -> None:
    start(jobs, "worker", "--cancel-grace", "0.3")
    polite = jobs.ask("samples.too_long", polite=True)
    impolite = jobs.ask("samples.too_long", polite=False)
    for job, message in ((polite, "it took too long"), (impolite, "its process was ended")):
        ended = jobs.end(job)
        assert (ended["state"], ended["attempt"], ended["failures"]) == ("failed", 2, 2)
        assert ended["error"]["code"] == "timeout"
        assert message in ended["error"]["message"]
        assert jobs.outcomes(job) == ["failed", "failed"]


def test_a_retrys_pause_outlives_the_worker(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.slow_retry")
    jobs.until(lambda: jobs.row(job)["state"] == "waiting", "it failed once")
    jobs.installation.kill("worker")
    start(jobs, "worker2")
    assert jobs.row(job)["state"] in ("waiting", "ready")
    ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], ended["failures"]) == ("succeeded", 2, 1)
    query = "SELECT extract(epoch FROM max(started_at) - min(ended_at))::float8 FROM jobs_attempt WHERE job_id = %s"
    assert jobs.query(query, job)[0][0] >= 4
    assert [state for state in jobs.states(job) if state != "ready"] == ["running", "waiting", "running", "succeeded"]


def test_an_attempt_after_a_crash_goes_on_after_the_last_finished_step(jobs: Jobs) -> None:
    start(jobs)
    ended = jobs.end(jobs.ask("samples.dies_between_steps", folder=str(jobs.folder)))
    assert (ended["state"], ended["attempt"], ended["result"]) == ("succeeded", 2, [1, 2, 3])
    assert (jobs.folder / "steps").read_text() == "1\n2\n3\n"


def test_no_more_than_the_limit_run_over_all_workers(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "3")
    start(jobs, "worker2", "--slots", "3")
    jobs.ask_many("samples.crowd", 20, folder=str(jobs.folder))
    jobs.until(
        lambda: jobs.query("SELECT count(*) FROM jobs_job WHERE state = 'succeeded'") == [(20,)], "all have ended"
    )
    beside = [row[0] for row in jobs.query("SELECT result FROM jobs_job")]
    assert max(beside) == 2
    assert jobs.query("SELECT count(*) FROM jobs_permit WHERE job IS NOT NULL") == [(0,)]


def test_a_schedule_of_the_settings_runs_however_many_workers_there_are(jobs: Jobs) -> None:
    definition = {"namespace": jobs.namespace, "task": "samples.nothing", "every": 1}
    jobs.installation.env["MSGWEB_SCHEDULES"] = json.dumps({"each-second": definition})
    start(jobs)
    start(jobs, "worker2")
    count = "SELECT count(*) FROM jobs_job WHERE state = 'succeeded'"
    jobs.until(lambda: jobs.query(count)[0][0] >= 4, "it has run four times")
    jobs.installation.kill("worker")
    before = jobs.query(count)[0][0]
    jobs.until(lambda: jobs.query(count)[0][0] >= before + 2, "the other goes on")
    times = "SELECT created_at FROM jobs_job ORDER BY created_at"
    moments = [row[0] for row in jobs.query(times)]
    span = (moments[-1] - moments[0]).total_seconds()
    assert len(moments) - 1 <= span + 2  # never more often than once a second


def test_what_has_been_kept_long_enough_goes(jobs: Jobs) -> None:
    jobs.installation.env["MSGWEB_JOBS_KEEP"] = "succeeded=0"
    start(jobs)
    job = jobs.ask("samples.add", a=1)
    failed = jobs.ask("samples.returns_nonsense")
    assert jobs.end(failed)["state"] == "failed"
    jobs.until(lambda: jobs.query("SELECT state FROM jobs_job WHERE id = %s", job) != [("ready",)], "it has begun")
    jobs.installation.stop("worker")
    start(jobs, "worker2")  # which looks at once
    jobs.until(lambda: jobs.query("SELECT FROM jobs_job WHERE id = %s", job) == [], "it is gone")
    assert jobs.query("SELECT FROM jobs_event WHERE job_id = %s", job) == []
    assert jobs.row(failed)["state"] == "failed"


ENQUEUE = """
import asyncio, json
import django
django.setup()
from tests import sample_django_tasks as samples
double, asleep, attempts = samples.double.enqueue(21), samples.asleep.enqueue(5), samples.attempts.enqueue("x")
fails = asyncio.run(samples.fails.aenqueue("broken"))
print(json.dumps([one.id for one in (double, asleep, attempts, fails)]))
"""
LOOK = """
import json, sys
import django
django.setup()
from apps.jobs import tasks_api
backend = tasks_api.task_backends["default"]
found = [backend.get_result(one) for one in json.loads(sys.argv[1])]
values = [one.return_value if one.status == "SUCCESSFUL" else one.errors[0].exception_class_path for one in found]
print(json.dumps([values, [one.worker_ids for one in found]]))
"""


def test_django_tasks_in_a_real_worker(jobs: Jobs) -> None:
    jobs.installation.start("worker")  # it serves their queue of its own accord, and their namespace when it is made
    ids = json.loads(jobs.python(ENQUEUE))
    for job in ids:
        jobs.end(job)
    values, workers = json.loads(jobs.python(LOOK, json.dumps(ids)))
    assert values == [42, 5, f"1 {ids[2]} x", "builtins.ValueError"]
    assert all(len(one) == 1 for one in workers)
    assert len({one[0] for one in workers}) == 1
    jobs.installation.signal("worker", signal.SIGTERM)
    assert jobs.installation.wait("worker") == 0
