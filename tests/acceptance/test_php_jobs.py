"""PHP as a worker of jobs and as who asks for them: the library's example, and scripts over the bare extension."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.programs import Program
from tests.working import Jobs

pytestmark = pytest.mark.needs("php")

CLIENT = REPOSITORY / "clients/php"
TASK, QUEUE = "samples.parcels", "shop.parcels"

Php = Callable[..., Program]


@pytest.fixture
def gateways() -> str:
    """How many processes the gateway has."""
    return "1"


@pytest.fixture
def jobs(installation: Installation, tmp_path: Path, gateways: str) -> Jobs:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    installation.start("stomp", arguments=("--processes", gateways))
    return Jobs(installation, tmp_path)


@pytest.fixture
def php(jobs: Jobs, tmp_path: Path) -> Iterator[Php]:
    """Start PHP code that has the library, and `$stomp`, a connection of the bare extension."""
    started: list[Program] = []
    stomp = jobs.installation.credentials["stomp"]
    bare = f"""
        error_reporting(E_ALL);
        $stomp = new Stomp('tcp://{stomp["host"]}:{stomp["port"]}', '{stomp["login"]}', '{stomp["passcode"]}');
        $stomp->setReadTimeout(30);
    """

    def start(code: str) -> Program:
        path = tmp_path / f"script-{len(started)}.php"
        path.write_text(f"<?php\nrequire '{CLIENT}/src/autoload.php';\n{bare}\n{code}\n")
        started.append(Program(["php", str(path)], jobs.installation.env))
        return started[-1]

    yield start
    for program in started:
        program.close()


@pytest.fixture
def worker(jobs: Jobs) -> Iterator[Callable[..., Program]]:
    """Start the example that does jobs."""
    started: list[Program] = []

    def start(*arguments: str) -> Program:
        started.append(
            Program(["php", str(CLIENT / "examples/work_jobs.php"), QUEUE, *arguments], jobs.installation.env)
        )
        started[-1].wait_for("waiting for jobs")
        return started[-1]

    yield start
    for program in started:
        program.close()


@pytest.mark.parametrize("gateways", ["1", "3"])  # who asks and who works mostly speak to different ones then
def test_a_job_is_asked_for_and_done_in_php_and_watched_on_its_page(
    jobs: Jobs, php: Php, worker: Callable[..., Program]
) -> None:
    done = worker("1")
    asked = php(
        f"""
        $reply = Msgweb\\Messaging::fromEnvironment()->request('{TASK}', ['order' => 7, 'parcels' => 3], [
            'on_accepted' => function ($id, $url) {{ echo "job $id\\n"; }},
            'on_progress' => function ($progress) {{ echo "$progress\\n"; }},
        ]);
        echo json_encode($reply->body), "\\n";
        """
    )
    assert asked.wait() == 0, asked.output + done.output
    job = asked.lines[0].split()[1]
    *progress, last, result = asked.lines[1:]  # what comes quickly is joined
    assert progress in ([], [" 33% parcel 1"], [" 66% parcel 2"], [" 33% parcel 1", " 66% parcel 2"])
    assert (last, result) == ("100% parcel 3", '{"parcels":["7-1","7-2","7-3"]}')
    assert done.wait() == 0
    assert jobs.end(job)["state"] == "succeeded"
    assert jobs.states(job) == ["ready", "running", "succeeded"]
    assert jobs.query("SELECT done, total, text FROM jobs_progress") == [(3, 3, "parcel 3")]
    [(host, pid)] = jobs.query("SELECT host, pid FROM jobs_attempt")
    assert " at 127.0.0.1:" in host and pid is None
    assert jobs.waiting(QUEUE) == 0


def test_a_cancelled_job_stops_clears_up_and_the_worker_goes_on(jobs: Jobs, worker: Callable[..., Program]) -> None:
    at_work = worker("2")
    job = jobs.ask(TASK, order=7, parcels=100_000, seconds=0.01)
    jobs.until(lambda: jobs.query("SELECT 1 FROM jobs_progress"), "it works")
    jobs.cancel(job)
    assert jobs.end(job)["state"] == "cancelled"
    assert jobs.outcomes(job) == ["cancelled"]
    assert jobs.log(job)[-1][1].startswith("unpacking ")
    assert jobs.states(job) == ["ready", "running", "cancelled"]
    at_work.wait_for("stopped: cancelled")
    following = jobs.ask(TASK, order=8)
    assert jobs.end(following)["state"] == "succeeded"
    assert at_work.wait() == 0
    assert jobs.waiting(QUEUE) == 0


def test_the_job_of_a_killed_worker_is_taken_up_by_another(jobs: Jobs, worker: Callable[..., Program]) -> None:
    first = worker()
    job = jobs.ask(TASK, order=7, parcels=20, seconds=0.05)
    jobs.until(lambda: jobs.query("SELECT 1 FROM jobs_progress"), "it works")
    second = worker("1")
    first.signal(signal.SIGKILL)
    second.wait_for("attempt 2")
    ended = jobs.end(job)
    assert (ended["state"], ended["attempt"], ended["failures"]) == ("succeeded", 2, 0)
    assert jobs.outcomes(job) == ["interrupted", "succeeded"]
    assert second.wait() == 0
    assert jobs.waiting(QUEUE) == 0


def test_the_job_survives_the_death_of_its_gateway(jobs: Jobs, worker: Callable[..., Program]) -> None:
    at_work = worker()
    job = jobs.ask(TASK, order=7, parcels=20, seconds=0.05)
    jobs.until(lambda: jobs.query("SELECT 1 FROM jobs_progress"), "it works")
    jobs.installation.kill("stomp")
    jobs.installation.start("stomp")
    ended = jobs.end(job)
    assert (ended["state"], ended["failures"]) == ("succeeded", 0)
    assert jobs.outcomes(job)[-1] == "succeeded"
    following = jobs.ask(TASK, order=8)
    assert jobs.end(following)["state"] == "succeeded", at_work.output


def test_what_a_handler_returns_throws_or_leaves_unsaid_is_the_end_of_its_job(jobs: Jobs, php: Php) -> None:
    code = f"""
        $messaging = Msgweb\\Messaging::fromEnvironment();
        $messaging->on('{QUEUE}', function ($job) {{
            if ($job->body()['order'] === 1) {{ throw new LogicException('no such order'); }}
            if ($job->body()['order'] === 2) {{ $job->fail('sold out', 'sold_out'); throw new LogicException('late'); }}
        }});
        echo "ready\\n";
        $messaging->run(3);
    """
    handler = php(code)
    handler.wait_for("ready")
    thrown, failed, silent = (jobs.ask(TASK, order=number) for number in (1, 2, 3))
    assert handler.wait() == 0, handler.output
    assert jobs.end(thrown)["error"]["message"] == "LogicException: no such order"
    assert "script-0.php" in jobs.end(thrown)["error"]["traceback"]
    assert jobs.end(failed)["error"]["code"] == "sold_out"
    assert (jobs.end(silent)["state"], jobs.end(silent)["result"]) == ("succeeded", None)
    jobs.until(lambda: jobs.waiting(QUEUE) == 0, "all is acknowledged")


@pytest.mark.parametrize("ack", ["auto", "client", "client-individual", None])
def test_the_bare_extension_does_a_job_and_hears_of_its_cancel(jobs: Jobs, php: Php, ack: str | None) -> None:
    """A loop as one writes it by hand: it acknowledges first, speaks on the way, and looks for news with hasFrame."""
    headers = f"['ack' => '{ack}', 'prefetch-count' => '1']" if ack else "[]"
    work = php(
        f"""
        $stomp->subscribe('/job/control');
        $stomp->subscribe('/queue/{QUEUE}', {headers});
        echo "ready\\n";
        for ($jobs = 0; $jobs < 2; ++$jobs) {{
            $job = $stomp->readFrame();
            $stomp->ack($job);
            $say = function ($event, $body) use ($stomp, $job) {{
                $headers = ['job-event' => $event, 'content-type' => 'application/json', 'receipt' => uniqid()];
                if (!$stomp->send($job->headers['reply-to'], json_encode($body), $headers)) {{
                    die('no receipt: ' . $stomp->error());
                }}
            }};
            $say('log', 'order ' . json_decode($job->body)->order);
            for ($number = 0; $jobs === 0; ++$number) {{
                $say('progress', ['done' => $number, 'total' => 100000]);
                $stomp->setReadTimeout(0, 10000);
                $isTold = $stomp->hasFrame();
                $stomp->setReadTimeout(30);
                if ($isTold) {{
                    $news = $stomp->readFrame();
                    echo $news->headers['job-event'], ' ', $news->body, "\\n";
                    $say('cancelled', null);
                    $say('log', 'too late, and no error');
                    break;
                }}
            }}
            if ($jobs === 0) {{
                echo $stomp->readFrame()->headers['job-event'], "\\n";
            }} else {{
                $say('result', ['number' => $jobs]);
            }}
        }}
        """
    )
    work.wait_for("ready")
    job = jobs.ask(TASK, order=7)
    jobs.until(lambda: jobs.query("SELECT 1 FROM jobs_progress"), "it works")
    jobs.cancel(job)
    assert jobs.end(job)["state"] == "cancelled"
    other = jobs.ask(TASK, order=8)
    assert work.wait() == 0, work.output
    assert work.lines == ["ready", 'cancel {"reason": "cancelled", "grace": 10.0}', "over"]
    assert jobs.end(other)["result"] == {"number": 1}
    assert [text for _, text in jobs.log(job) if not text.startswith("asked to cancel")] == ["order 7"]
    jobs.until(lambda: jobs.waiting(QUEUE) == 0, "all is done with")


def test_the_reply_to_an_asker_that_has_gone_is_kept_with_the_job(
    jobs: Jobs, php: Php, worker: Callable[..., Program]
) -> None:
    ask = f"""
        $stomp->send('/task/{TASK}', '{{"order": 7}}', [
            'reply-to' => '/temp-queue/r', 'correlation-id' => '6f0c8c6e-7d1e-4b61-9d0e-0f1c3a2b4c5d', 'receipt' => 'x',
        ]);
    """
    gone = php(ask)
    assert gone.wait() == 0, gone.output
    worker("1")
    job = "6f0c8c6e-7d1e-4b61-9d0e-0f1c3a2b4c5d"
    assert jobs.end(job)["result"] == {"parcels": ["7-1", "7-2", "7-3"]}
    again = php(ask + "echo $stomp->readFrame()->body;")  # who asks again under the same id gets it
    assert again.wait() == 0, again.output
    assert json.loads(again.output) == {"parcels": ["7-1", "7-2", "7-3"]}
    [(count,)] = jobs.query("SELECT count(*) FROM jobs_job")
    assert count == 1


def test_an_asker_that_does_not_ask_for_progress_gets_one_message(
    jobs: Jobs, php: Php, worker: Callable[..., Program]
) -> None:
    worker("1")
    asked = php(
        f"""
        $stomp->send('/task/{TASK}', '{{"order": 7}}', ['reply-to' => '/temp-queue/r', 'correlation-id' => 'my 1']);
        $frame = $stomp->readFrame();
        echo $frame->headers['job-event'], ' ', $frame->headers['correlation-id'], "\\n";
        $stomp->setReadTimeout(0, 300000);
        var_dump($stomp->hasFrame());
        """
    )
    assert asked.wait() == 0, asked.output
    assert asked.lines == ["result my 1", "bool(false)"]


def test_a_limit_holds_for_all_php_workers_together(jobs: Jobs, worker: Callable[..., Program]) -> None:
    """The task allows two jobs of an order at a time."""
    workers = [worker() for _ in range(3)]
    same = [jobs.ask(TASK, order=7, parcels=5, seconds=0.05) for _ in range(4)]
    other = jobs.ask(TASK, order=8)
    assert jobs.end(other)["state"] == "succeeded"
    assert [jobs.end(job)["state"] for job in same] == ["succeeded"] * 4, [one.output for one in workers]
    times = jobs.query(
        "WITH a AS (SELECT a.started_at, a.ended_at FROM jobs_attempt a JOIN jobs_job j ON j.id = a.job_id"
        " WHERE j.arguments->>'order' = '7')"
        " SELECT started_at, 1 FROM a UNION ALL SELECT ended_at, -1 FROM a ORDER BY 1, 2"
    )
    at_once, most = 0, 0
    for _, change in times:
        at_once += change
        most = max(most, at_once)
    assert most <= 2, times
