<?php
// PECL stomp, which speaks STOMP 1.0. Arguments: step, port, login, passcode, queue.
error_reporting(E_ALL);
[, $step, $port, $login, $passcode, $queue] = $argv;

function say(string ...$words): void
{
    echo implode(' ', $words), "\n";
}

function must(bool $done): void
{
    if (!$done) {
        throw new RuntimeException('refused');
    }
}

function connected(string $port, string $login, string $passcode): Stomp
{
    $stomp = new Stomp("tcp://127.0.0.1:$port", $login, $passcode);
    $stomp->setReadTimeout(20);
    return $stomp;
}

function subscribe(Stomp $stomp, string $queue): void
{
    must($stomp->subscribe($queue, ['ack' => 'client-individual', 'prefetch-count' => '3', 'receipt' => 's']));
}

function talk(string $port, string $login, string $passcode, string $queue): void
{
    $stomp = connected($port, $login, $passcode);
    must($stomp->getSessionId() !== '');
    say('connected', '1.0');
    foreach (['one', 'two', 'drei ß'] as $number => $body) {
        must($stomp->send($queue, $body, ['persistent' => 'true', 'note' => 'a:b\\c', 'receipt' => "r$number"]));
    }
    say('sent');
    subscribe($stomp, $queue);
    [$one, $two, $three] = [$stomp->readFrame(), $stomp->readFrame(), $stomp->readFrame()];
    say('received', $one->body, $two->body, $three->body);
    say('note', json_encode($one->headers['note']));
    must($stomp->ack($one, ['receipt' => 'a1']));
    must($stomp->ack($two, ['receipt' => 'a2']));
    must($stomp->nack($three));
    $again = $stomp->readFrame();
    say('again', $again->body, $again->headers['redelivered']);
    must($stomp->ack($again, ['receipt' => 'a3']));
    must($stomp->begin('t1'));
    must($stomp->send($queue, 'never', ['transaction' => 't1']));
    must($stomp->abort('t1', ['receipt' => 'b1']));
    must($stomp->begin('t2'));
    must($stomp->send($queue, 'four', ['transaction' => 't2']));
    must($stomp->send($queue, 'five', ['transaction' => 't2']));
    must($stomp->commit('t2', ['receipt' => 'c2']));
    [$four, $five] = [$stomp->readFrame(), $stomp->readFrame()];
    say('committed', $four->body, $five->body);
    must($stomp->begin('t3'));
    must($stomp->ack($four, ['transaction' => 't3']));
    must($stomp->ack($five, ['transaction' => 't3']));
    must($stomp->commit('t3', ['receipt' => 'c3']));
    unset($stomp);
    say('bye');
}

function reconnect(string $port, string $login, string $passcode, string $queue): void
{
    $held = null;
    while (true) {
        try {
            $stomp = connected($port, $login, $passcode);
            subscribe($stomp, $queue);
            if ($held !== null) {
                break;
            }
            must($stomp->ack($stomp->readFrame(), ['receipt' => 'a1']));
            $held = $stomp->readFrame()->body;
            say('holding', $held);
            if ($stomp->readFrame() === false) {
                throw new StompException('the connection is gone');
            }
        } catch (StompException) {
            usleep(50_000);
        }
    }
    $again = $stomp->readFrame();
    say('again', $again->body, $again->headers['redelivered']);
    must($stomp->ack($again, ['receipt' => 'a2']));
    must($stomp->send($queue, 'third', ['persistent' => 'true', 'receipt' => 'r3']));
    $third = $stomp->readFrame();
    must($stomp->ack($third, ['receipt' => 'a3']));
    say('received', $third->body);
    unset($stomp);
    say('bye');
}

$step($port, $login, $passcode, $queue);
