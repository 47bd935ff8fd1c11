"""The Messaging API for PHP, run by a real php over PECL stomp against a server that follows a script."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msgweb.home import REPOSITORY
from tests.installation import until
from tests.scripted_server import Frame, Peer, Server, answer, confirm, deliver

pytestmark = pytest.mark.needs("php")

LIBRARY = REPOSITORY / "clients/php/src/autoload.php"

PRELUDE = """
use Msgweb\\{Bytes, Content, Credentials, Message, Messaging, Progress};
use Msgweb\\Exception\\MessagingException;
error_reporting(E_ALL);
set_error_handler(function ($level, $text, $file, $line) {
    if (error_reporting() & $level) { throw new ErrorException($text, 0, $level, $file, $line); }
});
function told(callable $do) {
    try { return ['value' => $do()]; }
    catch (MessagingException $e) {
        return ['error' => get_class($e), 'code' => $e->errorCode(), 'message' => $e->getMessage()];
    }
}
"""


def php(script: str, **variables: str) -> Any:
    """Run PHP code that has the library; what it passes to `out()`, decoded."""
    code = f"require '{LIBRARY}'; {PRELUDE} function out($x) {{ fwrite(STDOUT, json_encode($x)); }} {script}"
    env = {**os.environ, **variables}
    ended = subprocess.run(["php", "-r", code], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def enter(server: Server) -> str:
    """PHP code that makes `$messaging`."""
    credentials = f"new Credentials('127.0.0.1', {server.port}, 'login', 'pass:code', 'shop.test')"
    return f"$messaging = new Messaging({credentials}, 3);"


def test_values_become_what_python_makes_of_them() -> None:
    encoded = php(
        """
        out(array_map([Content::class, 'encode'], [
            ['a' => [1, null, 'ü/']], [], 12, 1.0, null, true, 'grüß', new Bytes('bin'), new ArrayObject(['k' => 1]),
        ]));
        """
    )
    json_type, text = "application/json", "text/plain;charset=utf-8"
    assert encoded == [
        ['{"a":[1,null,"ü/"]}', json_type],
        ["[]", json_type],
        ["12", json_type],
        ["1.0", json_type],
        ["null", json_type],
        ["true", json_type],
        ["grüß", text],
        ["bin", "application/octet-stream"],
        ['{"k":1}', json_type],
    ]


def test_what_cannot_be_sent_is_said_without_a_connection() -> None:
    told = php(
        """
        $messaging = new Messaging(new Credentials('127.0.0.1', 1, 'a', 'b'));
        out([
            told(function () use ($messaging) { $messaging->send('q', "\\xff"); }),
            told(function () use ($messaging) { $messaging->send('q', NAN); }),
            told(function () use ($messaging) { $messaging->send('', 'x'); }),
            told(function () use ($messaging) { $messaging->send('q', 'x', ['priority' => 10]); }),
            told(function () use ($messaging) { $messaging->send('q', 'x', ['prio' => 1]); }),
            told(function () use ($messaging) { $messaging->send('q', 'x', ['headers' => ['receipt' => '1']]); }),
            told(function () use ($messaging) { $messaging->send('q', 'x', ['headers' => ['a' => "1\\nb:2"]]); }),
            told(function () use ($messaging) { $messaging->run(); }),
            told(function () { Credentials::fromFile('/nowhere.json'); }),
        ]);
        """
    )
    assert [one["code"] for one in told] == ["bad_body", "bad_body", *["bad_message"] * 6, "bad_credentials"]


def test_json_comes_back_and_what_is_none_is_reported() -> None:
    told = php(
        """
        out([
            told(function () { return Content::decode('{"a":{"b":1}}', 'application/json; charset=utf-8'); }),
            told(function () { return Content::decode('[1]', 'application/problem+json'); }),
            told(function () { return Content::decode('text', null); }),
            told(function () { return Content::decode('{', 'application/json'); }),
        ]);
        """
    )
    assert told[:3] == [{"value": {"a": {"b": 1}}}, {"value": [1]}, {"value": "text"}]
    assert told[3]["code"] == "bad_body"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    stomp = {"host": "10.0.0.1", "port": 61613, "login": "mw1", "passcode": "s", "namespace": "shop.test"}
    (tmp_path / "credentials.json").write_text(json.dumps({"stomp": stomp}))
    found = php(
        "out(Credentials::fromEnvironment());",
        MSGWEB_HOME=str(tmp_path),
        MSGWEB_STOMP="example.org:7000",
        MSGWEB_NAMESPACE="shop.live",
    )
    assert found == {**stomp, "host": "example.org", "port": 7000, "namespace": "shop.live"}


def test_it_enters_its_namespace_with_its_key(server: Server, enter: str) -> None:
    php(enter + "$messaging->send('mails', ['to' => 'ann'], ['priority' => 7, 'headers' => ['x' => 'a:b']]); out(1);")
    [(_, login, _)] = server.sent("CONNECT")
    assert (login["host"], login["login"], login["passcode"]) == ("shop.test", "login", "pass:code")
    [(_, headers, body)] = server.sent("SEND")
    assert body == b'{"to":"ann"}'
    assert (headers["destination"], headers["content-type"]) == ("/queue/mails", "application/json")
    assert (headers["persistent"], headers["priority"], headers["x"]) == ("true", "7", "a:b")
    until(lambda: server.sent("DISCONNECT"), 10, "it says goodbye")


SEND = "out(told(function () use ($messaging) { $messaging->send('mails', 'x', ['timeout' => 1]); }));"


def test_a_lost_receipt_is_reported_as_an_unknown_outcome(server: Server, enter: str) -> None:
    server.script = lambda peer, frame: peer.hang_up()
    assert php(enter + SEND)["code"] == "outcome_unknown"
    assert len(server.sent("SEND")) == 1, "the library must not send again on its own"


def test_a_late_receipt_is_reported_as_an_unknown_outcome(server: Server, enter: str) -> None:
    server.script = lambda peer, frame: None
    assert php(enter + SEND)["code"] == "outcome_unknown"


def test_an_error_for_a_frame_is_raised_with_the_servers_code(server: Server, enter: str) -> None:
    # The code stands in the body as well: PECL shows no header but `message`.
    server.script = lambda peer, frame: peer.write(
        "ERROR", {"message": "no such queue", "receipt-id": frame[1]["receipt"]}, b"no such queue.\ncode: not_found\n"
    )
    told = php(enter + SEND)
    assert told == {"error": "Msgweb\\Exception\\Refused", "code": "not_found", "message": "no such queue"}


def test_a_refused_login_is_not_tried_again(server: Server, enter: str) -> None:
    server.on_connect = lambda peer, frame: peer.write("ERROR", {"message": "wrong"}, b"wrong.\ncode: access_refused\n")
    assert php(enter + SEND)["code"] == "access_refused"
    assert len(server.sent("CONNECT")) == 1


def test_a_silent_server_is_given_up_at_the_deadline(server: Server, enter: str) -> None:
    server.on_connect = lambda peer, frame: None
    assert php(enter + SEND)["code"] == "connection_failed"


def test_a_connection_that_was_lost_between_two_messages_leaves_nothing_in_doubt(server: Server, enter: str) -> None:
    def once(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if len(server.sent("SEND")) == 1:
            peer.hang_up()

    server.script = once
    php(
        enter
        + """
        $messaging->send('mails', '1');
        usleep(200000); // the connection ends while PHP is busy elsewhere
        $messaging->send('mails', '2');
        out(1);
        """
    )
    assert [body for _, _, body in server.sent("SEND")] == [b"1", b"2"]
    assert len(server.sent("CONNECT")) == 2


REQUEST = """
    $heard = [];
    $told = told(function () use ($messaging, &$heard) {
        $reply = $messaging->request('clone', ['a' => 1], [
            'timeout' => 1,
            'on_accepted' => function ($id, $url) use (&$heard) { $heard[] = $url; },
            'on_progress' => function (Progress $p) use (&$heard) { $heard[] = (string) $p; },
        ]);
        return [$reply->body, $reply->jobId, $reply->statusUrl];
    });
    out(['told' => $told, 'heard' => $heard]);
