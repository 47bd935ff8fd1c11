"""Real workers on a real Postgres: what they do, and what becomes of their jobs when they die or are stopped."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.working import SECONDS, Jobs, gone, start


@pytest.fixture
def jobs(installation: Installation, tmp_path: Path) -> Jobs:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    return Jobs(installation, tmp_path)


def test_a_job_is_done_its_reply_sent_and_its_message_gone(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.add", reply_to="answers", a=4)
    ended = jobs.end(job)
    assert (ended["state"], ended["result"], ended["attempt"], ended["worker"]) == ("succeeded", {"sum": 5}, 1, None)
    assert jobs.states(job) == ["ready", "running", "succeeded"]
    assert jobs.installation.query("SELECT done, total, text FROM jobs_progress") == [(3, 3, "adding")]
    assert jobs.waiting("answers") == 1
    jobs.until(lambda: jobs.waiting() == 0, "the message is acked")


def test_all_that_a_task_says_is_its_log(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.talk")
    assert jobs.end(job)["state"] == "succeeded"
    log = jobs.log(job)
    spoken = [entry for entry in log if entry[1] != "by a child"]
    assert spoken == [
        ("debug", "by the context"),
        ("info", "by print"),
        ("warning", "by logging"),
        ("info", "an unfinished line"),
    ]
    assert ("info", "by a child") in log


def test_a_task_that_says_too_much_is_cut_with_a_notice(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.flood", lines=10_000)
    assert jobs.end(job)["state"] == "succeeded"
    log = jobs.log(job)
    assert log[0] == ("info", "line 0")
    kept = sum(text.startswith("line") for _, text in log)
    assert 2000 <= kept < 10_000
    left_out = [int(m[1].replace(",", "")) for _, text in log if (m := re.match(r"… ([\d,]+) lines left out", text))]
    assert kept + sum(left_out) == 10_000


def test_a_failing_task_is_tried_again_and_then_failed(jobs: Jobs) -> None:
    start(jobs)
    first, second = jobs.ask("samples.fail"), jobs.ask("samples.fail", until_attempt=2)
    nonsense = jobs.ask("samples.returns_nonsense")
    ended = jobs.end(first)
    assert (ended["state"], ended["attempt"], ended["failures"]) == ("failed", 2, 2)
    assert ended["error"]["code"] == "task_error"
    assert ended["error"]["message"] == "ValueError: attempt 2 fails"
    assert "sample_tasks.py" in ended["error"]["traceback"]
    # Between waiting and running it is ready, where its time came before a slot was free: of no account here.
    begun, *later = jobs.states(first)
    assert begun == "ready"
    assert [state for state in later if state != "ready"] == ["running", "waiting", "running", "failed"]
    assert jobs.end(second)["result"] == 2
    assert jobs.end(nonsense)["error"]["code"] == "bad_result"


def test_a_task_that_leaves_a_transaction_open_spoils_no_other(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    ended = [jobs.end(jobs.ask("samples.leaves_transaction")) for _ in range(2)]
    assert [(job["state"], job["result"]) for job in ended] == [("succeeded", False)] * 2


def test_a_message_that_is_no_job_goes_to_the_dead_letters(jobs: Jobs) -> None:
    start(jobs)
    for headers in ("{}", '{"job-id": "x"}', '{"job-id": "12345678-1234-5678-1234-567812345678"}'):
        jobs.installation.query(
            "SELECT msgweb.send(%s, '/queue/samples', 'hello', %s::jsonb)", (jobs.namespace, headers)
        )
    jobs.until(lambda: jobs.waiting("DLQ.samples") == 3, "the messages are moved")
    assert jobs.waiting() == 0
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"


def test_a_task_that_this_installation_does_not_know_fails_at_once(jobs: Jobs) -> None:
    job = jobs.ask("samples.add", a=1)
    jobs.installation.query("UPDATE jobs_job SET task = 'samples.of_tomorrow', max_attempts = 3 WHERE id = %s", (job,))
    start(jobs)
    ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], ended["error"]["code"]) == ("failed", 1, "unknown_task")


def test_a_namespace_that_is_made_later_is_served(jobs: Jobs) -> None:
    start(jobs)
    code = (
        "import django\n"
        "django.setup()\n"
        "from apps.accounts.models import Namespace\n"
        "Namespace.objects.create(name='late.test')\n"
    )
    jobs.python(code)
    jobs.namespace = "late.test"
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"


def test_the_job_of_a_killed_worker_is_taken_up_by_the_next_and_ends_once(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.hold", reply_to="answers", folder=str(jobs.folder))
    jobs.until(jobs.begun, "the job begins")
    slots = jobs.slots()
    assert len(slots) == 2
    jobs.installation.kill("worker")
    jobs.until(lambda: all(map(gone, slots)), "the slots die with their supervisor")
    start(jobs, "worker2")
    jobs.until(lambda: len(jobs.begun()) == 2, "the job begins again")
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["result"], ended["attempt"], ended["failures"]) == ("succeeded", 2, 2, 0)
    assert jobs.outcomes(job) == ["interrupted", "succeeded"]
    assert jobs.waiting("answers") == 1
    jobs.until(lambda: jobs.waiting() == 0, "the message is acked")


def test_a_worker_that_was_taken_for_dead_leaves_the_job_to_the_next(jobs: Jobs) -> None:
    jobs.installation.env["MSGWEB_LEASE_SECONDS"] = "2"
    start(jobs)
    job = jobs.ask("samples.hold", reply_to="answers", folder=str(jobs.folder))
    jobs.until(jobs.begun, "the job begins")
    ((_, first),) = jobs.begun()
    frozen = jobs.supervisor()
    os.kill(frozen, signal.SIGSTOP)
    start(jobs, "worker2")
    jobs.until(lambda: len(jobs.begun()) == 2, "the next worker begins the job again")
    os.kill(frozen, signal.SIGCONT)
    jobs.until(lambda: gone(first), "the first worker ends its own run")
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["result"], ended["failures"]) == ("succeeded", 2, 0)
    assert jobs.outcomes(job) == ["interrupted", "succeeded"]
    assert jobs.waiting("answers") == 1
    assert jobs.installation.stop("worker", SECONDS) == 0


def test_a_worker_that_froze_within_a_transaction_keeps_no_job_to_itself(jobs: Jobs) -> None:
    jobs.installation.env["MSGWEB_LEASE_SECONDS"] = "2"
    start(jobs)
    job = jobs.ask("samples.hold", folder=str(jobs.folder))
    jobs.until(jobs.begun, "the job begins")
    os.kill(jobs.supervisor(), signal.SIGSTOP)
    [(process,)] = jobs.installation.query("SELECT process FROM msgweb.session WHERE kind = 'worker'")
    # As if it had been stopped while it recorded something of the job.
    name = f"msgweb worker {process}"
    with contextlib.closing(psycopg.connect(jobs.installation.database, application_name=name)) as frozen:
        frozen.execute("SELECT FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", (job,))
        start(jobs, "worker2")
        jobs.until(lambda: len(jobs.begun()) == 2, "the next worker begins the job again")
        jobs.go()
        assert jobs.end(job)["state"] == "succeeded"


def test_a_worker_whose_session_was_ended_goes_on_under_another(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    jobs.installation.query("SELECT msgweb.bury_sessions(array_agg(id)) FROM msgweb.session WHERE kind = 'worker'")
    jobs.until(lambda: len(jobs.begun()) == 2, "the job begins again")
    first = jobs.begun()[0][1]
    jobs.until(lambda: gone(first), "the first run is ended")
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["result"], ended["failures"]) == ("succeeded", 2, 0)
    assert jobs.states(job) == ["ready", "running", "running", "succeeded"]


def test_a_job_that_kills_its_process_fails_at_last_and_the_worker_lives_on(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    job = jobs.ask("samples.kill_itself", folder=str(jobs.folder))
    ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], ended["failures"]) == ("failed", 2, 2)
    assert ended["error"]["code"] == "slot_died"
    assert "SIGKILL" in ended["error"]["message"]
    assert len(jobs.begun()) == 2
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"


def test_a_process_killed_from_outside_costs_one_attempt_at_once(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    ((_, pid),) = jobs.begun()
    os.kill(pid, signal.SIGKILL)
    jobs.until(lambda: len(jobs.begun()) == 2, "the job begins again")
    jobs.go()
    ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], ended["failures"]) == ("succeeded", 2, 1)


def test_sigterm_waits_for_the_job_and_takes_no_other(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    jobs.installation.signal("worker", signal.SIGTERM)
    jobs.until(lambda: "draining: 1 job still" in jobs.installation.log("worker"), "the worker drains")
    another = jobs.ask("samples.add", a=1)
    jobs.until(lambda: jobs.installation.query("SELECT 1 FROM jobs_event WHERE kind = 'progress'"), "it still records")
    jobs.go()
    assert jobs.installation.wait("worker", SECONDS) == 0
    assert jobs.row(job)["state"] == "succeeded"
    assert jobs.row(job)["attempt"] == 1
    assert jobs.row(another)["state"] == "ready"
    assert jobs.waiting() == 1


def test_a_job_is_cancelled_while_its_worker_drains(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    jobs.installation.signal("worker", signal.SIGTERM)
    jobs.until(lambda: "draining" in jobs.installation.log("worker"), "the worker drains")
    jobs.cancel(job)
    assert jobs.installation.wait("worker", SECONDS) == 0
    assert jobs.row(job)["state"] == "cancelled"


def test_sigterm_to_every_process_at_once_still_lets_the_job_end(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    for pid in jobs.slots():
        os.kill(pid, signal.SIGTERM)
    jobs.installation.signal("worker", signal.SIGTERM)
    jobs.until(lambda: "draining" in jobs.installation.log("worker"), "the worker drains")
    jobs.go()
    assert jobs.installation.wait("worker", SECONDS) == 0
    assert (jobs.row(job)["state"], jobs.row(job)["attempt"]) == ("succeeded", 1)


def test_a_second_sigterm_hands_the_job_back_at_no_cost(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold(polite=False)
    jobs.installation.signal("worker", signal.SIGTERM)
    jobs.until(lambda: "draining" in jobs.installation.log("worker"), "the worker drains")
    jobs.installation.signal("worker", signal.SIGTERM)
    assert jobs.installation.wait("worker", SECONDS) == 0
    row = jobs.row(job)
    assert (row["state"], row["failures"], row["worker"]) == ("ready", 0, None)
    assert jobs.outcomes(job) == ["interrupted"]
    start(jobs, "worker2")
    jobs.until(lambda: len(jobs.begun()) == 2, "the job begins again")
    jobs.go()
    assert jobs.end(job)["state"] == "succeeded"
    assert jobs.states(job) == ["ready", "running", "ready", "running", "succeeded"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGHUP])
def test_a_second_ctrl_c_ends_the_jobs_whatever_the_first_one_was(jobs: Jobs, first: signal.Signals) -> None:
    start(jobs)
    job = jobs.hold(polite=False)
    jobs.installation.signal("worker", first)
    jobs.until(lambda: "draining" in jobs.installation.log("worker"), "the worker drains")
    jobs.installation.signal("worker", signal.SIGHUP)  # a terminal that is closed ends no job
    jobs.installation.manage("workers", "list")
    assert jobs.installation.running("worker")
    jobs.installation.signal("worker", signal.SIGINT)
    assert jobs.installation.wait("worker", SECONDS) == 0
    assert (jobs.row(job)["state"], jobs.row(job)["failures"]) == ("ready", 0)


def test_a_drain_with_a_limit_hands_back_what_is_left(jobs: Jobs) -> None:
    start(jobs, "worker", "--drain-limit", "0.1")
    job = jobs.hold()
    assert jobs.installation.stop("worker", SECONDS) == 0
    assert jobs.row(job)["state"] == "ready"


def test_a_running_job_stops_at_its_checkpoint_when_it_is_cancelled(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    pids = jobs.slots()
    jobs.cancel(job)
    ended = jobs.end(job)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert jobs.outcomes(job) == ["cancelled"]
    assert jobs.slots() == pids  # nobody had to be killed
    jobs.until(lambda: jobs.waiting() == 0, "the message is acked")


def test_a_job_that_will_not_stop_is_ended_after_the_grace(jobs: Jobs) -> None:
    start(jobs, "worker", "--cancel-grace", "0.2")
    job = jobs.hold(polite=False)
    ((_, pid),) = jobs.begun()
    jobs.cancel(job)
    assert jobs.end(job)["state"] == "cancelled"
    jobs.until(lambda: gone(pid), "its process is ended")
    assert jobs.outcomes(job) == ["cancelled"]
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"


def test_a_worker_is_replaced_slot_by_slot_after_so_many_jobs(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1", "--slot-jobs", "1")
    (first,) = jobs.slots()
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"
    jobs.until(lambda: jobs.slots() and first not in jobs.slots(), "another slot takes its place")
    assert jobs.end(jobs.ask("samples.add", a=2))["state"] == "succeeded"


def test_a_worker_waits_for_its_database(jobs: Jobs) -> None:
    right = jobs.installation.env["DATABASE_URL"]
    jobs.installation.env["DATABASE_URL"] = "host=127.0.0.1 port=1 dbname=nowhere connect_timeout=2"
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runworker"],
        cwd=REPOSITORY,
        env=jobs.installation.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    jobs.installation.env["DATABASE_URL"] = right
    assert process.stderr is not None
    with process:
        said = ""
        while "no database yet" not in said:
            said = process.stderr.readline()
            assert said, "the worker ended"
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_what_a_job_says_while_the_database_is_away_is_recorded_when_it_is_back(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.hold()
    name = psycopg.conninfo.conninfo_to_dict(jobs.installation.database)["dbname"]
    elsewhere = psycopg.conninfo.make_conninfo(jobs.installation.database, dbname="postgres")
    with psycopg.connect(elsewhere, autocommit=True) as admin:
        identifier = psycopg.sql.Identifier(str(name))
        admin.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(identifier))
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            jobs.go()
            jobs.until(
                lambda: re.search("database (is away|does not answer)", jobs.installation.log("worker")),
                "the worker notices",
            )
        finally:
            admin.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(identifier))
    ended = jobs.end(job)
    assert ended["state"] == "succeeded"
    assert ended["failures"] == 0
    jobs.until(lambda: jobs.waiting() == 0, "the message is acked")


def test_a_connection_of_djangos_that_was_cut_between_two_jobs_or_during_a_long_one_fails_none(jobs: Jobs) -> None:
    def cut(backend: int) -> None:
        assert jobs.query("SELECT pg_terminate_backend(%s, 10000)", backend) == [(True,)]

    start(jobs, "worker", "--slots", "1")
    first = jobs.end(jobs.ask("samples.ask_database"))["result"]
    cut(first)
    second = jobs.end(jobs.ask("samples.ask_database"))
    assert second["state"] == "succeeded"
    long = jobs.ask("samples.ask_database", folder=str(jobs.folder))
    jobs.until(jobs.begun, "it has asked and goes on")
    cut(second["result"])  # kept from the job before
    jobs.go()
    ended = jobs.end(long)
    assert (ended["state"], ended["failures"], ended["result"]) == ("succeeded", 0, second["result"])
    third = jobs.end(jobs.ask("samples.ask_database"))
    assert third["state"] == "succeeded"
    assert len({first, second["result"], third["result"]}) == 3


def test_a_worker_rolls_up_the_tally_of_jobs_that_have_ended(jobs: Jobs) -> None:
    jobs.query(
        "INSERT INTO msgweb.jobs_ended (at, namespace, succeeded)"
        " SELECT now() - interval '1 minute', %s, 1 FROM generate_series(1, 5)",
        jobs.namespace,
    )
    start(jobs)
    rows = "SELECT resolution, succeeded FROM msgweb.jobs_ended WHERE namespace = %s"
    jobs.until(lambda: jobs.query(rows, jobs.namespace) == [(10, 5)], "five rows become one of ten seconds")


def test_a_worker_holds_no_more_messages_than_it_has_slots_whatever_the_number_of_queues(jobs: Jobs) -> None:
    asked = []
    for number in range(4):
        name = f"world{number}.test"
        jobs.installation.query("INSERT INTO accounts_namespace (name, created_at) VALUES (%s, now())", (name,))
        jobs.namespace = name
        asked += [jobs.ask("samples.hold", folder=str(jobs.folder)) for _ in range(2)]
    start(jobs, "worker", "--slots", "1")
    held = "SELECT count(*) FROM msgweb.message WHERE session IS NOT NULL"
    jobs.until(jobs.begun, "the first job begins")
    jobs.until(lambda: jobs.installation.query(held) == [(1,)], "what came in excess is given back")
    start(jobs, "worker2", "--slots", "2")
    jobs.until(lambda: len(jobs.begun()) == 3, "the next worker takes what the first one left")
    jobs.until(lambda: jobs.installation.query(held) == [(3,)], "what came in excess is given back")
    jobs.go()
    assert [jobs.end(job)["result"] for job in asked] == [1] * 8
    assert jobs.installation.query("SELECT max(attempt) FROM jobs_job") == [(1,)]


def test_a_worker_does_what_signals_say(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    jobs.installation.signal("worker", signal.SIGUSR1)
    jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
    first, second = (jobs.ask("samples.hold", folder=str(jobs.folder)) for _ in range(2))
    assert jobs.begun() == []
    jobs.installation.signal("worker", signal.SIGUSR2)
    jobs.until(lambda: len(jobs.begun()) == 1, "it goes on")
    jobs.installation.signal("worker", signal.SIGTTIN)
    jobs.until(lambda: len(jobs.begun()) == 2, "the second slot takes the second job")
    jobs.installation.signal("worker", signal.SIGTTOU)
    jobs.until(lambda: "1 slots instead of 2" in jobs.installation.log("worker"), "one slot is to go")
    jobs.go()
    assert [jobs.end(job)["state"] for job in (first, second)] == ["succeeded"] * 2
    jobs.until(lambda: len(jobs.slots()) == 1, "one slot is left")
    assert jobs.query("SELECT max(attempt), max(failures) FROM jobs_job") == [(1, 0)]


def test_a_worker_does_what_it_is_told_from_elsewhere(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1")
    jobs.installation.manage("workers", "pause", "all")
    jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
    jobs.until(lambda: "paused, 1 slots" in jobs.installation.manage("workers", "list"), "it says so")
    job = jobs.ask("samples.hold", folder=str(jobs.folder))
    jobs.installation.manage("workers", "resize", "all", "3")
    jobs.until(lambda: len(jobs.slots()) == 3, "it has three slots")
    assert jobs.begun() == []
    jobs.installation.manage("workers", "resume", "all")
    jobs.until(jobs.begun, "it goes on")
    jobs.installation.manage("workers", "stop", "all")
    jobs.until(lambda: "draining: 1 job still" in jobs.installation.log("worker"), "it drains")
    jobs.go()
    assert jobs.installation.wait("worker", SECONDS) == 0
    assert jobs.row(job)["state"] == "succeeded"


def test_quick_jobs_do_not_wait_behind_one_that_takes_longer_than_was_expected(jobs: Jobs) -> None:
    start(jobs)
    done = "SELECT count(*) FROM jobs_job WHERE state = 'succeeded'"
    jobs.ask_many("samples.mostly_quick", 100)
    jobs.until(lambda: jobs.query(done) == [(100,)], "the worker knows how quick they are")
    jobs.installation.signal("worker", signal.SIGUSR1)
    jobs.until(lambda: "paused" in jobs.installation.log("worker"), "it pauses")
    slow = jobs.ask("samples.mostly_quick", folder=str(jobs.folder))
    jobs.ask_many("samples.mostly_quick", 300)
    jobs.installation.signal("worker", signal.SIGUSR2)
    jobs.until(jobs.begun, "the slow one begins")
    jobs.until(lambda: jobs.query(done) == [(400,)], "the others are done meanwhile")
    assert jobs.row(slow)["state"] == "running"
    jobs.go()
    assert jobs.end(slow)["state"] == "succeeded"
    assert jobs.query("SELECT max(attempt), max(failures) FROM jobs_job") == [(1, 0)]


def test_coroutines_share_a_slot_and_so_do_functions_in_threads(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1", "--threads", "6")
    (slot,) = jobs.slots()
    holding = [jobs.ask("samples.hold", folder=str(jobs.folder)) for _ in range(3)]
    jobs.until(lambda: len(jobs.begun()) == 3, "three functions wait side by side")
    breathing = [jobs.ask("samples.breathe", seconds=0.01 * n) for n in range(4)]
    assert [jobs.end(job)["result"] for job in breathing] == [1] * 4
    endless = jobs.ask("samples.breathe", seconds=3600)
    jobs.until(lambda: jobs.row(endless)["state"] == "running", "it begins")
    jobs.cancel(endless)
    assert jobs.end(endless)["state"] == "cancelled"
    jobs.go()
    assert [jobs.end(job)["result"] for job in holding] == [1] * 3
    assert {pid for _, pid in jobs.begun()} == {slot}
    assert jobs.slots() == [slot]


def test_what_jobs_say_side_by_side_goes_to_the_log_of_each(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1", "--threads", "2")
    first, second = (jobs.ask("samples.converse", name=name, folder=str(jobs.folder)) for name in "ab")
    assert jobs.end(first)["state"] == jobs.end(second)["state"] == "succeeded"
    for job, name in ((first, "a"), (second, "b")):
        assert [text for _, text in jobs.log(job)] == [f"{name}{n}" for n in range(20)]


def test_what_a_job_and_its_children_say_keeps_its_order(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.take_turns", turns=5)
    assert jobs.end(job)["state"] == "succeeded"
    spoken = ["by print", "by a child", "by logging", "by another child"]
    assert [text for _, text in jobs.log(job)] == [f"{text} {turn}" for turn in range(5) for text in spoken]


def test_a_process_that_a_task_forks_speaks_and_is_terminated_like_any_other(jobs: Jobs) -> None:
    start(jobs)
    job = jobs.ask("samples.fork")
    assert jobs.end(job)["result"] == -signal.SIGTERM
    assert [text for _, text in jobs.log(job)] == ["before", "in the child", "WARNING samples too", "after"]
    assert jobs.end(jobs.ask("samples.talk"))["state"] == "succeeded"


def test_a_slot_that_has_grown_too_large_is_replaced_after_its_job(jobs: Jobs) -> None:
    start(jobs, "worker", "--slots", "1", "--slot-rss", "200")
    (first,) = jobs.slots()
    assert jobs.end(jobs.ask("samples.grow", mebibytes=300))["state"] == "succeeded"
    jobs.until(lambda: jobs.slots() and first not in jobs.slots(), "another slot takes its place")
    assert jobs.end(jobs.ask("samples.add", a=2))["state"] == "succeeded"


def test_only_the_queues_that_a_pattern_means_are_served(jobs: Jobs) -> None:
    jobs.installation.start("worker", arguments=("--queue", "samp*"))
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"
    assert "queues samp*" in jobs.installation.log("worker")


def test_an_idle_worker_with_two_slots_takes_little_memory(jobs: Jobs) -> None:
    start(jobs)
    assert jobs.end(jobs.ask("samples.add", a=1))["state"] == "succeeded"
    total = 0
    for pid in jobs.everybody():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert total < 80 * 1024, f"{total} KiB"


def test_with_reload_a_worker_starts_again_when_the_code_changes(jobs: Jobs, tmp_path: Path) -> None:
    module = tmp_path / "changing_tasks.py"
    text = (
        "from apps.jobs import JobContext, task\n"
        "@task(name='changing.tell', queue='samples')\n"
        "def tell(context: JobContext) -> str:\n"
        "    return '{}'\n"
    )
    module.write_text(text.format("old"))
    jobs.installation.env.update(MSGWEB_TASK_MODULES="tests.sample_tasks,changing_tasks", PYTHONPATH=str(tmp_path))
    start(jobs, "worker", "--reload")
    assert jobs.end(jobs.ask("changing.tell"))["result"] == "old"
    held = jobs.hold()
    pid = jobs.installation.pid("worker")
    module.write_text(text.format("new and different"))
    jobs.until(lambda: jobs.installation.log("worker").count(f"worker {pid} ready") == 2, "it starts again")
    jobs.go()
    assert jobs.end(jobs.ask("changing.tell"))["result"] == "new and different"
    assert (jobs.end(held)["state"], jobs.row(held)["failures"]) == ("succeeded", 0)


def test_a_quick_job_with_steps_is_on_record_before_the_first(jobs: Jobs) -> None:
    start(jobs)
    for _ in range(5):
        job = jobs.ask("samples.quick_steps")
        ended = jobs.end(job)
        assert (ended["state"], ended["result"]) == ("succeeded", 1)
        assert jobs.states(job) == ["ready", "running", "succeeded"]


def test_a_quick_job_is_admitted_by_the_claim_that_brings_it(jobs: Jobs) -> None:
    jobs.query(
        "CREATE TABLE seen (with_claim boolean);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen SELECT EXISTS (SELECT FROM msgweb.message"
        " WHERE session = NEW.session AND xmin::text = pg_current_xact_id()::text); RETURN NULL; END $$;"
        "CREATE TRIGGER see AFTER INSERT ON jobs_admission FOR EACH ROW EXECUTE FUNCTION see()"
    )
    start(jobs)

    def is_admitted_so() -> bool:
        assert jobs.end(jobs.ask("samples.mostly_quick"))["state"] == "succeeded"
        return jobs.query("SELECT count(*) > 0 FROM seen WHERE with_claim") == [(True,)]

    jobs.until(is_admitted_so, "one is, once they seem to be quick")


def test_a_quick_job_that_takes_longer_shows_as_running(jobs: Jobs) -> None:
    start(jobs)
    for _ in range(3):
        jobs.end(jobs.ask("samples.mostly_quick"))
    job = jobs.ask("samples.mostly_quick", folder=str(jobs.folder))
    jobs.until(lambda: jobs.row(job)["state"] == "running", "its start is recorded")
    jobs.cancel(job)
    assert jobs.end(job)["state"] == "cancelled"


def test_a_slot_that_gives_way_while_jobs_come_costs_none(jobs: Jobs) -> None:
    start(jobs, "worker", "--slot-jobs", "20")
    jobs.ask_many("samples.nothing", 1000)
    jobs.until(
        lambda: jobs.query("SELECT count(*) FROM jobs_job WHERE state = 'succeeded'") == [(1000,)], "all are done"
    )
