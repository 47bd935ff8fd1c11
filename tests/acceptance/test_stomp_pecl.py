"""Debian's PECL stomp extension against the gateway: the client that fails on a byte too many or too few."""

import json
import subprocess

import pytest

from tests.stomp_gateway import RunningGateway, gateway, queue, stomp_database

__all__ = ["gateway", "queue", "stomp_database"]  # fixtures

pytestmark = pytest.mark.needs("php")

PRELUDE = """<?php
error_reporting(E_ALL);
[$port, $queue] = [$argv[1], $argv[2]];
$stomp = new Stomp("tcp://127.0.0.1:$port", "guest", "a:secret");
$stomp->setReadTimeout(10);
$say = [];
"""


def php(gateway: RunningGateway, queue: str, script: str) -> list[object]:
    """What the script collected in $say."""
    ended = subprocess.run(
        ["php", "-d", "display_errors=stderr", "--", str(gateway.port), queue],
        input=PRELUDE + script + "\necho json_encode($say);\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0 and not ended.stderr, ended
    said: list[object] = json.loads(ended.stdout)
    return said


def test_pecl_sends_with_receipts_reads_and_acks(gateway: RunningGateway, queue: str) -> None:
    said = php(
        gateway,
        queue,
        r"""
        $say[] = $stomp->getSessionId() != '';
        for ($i = 0; $i < 20; $i++) {
            $headers = ['receipt' => "r$i", 'persistent' => 'true', 'note' => "a:b\\c $i"];
            $say[] = $stomp->send($queue, "line\n\0$i", $headers);
        }
        $say[] = $stomp->subscribe($queue, ['ack' => 'client', 'prefetch-count' => '5', 'receipt' => 's']);
        for ($i = 0; $i < 20; $i++) {
            $frame = $stomp->readFrame();
            $say[] = [$frame->body, $frame->headers['note'], $frame->headers['destination'] == $queue];
            $say[] = $stomp->ack($frame, ['receipt' => "a$i"]);
        }
        $stomp->setReadTimeout(0, 200000);
        $say[] = $stomp->readFrame();
        """,
    )
    expected: list[object] = [True] * 22
    for number in range(20):
        expected += [[f"line\n\0{number}", f"a:b\\c {number}", True], True]
    assert said == [*expected, False]


def test_pecl_transactions_take_effect_together(gateway: RunningGateway, queue: str) -> None:
    said = php(
        gateway,
        queue,
        """
        $stomp->subscribe($queue, ['receipt' => 's']);
        $say[] = $stomp->begin('one', ['receipt' => 'b1']);
        $say[] = $stomp->send($queue, 'never', ['transaction' => 'one']);
        $say[] = $stomp->abort('one', ['receipt' => 'a1']);
        $say[] = $stomp->begin('two', ['receipt' => 'b2']);
        $say[] = $stomp->send($queue, 'yes', ['transaction' => 'two']);
        $say[] = $stomp->send($queue, 'and yes', ['transaction' => 'two']);
        $say[] = $stomp->commit('two', ['receipt' => 'c2']);
        $say[] = $stomp->readFrame()->body;
        $say[] = $stomp->readFrame()->body;
        """,
    )
    assert said == [True] * 7 + ["yes", "and yes"]


def test_pecl_goes_on_after_an_error_of_an_ack(gateway: RunningGateway, queue: str) -> None:
    said = php(
        gateway,
        queue,
        """
        $say[] = $stomp->ack('12345', ['receipt' => 'a']);
        $say[] = $stomp->error() != '';
        $say[] = $stomp->send($queue, 'still here', ['receipt' => 'r']);
        $stomp->subscribe($queue, ['receipt' => 's']);
        $say[] = $stomp->readFrame()->body;
        """,
    )
    assert said == [False, True, True, "still here"]


def test_pecl_asks_and_is_answered_at_its_temporary_queue(gateway: RunningGateway, queue: str) -> None:
    said = php(
        gateway,
        queue,
        """
        $server = new Stomp("tcp://127.0.0.1:$port", "guest", "a:secret");
        $server->subscribe($queue, ['receipt' => 's']);
        $stomp->send($queue, 'question', ['reply-to' => '/temp-queue/me', 'correlation-id' => '7', 'receipt' => 'r']);
        $asked = $server->readFrame();
        $server->send($asked->headers['reply-to'], 'answer', ['correlation-id' => $asked->headers['correlation-id']]);
        $answer = $stomp->readFrame();
        $say = [$answer->body, $answer->headers['correlation-id'], $answer->headers['subscription']];
        """,
    )
    assert said == ["answer", "7", "/temp-queue/me"]


def test_a_page_that_connects_sends_and_goes_on_each_request(gateway: RunningGateway, queue: str) -> None:
    said = php(
        gateway,
        queue,
        """
        unset($stomp);
        for ($i = 0; $i < 200; $i++) {
            $stomp = new Stomp("tcp://127.0.0.1:$port", "guest", "a:secret");
            $stomp->send($queue, "$i", ['receipt' => "r$i", 'persistent' => 'true']);
            unset($stomp);
        }
        $stomp = new Stomp("tcp://127.0.0.1:$port", "guest", "a:secret");
        $stomp->setReadTimeout(10);
        $stomp->subscribe($queue, ['ack' => 'auto', 'receipt' => 's']);
        for ($i = 0; $i < 200; $i++) {
            $say[] = $stomp->readFrame()->body;
        }
        """,
    )
    assert said == [str(number) for number in range(200)]