"""


def test_a_request_hears_of_acceptance_progress_and_result(server: Server, enter: str) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        answer(peer, frame, "accepted", b'{"job":"1","status_url":"http://x/status"}')
        confirm(peer, frame)
        answer(peer, frame, "progress", b'{"done":1,"total":2,"text":"half"}')
        answer(peer, frame, "result", b'{"rows":7}')

    server.script = work
    outcome = php(enter + REQUEST)
    [(_, headers, _)] = server.sent("SEND")
    assert outcome["heard"] == ["http://x/status", " 50% half"]
    assert outcome["told"]["value"] == [{"rows": 7}, headers["correlation-id"], "http://x/status"]
    assert (headers["destination"], headers["reply-to"]) == ("/task/clone", "/temp-queue/replies")
    assert headers["progress"] == "true"


def test_a_failed_job_is_raised_with_its_code(server: Server, enter: str) -> None:
    def fail(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        answer(peer, frame, "error", b'{"code":"bad_brand","message":"no such brand"}')

    server.script = fail
    told = php(enter + REQUEST)["told"]
    assert told == {"error": "Msgweb\\Exception\\RequestFailed", "code": "bad_brand", "message": "no such brand"}


def test_a_reply_that_does_not_come_is_a_timeout(server: Server, enter: str) -> None:
    assert php(enter + REQUEST)["told"]["code"] == "reply_timeout"


def test_a_task_is_asked_for_again_under_its_id_when_the_connection_is_lost(server: Server, enter: str) -> None:
    def lose_the_first(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if len(server.sent("SEND")) == 1:
            peer.hang_up()
        else:
            answer(peer, frame, "result", b"3")

    server.script = lose_the_first
    assert php(enter + REQUEST)["told"]["value"][0] == 3
    first, second = server.sent("SEND")
    assert first[1]["correlation-id"] == second[1]["correlation-id"]


def test_a_request_to_a_queue_is_not_repeated(server: Server, enter: str) -> None:
    def lose(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        peer.hang_up()

    server.script = lose
    told = php(enter + "out(told(function () use ($messaging) { $messaging->request('/queue/thumbnails', []); }));")
    assert told["code"] == "outcome_unknown"
    assert len(server.sent("SEND")) == 1


def test_a_message_is_acknowledged_after_its_handler_and_returned_when_it_threw(server: Server, enter: str) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            deliver(peer, frame, "1", "2", "3")

    server.script = work
    seen = php(
        enter
        + """
        ini_set('error_log', '/dev/null');
        $seen = [];
        $messaging->on('work', function (Message $message) use (&$seen) {
            $seen[] = $message->body();
            if ($message->body() === '2') { throw new RuntimeException('cannot'); }
        }, ['prefetch' => 3]);
        $seen[] = $messaging->run(3);
        $messaging->close();
        out($seen);
        """
    )
    assert seen == ["1", "2", "3", 3]
    [(_, subscribed, _)] = server.sent("SUBSCRIBE")
    assert (subscribed["ack"], subscribed["prefetch-count"]) == ("client-individual", "3")
    until(lambda: len(server.sent("ACK")) == 2, 10, "the last ACK, which PHP waits for no more, is read")
    verdicts = [(command, headers["message-id"]) for command, headers, _ in server.frames if "ACK" in command]
    assert verdicts == [("ACK", "1"), ("NACK", "2"), ("ACK", "3")]


def test_messages_that_come_while_a_reply_is_awaited_are_kept_for_their_handler(server: Server, enter: str) -> None:
    subscription: list[Frame] = []

    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            subscription.append(frame)
        elif frame[0] == "SEND":
            deliver(peer, subscription[0], "1", "2")
            answer(peer, frame, "result", b"true")

    server.script = work
    seen = php(
        enter
        + """
        $seen = [];
        $messaging->on('work', function (Message $message) use (&$seen) { $seen[] = $message->body(); });
        $seen[] = $messaging->request('clone', [])->body;
        $messaging->run(2);
        out($seen);
        """
    )
    assert seen == [True, "1", "2"]


def test_after_a_lost_connection_it_listens_again(server: Server, enter: str) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            if len(server.sent("SUBSCRIBE")) == 1:
                peer.hang_up()
            else:
                deliver(peer, frame, "7", kind="topic")

    server.script = work
    seen = php(
        enter
        + """
        $seen = [];
        $messaging->on('/topic/work', function (Message $message) use (&$seen) { $seen[] = $message->body(); });
        $messaging->run(1);
        out($seen);
        """
    )
    assert seen == ["7"]
    assert server.sent("SUBSCRIBE")[1][1]["ack"] == "auto"
    assert not server.sent("ACK"), "a topic's message needs no ack"


def test_run_ends_when_it_has_been_idle(server: Server, enter: str) -> None:
    assert php(enter + "$messaging->on('work', function () {}); out($messaging->run(null, 0.2));") == 0


ANSWERED = """
$heard = [];
$answer = function ($to, $body, $headers) use (&$heard) {
    $heard[] = $headers['job-event'] === 'progress' ? $body['done'] : $headers['job-event'];
};
$job = ['job-id' => '7', 'reply-to' => '/job/7'];
$message = new Message('', $job, $answer, function () { return null; });
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [("$message->log('a line')", "log"), ("$message->reply(1)", "result"), ("$message->fail('no')", "error")],
)
def test_progress_in_a_tight_loop_is_joined_and_the_latest_is_told_before_what_follows(end: str, said: str) -> None:
    heard = php(
        f"""{ANSWERED}
        for ($done = 1; $done <= 50000; ++$done) {{ $message->progress($done, 50001); }}
        {end};
        out($heard);
        """
    )
    assert heard[:20] == list(range(1, 21))
    assert heard[-2:] == [50_000, said]
    assert heard[:-1] == sorted(set(heard[:-1])) and len(heard) < 1_000


