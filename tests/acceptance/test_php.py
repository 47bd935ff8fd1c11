"""Real PHP over PECL stomp against a real installation: the library's examples as they are, and the bare extension."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.programs import Program

pytestmark = pytest.mark.needs("php")

EXAMPLES = REPOSITORY / "clients/php/examples"

Php = Callable[..., Program]


@pytest.fixture
def php(installation: Installation) -> Iterator[Php]:
    """Start a PHP script against the installation: an example by its name, or the path of a script."""
    started: list[Program] = []

    def start(script: str | Path, *arguments: str, **variables: str) -> Program:
        path = EXAMPLES / script
        program = Program(["php", str(path), *arguments], {**installation.env, **variables})
        started.append(program)
        return program

    yield start
    for program in started:
        program.close()


def script(tmp_path: Path, code: str) -> Path:
    """A PHP script with the library at hand."""
    path = tmp_path / "script.php"
    path.write_text(f"<?php\nrequire '{REPOSITORY}/clients/php/src/autoload.php';\n{code}\n")
    return path


def bare(installation: Installation) -> str:
    """PHP code that connects with nothing but the extension."""
    stomp = installation.credentials["stomp"]
    uri = f"tcp://{stomp['host']}:{stomp['port']}"
    return f"$stomp = new Stomp('{uri}', '{stomp['login']}', '{stomp['passcode']}'); $stomp->setReadTimeout(10);"


def waiting(installation: Installation, queue: str) -> int:
    """How many messages of a queue are not done with, as the console counts them."""
    code = (
        "from apps.broker import catalogue;"
        f"print(sum(q.ready + q.in_flight for q in catalogue.queues(None) if q.name == {queue!r}))"
    )
    return int(installation.manage("shell", "--no-imports", "-c", code).split()[-1])


def test_a_clone_is_asked_for_watched_and_done(installation: Installation, php: Php) -> None:
    installation.start()
    installation.wait_ready()
    installation.manage("seed_firebrand", "--name", "Ember", "--slug", "ember", "--products", "120")
    asked = php("clone_brand.php", "ember", "Ember Nord", "nord.example")
    assert asked.wait(120) == 0, asked.output + installation.logs()

    job_id = asked.wait_for("job ").split()[1]
    [(state,)] = installation.query("SELECT state FROM jobs_job WHERE id = %s", (job_id,))
    assert state == "succeeded"
    status_url = asked.wait_for("watch it at ").split()[-1]
    assert installation.status(status_url.removeprefix(f"http://{installation.http}")) == 200

    percents = [int(match[1]) for line in asked.lines if (match := re.match(r" *(\d+)%", line))]
    assert len(percents) > 1, asked.output
    assert percents == sorted(percents)

    report = json.loads(asked.output.partition("done: ")[2])
    assert report["rows"]["products"] == 120, report
    brands = installation.query("SELECT slug FROM firebrand_brand ORDER BY slug")
    assert brands == [("ember",), ("ember-nord",)]


def test_a_clone_that_cannot_be_says_why(installation: Installation, php: Php) -> None:
    installation.start("stomp", "worker")
    asked = php("clone_brand.php", "no-such-brand", "Nobody", "nobody.example")
    assert asked.wait() == 1
    code, _, text = asked.lines[-1].partition(": ")
    assert re.fullmatch(r"[a-z_]+", code), asked.output
    assert "no-such-brand" in text


def test_bad_arguments_are_refused_at_once(installation: Installation, php: Php, tmp_path: Path) -> None:
    installation.start("stomp")
    asked = php(
        script(
            tmp_path,
            """
            try { Msgweb\\Messaging::fromEnvironment()->request('firebrand.clone_brand', ['colour' => 'red']); }
            catch (Msgweb\\Exception\\Refused $e) { echo $e->errorCode(); }
            """,
        )
    )
    assert asked.wait() == 0, asked.output
    assert asked.output == "bad_arguments"


def test_a_queue_is_worked_off(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    for number in range(4):
        sent = php("send.php", "thumbnails", json.dumps({"picture": f"{number}.jpg"}))
        assert sent.wait() == 0, sent.output
    worker = php("work_queue.php", "thumbnails", "4")
    assert worker.wait() == 0, worker.output
    assert [line.partition(": ")[2] for line in worker.lines if line.startswith("working on")] == [
        json.dumps({"picture": f"{number}.jpg"}, separators=(",", ":")) for number in range(4)
    ]
    assert "handled 4" in worker.output
    assert waiting(installation, "thumbnails") == 0


def test_a_message_whose_handler_throws_comes_again(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    assert php("send.php", "thumbnails", '{"colour": "red"}').wait() == 0
    worker = php("work_queue.php", "thumbnails", "2")
    assert worker.wait() == 0, worker.output
    first, second = [line for line in worker.lines if line.startswith("working on")]
    assert "(again)" not in first
    assert second == first.replace(":", " (again):", 1)
    assert waiting(installation, "thumbnails") == 1


def test_the_message_of_a_killed_worker_goes_to_the_next(installation: Installation, php: Php, tmp_path: Path) -> None:
    installation.start("stomp")
    assert php("send.php", "thumbnails", '{"picture": "a.jpg"}').wait() == 0
    stuck = php(
        script(
            tmp_path,
            """
            $messaging = Msgweb\\Messaging::fromEnvironment();
            $messaging->on('thumbnails', function ($message) { echo "has {$message->id()}\n"; sleep(600); });
            $messaging->run();
            """,
        )
    )
    stuck.wait_for("has ")
    stuck.signal(signal.SIGKILL)
    worker = php("work_queue.php", "thumbnails", "1")
    assert worker.wait() == 0, worker.output
    assert "(again): " in worker.wait_for("working on")
    assert waiting(installation, "thumbnails") == 0


def test_a_worker_that_is_told_to_end_finishes_its_message(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    worker = php("work_queue.php", "thumbnails")
    worker.wait_for("waiting for messages")
    assert php("send.php", "thumbnails", '{"picture": "a.jpg"}').wait() == 0
    worker.wait_for("working on")
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert "handled 1" in worker.output
    assert waiting(installation, "thumbnails") == 0


def test_a_worker_survives_the_gateways_restart(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    worker = php("work_queue.php", "thumbnails", "1")
    worker.wait_for("waiting for messages")
    installation.kill("stomp")
    installation.start("stomp")
    assert php("send.php", "thumbnails", '{"picture": "a.jpg"}').wait() == 0
    assert worker.wait() == 0, worker.output
    worker.wait_for("working on")


def test_a_request_to_a_php_worker_is_answered_with_progress(
    installation: Installation, php: Php, tmp_path: Path
) -> None:
    installation.start("stomp")
    worker = php("work_queue.php", "thumbnails", "1")
    worker.wait_for("waiting for messages")
    asked = php(
        script(
            tmp_path,
            """
            $reply = Msgweb\\Messaging::fromEnvironment()->request('/queue/thumbnails', ['picture' => 'b.jpg'], [
                'on_progress' => function ($progress) { echo "$progress\n"; },
            ]);
            echo json_encode($reply->body);
            """,
        )
    )
    assert asked.wait() == 0, asked.output
    assert asked.lines == [" 50% half way", '{"done":true,"picture":"b.jpg"}']


def test_a_wrong_passcode_is_named(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    sent = php("send.php", "q", "x", MSGWEB_LOGIN="nobody", MSGWEB_PASSCODE="wrong")
    assert sent.wait() == 1
    assert sent.output.startswith("access_refused: ")


def test_a_namespace_that_the_key_does_not_open_is_refused(installation: Installation, php: Php) -> None:
    installation.query("INSERT INTO accounts_namespace (name, created_at) VALUES ('somebody.else', now())")
    installation.start("stomp")
    sent = php("send.php", "q", "x", MSGWEB_NAMESPACE="somebody.else")
    assert sent.wait() == 1
    assert sent.output.startswith("access_refused: ")


def test_the_bare_extension_sends_subscribes_and_acknowledges(
    installation: Installation, php: Php, tmp_path: Path
) -> None:
    installation.start("stomp")
    code = (
        bare(installation)
        + """
        var_dump($stomp->getSessionId() !== false);
        $headers = ['persistent' => 'true', 'receipt' => 'r-1', 'colour' => 'r:d'];
        var_dump($stomp->send('/queue/plain', "a\\0b:c\\n", $headers));
        var_dump($stomp->subscribe('/queue/plain'));
        $frame = $stomp->readFrame();
        $told = [$frame->command, $frame->body, $frame->headers['colour'], $frame->headers['destination']];
        echo json_encode($told), "\n";
        var_dump($stomp->ack($frame, ['receipt' => 'r-2']));
        $stomp->setReadTimeout(0, 300000);
        var_dump($stomp->hasFrame());
        """
    )
    ran = php(script(tmp_path, code))
    assert ran.wait() == 0, ran.output
    message = '["MESSAGE","a\\u0000b:c\\n","r:d","\\/queue\\/plain"]'
    assert ran.lines == ["bool(true)", "bool(true)", "bool(true)", message, "bool(true)", "bool(false)"]
    assert waiting(installation, "plain") == 0


def test_the_bare_extensions_transactions_hold(installation: Installation, php: Php, tmp_path: Path) -> None:
    installation.start("stomp")
    code = (
        bare(installation)
        + """
        $stomp->begin('t1');
        $stomp->send('/queue/plain', 'aborted', ['transaction' => 't1']);
        $stomp->abort('t1');
        $stomp->begin('t2');
        $stomp->send('/queue/plain', 'committed', ['transaction' => 't2']);
        var_dump($stomp->commit('t2', ['receipt' => 'c']));
        $stomp->subscribe('/queue/plain', ['ack' => 'auto']);
        echo $stomp->readFrame()->body, "\n";
        $stomp->setReadTimeout(0, 300000);
        var_dump($stomp->hasFrame());
        """
    )
    ran = php(script(tmp_path, code))
    assert ran.wait() == 0, ran.output
    assert ran.lines == ["bool(true)", "committed", "bool(false)"]


def test_the_bare_extension_asks_for_a_task(installation: Installation, php: Php, tmp_path: Path) -> None:
    installation.start("stomp", "worker")
    code = (
        bare(installation)
        + """
        $stomp->send('/task/firebrand.clone_brand', '{"brand":"none","name":"N","domain":"n.example"}', [
            'reply-to' => '/temp-queue/mine', 'correlation-id' => 'my-1',
        ]);
        $frame = $stomp->readFrame();
        echo $frame->headers['correlation-id'], ' ', $frame->headers['job-event'], "\n";
        """
    )
    ran = php(script(tmp_path, code))
    assert ran.wait() == 0, ran.output
    assert ran.lines == ["my-1 error"]
