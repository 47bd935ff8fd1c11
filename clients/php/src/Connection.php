<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\ConnectionFailed;
use Msgweb\Exception\OutcomeUnknown;
use Msgweb\Exception\Refused;

/**
 * One STOMP connection over the PECL extension: opened once, used until it is lost, never reopened.
 *
 * PECL stomp (2.0.3) speaks STOMP 1.0, keeps its last error for ever, takes the receipt of an earlier frame for a
 * failure of this one, and shows of an ERROR frame the message and the body alone. So a connection is given up after
 * any failure, and whoever needs one opens another.
 *
 * @internal
 */
final class Connection
{
    /** What PECL says when the other side has hung up. */
    private const HUNG_UP = ['Sender closed connection unexpectedly', 'Error reading from socket'];
    private const NOT_WRITTEN = 'Unable to send data';
    private const NOT_CONNECTED = ['Unable to connect', 'Server is not responding', 'Invalid Broker URI'];

    /** @var \Stomp|null null once it is lost */
    private $stomp;

    /** @var \StompFrame[] read while looking for something else */
    private $inbox = [];

    /** The id of the subscription by which the server tells what becomes of jobs. */
    private const CONTROL = 'job-control';

    /** @var array<string, Told>|null by job; null: nobody listens */
    private $told;

    /** @throws ConnectionFailed|Refused */
    public function __construct(Credentials $credentials, float $deadline)
    {
        if (!extension_loaded('stomp')) {
            throw new ConnectionFailed('PHP lacks the stomp extension: install php-stomp, or pecl install stomp');
        }
        $seconds = max(0.001, $deadline - microtime(true));
        $before = [];
        // The constructor connects and waits for CONNECTED by these settings alone.
        foreach (['stomp.default_connection_timeout', 'stomp.default_read_timeout'] as $name) {
            $before["{$name}_sec"] = ini_set("{$name}_sec", (string) (int) $seconds);
            $before["{$name}_usec"] = ini_set("{$name}_usec", (string) (int) (fmod($seconds, 1) * 1e6));
        }
        $headers = $credentials->namespace === null ? [] : ['host' => $credentials->namespace];
        $uri = "tcp://{$credentials->host}:{$credentials->port}";
        try {
            $this->stomp = @new \Stomp($uri, $credentials->login, $credentials->passcode, $headers);
        } catch (\StompException $error) {
            if (self::begins($error->getMessage(), self::NOT_CONNECTED)) {
                throw new ConnectionFailed("nobody answers at $uri: " . $error->getMessage(), null, $error);
            }
            throw self::refusal($error->getMessage(), (string) $error->getDetails());
        } finally {
            foreach ($before as $name => $value) {
                ini_set($name, (string) $value);
            }
        }
    }

    /** Whether it is usable, as far as one can know without asking the server. */
    public function alive(): bool
    {
        if ($this->stomp !== null) {
            try {
                $this->collect();
            } catch (Lost | Refused $gone) {
                return false;
            }
        }
        return $this->stomp !== null;
    }

    /** Says goodbye. */
    public function close(): void
    {
        $this->stomp = null; // its destructor sends DISCONNECT and closes
    }

    /**
     * Send a frame and wait for its receipt: it took effect.
     *
     * @param array<string, string> $headers
     * @throws Lost nothing took effect
     * @throws Refused the server's ERROR
     * @throws OutcomeUnknown no receipt
     */
    public function send(string $destination, string $data, array $headers, float $deadline): void
    {
        $this->confirm($deadline, static function (\Stomp $stomp, array $receipt) use ($destination, $data, $headers) {
            return $stomp->send($destination, $data, $headers + $receipt);
        });
    }

    /**
     * Send a frame and do not wait.
     *
     * @param array<string, string> $headers
     * @throws Lost
     */
    public function sendUnconfirmed(string $destination, string $data, array $headers): void
    {
        if (!$this->open()->send($destination, $data, $headers)) {
            throw $this->lost();
        }
    }

    /**
     * @param array<string, string> $headers
     * @throws Lost|Refused|OutcomeUnknown
     */
    public function subscribe(string $destination, array $headers, float $deadline): void
    {
        $this->confirm($deadline, static function (\Stomp $stomp, array $receipt) use ($destination, $headers) {
            return $stomp->subscribe($destination, $headers + $receipt);
        });
    }

    /**
     * Listen to what becomes of the jobs that this connection works on. Does not wait.
     *
     * @throws Lost
     */
    public function listenToJobs(): void
    {
        if ($this->told === null) {
            if (!$this->open()->subscribe('/job/control', ['id' => self::CONTROL, 'ack' => 'auto'])) {
                throw $this->lost();
            }
            $this->told = [];
        }
    }

    /**
     * What the server has told about a job so far.
     *
     * @throws Lost|Refused
     */
    public function told(string $jobId): ?Told
    {
        $this->collect();
        return $this->told[$jobId] ?? null;
    }

