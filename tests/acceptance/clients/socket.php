<?php
// STOMP 1.2 by hand on a plain socket, as much PHP in the field does it. Arguments: step, port, login, passcode, queue.
// With STOMP_CA in the environment: over TLS, with that authority.
error_reporting(E_ALL);
[, $step, $port, $login, $passcode, $queue] = $argv;

function say(string ...$words): void
{
    echo implode(' ', $words), "\n";
}

class Lost extends RuntimeException
{
}

class Client
{
    /** @var resource */
    private $socket;
    private string $rest = '';
    private int $receipts = 0;
    private array $early = [];

    public string $version;
    public bool $beating;

    public function __construct(string $port, string $login, string $passcode, string $beats = '0,0')
    {
        $authority = getenv('STOMP_CA');
        $context = stream_context_create($authority ? ['ssl' => ['cafile' => $authority]] : []);
        $address = ($authority ? 'tls' : 'tcp') . "://127.0.0.1:$port";
        $socket = @stream_socket_client($address, $number, $text, 5, STREAM_CLIENT_CONNECT, $context);
        if ($socket === false) {
            throw new Lost($text);
        }
        $this->socket = $socket;
        $this->beating = $beats !== '0,0';
        $this->write('CONNECT', [
            'accept-version' => '1.2', 'host' => '127.0.0.1', 'login' => $login, 'passcode' => $passcode,
            'heart-beat' => $beats,
        ]);
        $this->version = $this->read('CONNECTED')['headers']['version'];
    }

    public function write(string $command, array $headers = [], string $body = ''): void
    {
        $frame = "$command\n";
        $verbatim = $command === 'CONNECT';
        foreach ($headers as $name => $value) {
            $escapes = ['\\' => '\\\\', "\r" => '\r', "\n" => '\n', ':' => '\c'];
            $frame .= $name . ':' . ($verbatim ? $value : strtr($value, $escapes)) . "\n";
        }
        $frame .= "\n$body\0";
        while ($frame !== '') {
            $written = @fwrite($this->socket, $frame);
            if (!$written) {
                throw new Lost('the connection is gone');
            }
            $frame = substr($frame, $written);
        }
    }

    /** A frame with a receipt; returns when that has come. */
    public function confirmed(string $command, array $headers, string $body = ''): void
    {
        $receipt = 'r-' . ++$this->receipts;
        $this->write($command, $headers + ['receipt' => $receipt], $body);
        while (($frame = $this->next())['command'] === 'MESSAGE') {
            $this->early[] = $frame; // it may come before the receipt
        }
        if ([$frame['command'], $frame['headers']['receipt-id'] ?? ''] !== ['RECEIPT', $receipt]) {
            throw new RuntimeException("a receipt was expected: {$frame['command']} {$frame['body']}");
        }
    }

    public function read(string $command): array
    {
        $frame = array_shift($this->early) ?? $this->next();
        if ($frame['command'] !== $command) {
            throw new RuntimeException("$command was expected: {$frame['command']} {$frame['body']}");
        }
        return $frame;
    }

    private function next(): array
    {
        while (!preg_match('/^\n*([A-Z]+)\n(.*?)\n\n/s', $this->rest, $head)) {
            $this->fill();
        }
        $headers = [];
        foreach (explode("\n", $head[2]) as $line) {
            [$name, $value] = explode(':', $line, 2);
            $headers[$name] ??= strtr($value, ['\\\\' => '\\', '\r' => "\r", '\n' => "\n", '\c' => ':']);
        }
        $start = strlen($head[0]);
        if (isset($headers['content-length'])) {
            $end = $start + (int) $headers['content-length'];
            while (strlen($this->rest) <= $end) {
                $this->fill();
            }
        } else {
            while (($end = strpos($this->rest, "\0", $start)) === false) {
                $this->fill();
            }
        }
        $body = substr($this->rest, $start, $end - $start);
        $this->rest = substr($this->rest, $end + 1);
        return ['command' => $head[1], 'headers' => $headers, 'body' => $body];
    }