def test_progress_that_was_not_told_yet_is_told_when_the_handler_ends_and_all_done_at_once() -> None:
    heard = php(
        f"""{ANSWERED}
        for ($done = 1; $done <= 5000; ++$done) {{ $message->progress($done, 5000); }}
        $all = end($heard);
        $message->finish(null);
        $plain = new Message('', ['reply-to' => '/queue/x'], $answer, function () {{ return null; }});
        for ($done = 1; $done <= 5000; ++$done) {{ $plain->progress($done, 5001); }}
        $plain->finish(null);
        out([$all, $heard]);
        """
    )
    assert heard[0] == 5_000
    assert heard[1][-1] == 5_000 and "result" in heard[1]


def test_progress_that_cannot_be_told_keeps_nothing_from_being_said() -> None:
    heard = php(
        """
        $heard = [];
        $away = false;
        $answer = function ($to, $body, $headers) use (&$heard, &$away) {
            if ($away && $headers['job-event'] === 'progress') {
                throw new Msgweb\\Exception\\ConnectionFailed('nobody answers');
            }
            $heard[] = $headers['job-event'];
        };
        $message = new Message('', ['job-id' => '7', 'reply-to' => '/job/7'], $answer, function () { return null; });
        for ($done = 1; $done <= 20; ++$done) { $message->progress($done, 5000); }
        $away = true;
        told(function () use ($message) { $message->progress(21, 5000); });
        $message->reply('done');
        out($heard);
        """
    )
    assert heard[-1] == "result"


def test_where_nobody_waits_for_an_answer_progress_is_refused_each_time() -> None:
    told = php(
        """
        $message = new Message('', [], function () {}, function () { return null; });
        for ($done = 1; $done <= 30; ++$done) {
            $told[] = told(function () use ($message, $done) { $message->progress($done, 100); })['code'];
        }
        out($told);
        """
    )
    assert told == ["bad_message"] * 30