    /** The job is done with. */
    public function forgetJob(string $jobId): void
    {
        unset($this->told[$jobId]);
    }

    /** @throws Lost the message will be delivered again */
    public function ack(string $messageId, string $subscription): void
    {
        if (!$this->open()->ack($messageId, ['subscription' => $subscription])) {
            throw $this->lost();
        }
    }

    /** @throws Lost the message will be delivered again */
    public function nack(string $messageId, string $subscription): void
    {
        if (!$this->open()->nack($messageId, ['subscription' => $subscription])) {
            throw $this->lost();
        }
    }

    /**
     * The next frame; null when none came before the deadline, or a signal was caught.
     *
     * @throws Lost
     * @throws Refused the server's ERROR; the connection is over
     */
    public function read(float $deadline): ?\StompFrame
    {
        if ($this->inbox !== []) {
            return array_shift($this->inbox);
        }
        $stomp = $this->open();
        $this->setTimeout(max(0.0, $deadline - microtime(true)));
        try {
            $frame = $stomp->readFrame();
        } catch (\StompException $error) {
            $this->stomp = null;
            throw self::refusal($error->getMessage(), (string) $error->getDetails());
        }
        if ($frame instanceof \StompFrame) {
            // What is told of a job is for whoever asks: the caller waits on, as after a signal.
            return $this->isTold($frame) ? null : $frame;
        }
        if (self::begins((string) $stomp->error(), self::HUNG_UP)) {
            throw $this->lost();
        }
        return null;
    }

    /**
     * Run a command with a receipt.
     *
     * @param callable(\Stomp, array<string, string>): bool $command
     */
    private function confirm(float $deadline, callable $command): void
    {
        $this->collect();
        $stomp = $this->open();
        $this->setTimeout(max(0.001, $deadline - microtime(true)));
        if ($command($stomp, ['receipt' => bin2hex(random_bytes(8))])) {
            return;
        }
        $error = (string) $stomp->error();
        // Later frames would be taken for answers to this one.
        $this->stomp = null;
        if (self::begins($error, [self::NOT_WRITTEN])) {
            throw new Lost($error);
        }
        if ($error === '') {
            throw new OutcomeUnknown('no receipt came in time: the server may have taken the message or not');
        }
        if (self::begins($error, self::HUNG_UP)) {
            throw new OutcomeUnknown(
                'the connection was lost before the receipt: the message may have been taken or not'
            );
        }
        [$message, $details] = explode("\n\n", $error, 2) + [1 => ''];
        throw self::refusal($message, $details);
    }

    /**
     * Take in what has come already. A server that hung up is noticed here, before anything is sent: then nothing
     * is in doubt.
     */
    private function collect(): void
    {
        $stomp = $this->open();
        $this->setTimeout(0.0);
        while ($stomp->hasFrame()) {
            try {
                $frame = $stomp->readFrame();
            } catch (\StompException $error) {
                $this->stomp = null;
                throw self::refusal($error->getMessage(), (string) $error->getDetails());
            }
            if ($frame instanceof \StompFrame) {
                if (!$this->isTold($frame)) {
                    $this->inbox[] = $frame;
                }
            } elseif ((string) $stomp->error() !== '') {
                throw $this->lost();
            }
        }
    }

    private function isTold(\StompFrame $frame): bool
    {
        if (($frame->headers['subscription'] ?? '') !== self::CONTROL || $this->told === null) {
            return false;
        }
        $this->told[(string) ($frame->headers['job-id'] ?? '')] = new Told(
            (string) ($frame->headers['job-attempt'] ?? ''),
            ($frame->headers['job-event'] ?? '') === 'over',
            (string) ($frame->headers['reason'] ?? 'cancelled')
        );
        return true;
    }

    private function open(): \Stomp
    {
        if ($this->stomp === null) {
            throw new Lost('the connection was lost');
        }
        return $this->stomp;
    }

    private function lost(): Lost
    {
        $reason = $this->stomp === null ? '' : (string) $this->stomp->error();
        $this->stomp = null;
        $this->inbox = [];
        return new Lost($reason === '' ? 'the connection was lost' : $reason);
    }

    private function setTimeout(float $seconds): void
    {
        $this->open()->setReadTimeout((int) $seconds, (int) (fmod($seconds, 1) * 1e6));
    }

    /** @param string[] $prefixes */
    private static function begins(string $text, array $prefixes): bool
    {
        foreach ($prefixes as $prefix) {
            if (strncmp($text, $prefix, strlen($prefix)) === 0) {
                return true;
            }
        }
        return false;
    }

    /** An ERROR frame's `code` header does not come through PECL; the server repeats it in the body. */
    private static function refusal(string $message, string $details): Refused
    {
        $code = preg_match('/^code: ([a-z_]+)$/m', $details, $found) ? $found[1] : null;
        return new Refused($message, $code);
    }
}