    private function fill(): void
    {
        do {
            [$readable, $none] = [[$this->socket], null];
            $ready = stream_select($readable, $none, $none, $this->beating ? 0 : 20, $this->beating ? 100_000 : 0);
            if ($ready === 0 && !$this->beating) {
                throw new RuntimeException('nothing came for 20 seconds');
            }
            if ($this->beating) {
                fwrite($this->socket, "\n");
            }
        } while ($ready === 0);
        $data = @fread($this->socket, 65536);
        if ($data === '' || $data === false) {
            throw new Lost('the connection is gone');
        }
        $this->rest .= $data;
    }

    public function ack(array $frame, array $headers = []): void
    {
        $this->confirmed('ACK', ['id' => $frame['headers']['ack']] + $headers);
    }
}

function subscribe(Client $client, string $queue): void
{
    $client->confirmed(
        'SUBSCRIBE',
        ['id' => 's', 'destination' => $queue, 'ack' => 'client-individual', 'prefetch-count' => '3']
    );
}

function send(Client $client, string $queue, string $body, array $headers = []): void
{
    $client->confirmed('SEND', ['destination' => $queue, 'persistent' => 'true'] + $headers, $body);
}

function talk(string $port, string $login, string $passcode, string $queue): void
{
    $client = new Client($port, $login, $passcode);
    say('connected', $client->version);
    foreach (['one', 'two', 'drei ß'] as $body) {
        send($client, $queue, $body, ['note' => "a:b\\c\nd"]);
    }
    say('sent');
    subscribe($client, $queue);
    [$one, $two, $three] = [$client->read('MESSAGE'), $client->read('MESSAGE'), $client->read('MESSAGE')];
    say('received', $one['body'], $two['body'], $three['body']);
    say('note', json_encode($one['headers']['note']));
    $client->ack($one);
    $client->ack($two);
    $client->write('NACK', ['id' => $three['headers']['ack']]);
    $again = $client->read('MESSAGE');
    say('again', $again['body'], $again['headers']['redelivered']);
    $client->ack($again);
    $client->write('BEGIN', ['transaction' => 't1']);
    $client->write('SEND', ['destination' => $queue, 'transaction' => 't1'], 'never');
    $client->confirmed('ABORT', ['transaction' => 't1']);
    $client->write('BEGIN', ['transaction' => 't2']);
    $client->write('SEND', ['destination' => $queue, 'transaction' => 't2'], 'four');
    $client->write('SEND', ['destination' => $queue, 'transaction' => 't2'], 'five');
    $client->confirmed('COMMIT', ['transaction' => 't2']);
    [$four, $five] = [$client->read('MESSAGE'), $client->read('MESSAGE')];
    say('committed', $four['body'], $five['body']);
    $client->write('BEGIN', ['transaction' => 't3']);
    $client->write('ACK', ['id' => $four['headers']['ack'], 'transaction' => 't3']);
    $client->write('ACK', ['id' => $five['headers']['ack'], 'transaction' => 't3']);
    $client->confirmed('COMMIT', ['transaction' => 't3']);
    $client->confirmed('DISCONNECT', []);
    say('bye');
}

function beat(string $port, string $login, string $passcode, string $queue): void
{
    $client = new Client($port, $login, $passcode, '100,100');
    subscribe($client, $queue);
    say('idle');
    $message = $client->read('MESSAGE');
    say('woken', $message['body']);
    $client->beating = false;
    $client->ack($message);
    say('bye');
}

function reconnect(string $port, string $login, string $passcode, string $queue): void
{
    $held = null;
    while (true) {
        try {
            $client = new Client($port, $login, $passcode);
            subscribe($client, $queue);
            if ($held === null) {
                $client->ack($client->read('MESSAGE'));
                $held = $client->read('MESSAGE')['body'];
                say('holding', $held);
                $client->read('MESSAGE');
            }
            break;
        } catch (Lost) {
            usleep(50_000);
        }
    }
    $again = $client->read('MESSAGE');
    say('again', $again['body'], $again['headers']['redelivered']);
    $client->ack($again);
    $client->write('SEND', ['destination' => $queue, 'persistent' => 'true'], 'third');
    $third = $client->read('MESSAGE');
    $client->ack($third);
    say('received', $third['body']);
    $client->confirmed('DISCONNECT', []);
    say('bye');
}

$step($port, $login, $passcode, $queue);
