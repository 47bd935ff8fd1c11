<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\BadMessage;
use Msgweb\Exception\ConnectionFailed;
use Msgweb\Exception\JobCancelled;
use Msgweb\Exception\MessagingException;
use Msgweb\Exception\OutcomeUnknown;
use Msgweb\Exception\Refused;
use Msgweb\Exception\ReplyTimeout;
use Msgweb\Exception\RequestFailed;

/**
 * A program's door to one namespace: fire-and-forget, publish-subscribe, request-reply, consume.
 *
 * Connects at the first verb and again, with back-off, whenever the connection was lost. The same verbs as in Python.
 *
 *     $messaging = Msgweb\Messaging::fromEnvironment();
 *     $messaging->send('mails', ['to' => 'ann@example.org']);
 *     $reply = $messaging->request('firebrand.clone_brand', ['source' => 'acme'], ['timeout' => 600]);
 */
final class Messaging
{
    private const BACK_OFF_FIRST = 0.1;
    private const BACK_OFF_MOST = 5.0;

    /** The server's codes that mean "not now" rather than "not you". */
    private const PASSING = ['unavailable', 'session_lost'];

    /** Named in reply-to alone: the server makes the reply queue and subscribes this connection to it. */
    private const REPLY_QUEUE = '/temp-queue/replies';

    /** Headers that STOMP or this library sets; a caller's own would be dropped or, worse, obeyed. */
    private const RESERVED = [
        'destination', 'receipt', 'transaction', 'content-length', 'message-id', 'subscription', 'ack', 'id',
    ];

    /** @var Credentials */
    private $credentials;

    /** @var float */
    private $timeout;

    /** @var Connection|null */
    private $connection;

    /** @var array<string, array{destination: string, handler: callable, prefetch: int, failures: int}> by id */
    private $consumers = [];

    /** @var \StompFrame[] messages for the handlers that came while a reply was waited for */
    private $backlog = [];

    /** @var bool */
    private $stopped = false;

    /** @param float $timeout seconds that a verb may take to connect and to get its receipt, unless told otherwise */
    public function __construct(Credentials $credentials, float $timeout = 10.0)
    {
        $this->credentials = $credentials;
        $this->timeout = $timeout;
    }

    /**
     * As MSGWEB_STOMP, MSGWEB_LOGIN, MSGWEB_PASSCODE and MSGWEB_NAMESPACE say, else the credentials file.
     *
     * @throws Exception\BadCredentials there is not enough of either
     */
    public static function fromEnvironment(float $timeout = 10.0): self
    {
        return new self(Credentials::fromEnvironment(), $timeout);
    }

    /**
     * As an installation's `credentials.json` says.
     *
     * @throws Exception\BadCredentials the file cannot be read, or lacks something
     */
    public static function fromCredentials(string $path, float $timeout = 10.0): self
    {
        return new self(Credentials::fromFile($path), $timeout);
    }

    /** Leave. What was received and not handled goes to others. */
    public function close(): void
    {
        if ($this->connection !== null) {
            $this->connection->close();
            $this->connection = null;
        }
        $this->backlog = [];
    }

    /**
     * Fire and forget: when this returns, the server has stored the message durably.
     *
     * @param string $queue `mails`, or in full `/queue/mails`
     * @param mixed $body a string goes as text, Bytes as bytes, all else as JSON
     * @param array{headers?: array<string, string>, priority?: int, persistent?: bool, timeout?: float} $options
     *        priority: 0 to 9, higher first, 4 without one; persistent: false gives up safety for speed
     * @throws BadMessage it cannot be sent
     * @throws ConnectionFailed nobody answered; nothing was sent
     * @throws Refused the server does not take it
     * @throws OutcomeUnknown it left, but no receipt came
     */
    public function send(string $queue, $body, array $options = []): void
    {
        $options = self::options($options, ['headers', 'priority', 'persistent', 'timeout']);
        $headers = self::checked($options['headers'] ?? []);
        if (isset($options['priority'])) {
            if (!is_int($options['priority']) || $options['priority'] < 0 || $options['priority'] > 9) {
                throw new BadMessage('a priority is 0 to 9, not ' . json_encode($options['priority']));
            }
            $headers['priority'] = (string) $options['priority'];
        }
        $headers['persistent'] = ($options['persistent'] ?? true) ? 'true' : 'false';
        $this->deliver(self::full($queue, '/queue/'), $body, $headers, $this->deadline($options));
    }

    /**
     * Tell whoever listens now; best effort: nobody listening is no error.
     *
     * @param string $topic `orders.new`, or in full `/topic/orders.new`
     * @param mixed $body as for send
     * @param array{headers?: array<string, string>, timeout?: float} $options
     * @throws BadMessage|ConnectionFailed|Refused|OutcomeUnknown as send
     */
    public function publish(string $topic, $body, array $options = []): void
    {
        $options = self::options($options, ['headers', 'timeout']);
        $headers = self::checked($options['headers'] ?? []);
        $this->deliver(self::full($topic, '/topic/'), $body, $headers, $this->deadline($options));
    }

    /**
     * Ask for work and wait for its result.
     *
     * A task's job goes on if this process dies, and is asked for again, under the same id, if the connection was
     * lost: it runs once. A request to a queue is not repeated: who works there need not notice a repeat.
     *
     * @param string $task a task, `firebrand.clone_brand`, or a queue in full, `/queue/thumbnails`
     * @param mixed $body a task's arguments as an array, or whatever the queue's consumer expects
     * @param array{timeout?: float, headers?: array<string, string>, on_accepted?: callable(string, ?string): mixed,
     *        on_progress?: callable(Progress): mixed, job_id?: string} $options
     *        timeout: seconds until the reply must be there, 60 without one; on_accepted: called with the job's id
     *        and its status page when the server has taken the task; job_id: a UUID, for those who ask again
     * @throws BadMessage|ConnectionFailed|Refused nothing was begun
     * @throws OutcomeUnknown the connection was lost, and the request, to a queue, may have arrived or not
     * @throws ReplyTimeout no reply in time; the work goes on
     * @throws RequestFailed the reply is an error
     */
    public function request(string $task, $body, array $options = []): Reply
    {
        $options = self::options($options, ['timeout', 'headers', 'on_accepted', 'on_progress', 'job_id']);
        $timeout = (float) ($options['timeout'] ?? 60.0);
        $deadline = microtime(true) + $timeout;
        $destination = self::full($task, '/task/');
        $repeatable = strncmp($destination, '/task/', 6) === 0;
        $id = $options['job_id'] ?? self::uuid();
        $headers = self::checked($options['headers'] ?? []);
        $headers = ['reply-to' => self::REPLY_QUEUE, 'correlation-id' => $id, 'persistent' => 'true'] + $headers;
        if ($repeatable && (isset($options['on_progress']) || isset($options['on_accepted']))) {
            $headers['progress'] = 'true';
        }
        $statusUrl = null;
        $asked = false;
        while (true) {
            try {
                if (!$asked) {
                    $this->deliver($destination, $body, $headers, $deadline);
                    $asked = true;
                }
                $frame = $this->connection === null ? null : $this->connection->read($deadline);
            } catch (OutcomeUnknown $unknown) {
                // The job's id makes the ask idempotent: asked twice, it is one job.
                if (!$repeatable || microtime(true) >= $deadline) {
                    throw $unknown;
                }
                continue;
            } catch (Lost $lost) {
                if (!$repeatable) {
                    throw new OutcomeUnknown('the connection was lost before the reply came', null, $lost);
                }
                $asked = false; // the reply queue went with the connection
                continue;
            }
            if ($frame === null) {
                if (microtime(true) >= $deadline) {
                    $text = sprintf('no reply within %g s; the work may go on', $timeout);
                    throw new ReplyTimeout($text, $id, $statusUrl);
                }
                continue; // a signal
            }
            if (isset($this->consumers[$frame->headers['subscription'] ?? ''])) {
                $this->backlog[] = $frame;
                continue;
            }
            if (($frame->headers['correlation-id'] ?? '') !== $id) {
                continue; // a late reply to a request that was given up
            }
            $message = $this->message($frame);
            $answer = $message->body();
            $told = is_array($answer) ? $answer : [];
            switch ($frame->headers['job-event'] ?? 'result') {
                case 'accepted':
                    $statusUrl = isset($told['status_url']) ? (string) $told['status_url'] : null;
                    if (isset($options['on_accepted'])) {
                        $options['on_accepted']($id, $statusUrl);
                    }
                    break;
                case 'progress':
                    if (isset($options['on_progress'])) {
                        $options['on_progress'](new Progress(
                            (int) ($told['done'] ?? 0),
                            (int) ($told['total'] ?? 0),
                            (string) ($told['text'] ?? '')
                        ));
                    }
                    break;
                case 'error':
                    $text = (string) ($told['message'] ?? ($message->data ?: 'the work failed'));
                    throw new RequestFailed($text, isset($told['code']) ? (string) $told['code'] : null, $id);
                case 'result':
                    return new Reply($answer, $frame->headers, $id, $statusUrl);
            }
        }
    }

    /**
     * Listen to a queue or a topic; run() calls the handler with each message.
     *
     * When this returns, the subscription stands. A queue's message is acknowledged when the handler returned, and
     * goes back to the queue when it threw. A job ends with the handler: it has succeeded when that returned (with
     * null, where it did not reply), and failed when it threw.
     *
     * @param string $destination a queue, `mails`; a topic is named in full, `/topic/orders.new`
     * @param callable(Message): mixed $handler
     * @param array{prefetch?: int, timeout?: float} $options
     *        prefetch: how many messages of a queue may be here unhandled, 10 without one; 1 where a message is
     *        much work
     * @throws BadMessage no destination, or a prefetch below 1
     * @throws ConnectionFailed|Refused|OutcomeUnknown it does not listen
     */
    public function on(string $destination, callable $handler, array $options = []): void
    {
        $options = self::options($options, ['prefetch', 'timeout']);
        $prefetch = (int) ($options['prefetch'] ?? 10);
        if ($prefetch < 1) {
            throw new BadMessage("prefetch is at least 1, not $prefetch");
        }
        $deadline = $this->deadline($options);
        $connection = $this->connect($deadline);
        $id = 'on-' . (count($this->consumers) + 1);
        $consumer = [
            'destination' => self::full($destination, '/queue/'),
            'handler' => $handler,
            'prefetch' => $prefetch,
            'failures' => 0,
        ];
        try {
            $this->subscribe($connection, $id, $consumer, $deadline);
            $this->consumers[$id] = $consumer;
        } catch (Lost | OutcomeUnknown $lost) {
            $this->consumers[$id] = $consumer;
            $this->connect($deadline); // which subscribes
        }
    }

    /**
     * Call the handlers with what arrives, until stop(); returns how many messages were handled.
     *
     * @param int|null $limit stop after so many messages
     * @param float|null $idle stop when nothing came for so many seconds
     * @throws BadMessage nothing to listen to: call on() first
     * @throws Refused the server no longer lets us in
     */
    public function run(?int $limit = null, ?float $idle = null): int
    {
        if ($this->consumers === []) {
            throw new BadMessage('nothing to listen to: call on() first');
        }
        $this->stopped = false;
        $handled = 0;
        $quiet = $idle === null ? INF : microtime(true) + $idle;
        while (!$this->stopped && ($limit === null || $handled < $limit)) {
            try {
                $connection = $this->connect(null);
                // A signal ends the wait at once; its handler runs here, outside the extension.
                $frame = array_shift($this->backlog) ?? $connection->read(min($quiet, microtime(true) + 60.0));
            } catch (Lost $lost) {
                continue;
            } catch (ConnectionFailed $failed) {
                break; // stopped while connecting
            }
            if ($frame === null) {
                if (microtime(true) >= $quiet) {
                    break;
                }
                continue;
            }
            if (isset($this->consumers[$frame->headers['subscription'] ?? ''])) {
                $this->handle($connection, $frame);
                ++$handled;
                $quiet = $idle === null ? INF : microtime(true) + $idle;
            }
        }
        return $handled;
    }

    /** Make run() return after the message that it is at; may be called from a handler or a signal handler. */
    public function stop(): void
    {
        $this->stopped = true;
    }

    // ---------------------------------------------------------------------------------------------------- inside

    private function handle(Connection $connection, \StompFrame $frame): void
    {
        $id = (string) $frame->headers['subscription'];
        $message = $this->message($frame);
        $isTopic = self::isTopic($this->consumers[$id]['destination']);
        $thrown = null;
        try {
            if ($message->isJob()) {
                $connection->listenToJobs();
                $message->checkpoint(); // it may have waited here for long
            }
            ($this->consumers[$id]['handler'])($message);
        } catch (Lost $lost) {
            error_log("the connection was lost before message {$message->id()} was begun: it comes again");
            return;
        } catch (\Throwable $error) {
            $thrown = $error;
        }
        if (!$thrown instanceof JobCancelled && $thrown !== null) {
            error_log("the handler of {$message->destination()} threw on message {$message->id()}: $thrown");
        }
        try {
            $done = $message->finish($thrown);
        } catch (MessagingException $error) {
            error_log("how the job {$message->jobId()} ended cannot be told: {$error->getMessage()}");
            $done = false;
        }
        $connection->forgetJob((string) $message->jobId());
        if ($done) {
            $this->consumers[$id]['failures'] = 0;
        } elseif (!$isTopic) {
            // Without the pause a message that no one can handle would be thrown and caught as fast as the wire allows.
            $this->pause($this->consumers[$id]['failures']++);
        }
        if ($isTopic) {
            return;
        }
        try {
            $done ? $connection->ack($message->id(), $id) : $connection->nack($message->id(), $id);
        } catch (Lost $lost) {
            error_log("the connection was lost before message {$message->id()} was acknowledged: it comes again");
        }
    }

    private function message(\StompFrame $frame): Message
    {
        $came = $this->connection;
        return new Message(
            (string) $frame->body,
            $frame->headers,
            function (string $destination, $body, array $headers, bool $durable): void {
                if ($durable) {
                    $this->deliver($destination, $body, ['persistent' => 'true'] + $headers, $this->deadline([]));
                    return;
                }
                [$data, $type] = Content::encode($body);
                try {
                    $connection = $this->connect($this->deadline([]));
                    $connection->sendUnconfirmed($destination, $data, $headers + ['content-type' => $type]);
                } catch (Lost $lost) {
                    // Progress is best effort: the next one tells more than a repeat would.
                }
            },
            function (Message $message) use ($came): ?Told {
                if ($this->connection !== $came) {
                    return new Told((string) $message->attempt(), false, 'lost'); // the server gave it to another
                }
                try {
                    $told = $came->told((string) $message->jobId());
                } catch (Lost | Refused $gone) {
                    return new Told((string) $message->attempt(), false, 'lost');
                }
                return $told !== null && $told->attempt === (string) $message->attempt() ? $told : null;
            }
        );
    }

    /**
     * @param mixed $body
     * @param array<string, string> $headers
     */
    private function deliver(string $destination, $body, array $headers, float $deadline): void
    {
        [$data, $type] = Content::encode($body);
        while (true) {
            try {
                $this->connect($deadline)->send($destination, $data, $headers + ['content-type' => $type], $deadline);
                return;
            } catch (Lost $lost) {
                if (microtime(true) >= $deadline) {
                    throw new ConnectionFailed('the connection was lost; nothing was sent', null, $lost);
                }
            }
        }
    }

    /** The connection, opened if need be: with back-off until the deadline, or without one until stop(). */
    private function connect(?float $deadline): Connection
    {
        $failures = 0;
        while (true) {
            if ($this->connection !== null && $this->connection->alive()) {
                return $this->connection;
            }
            $this->connection = null;
            $this->backlog = []; // the server has given them to someone else
            $until = microtime(true) + $this->timeout;
            if ($deadline !== null) {
                $until = min($until, $deadline);
            }
            try {
                $connection = new Connection($this->credentials, $until);
                foreach ($this->consumers as $id => $consumer) {
                    $this->subscribe($connection, $id, $consumer, $until);
                }
                return $this->connection = $connection;
            } catch (ConnectionFailed | Refused | OutcomeUnknown | Lost $error) {
                if ($error instanceof Refused && !in_array($error->errorCode(), self::PASSING, true)) {
                    throw $error;
                }
                $wait = self::backOff($failures);
                if ($deadline !== null && microtime(true) + $wait >= $deadline) {
                    throw new ConnectionFailed($error->getMessage(), null, $error);
                }
                if ($deadline === null && $this->stopped) {
                    throw new ConnectionFailed('stopped while connecting', null, $error);
                }
                $this->pause($failures++);
            }
        }
    }

    /** @param array{destination: string, handler: callable, prefetch: int, failures: int} $consumer */
    private function subscribe(Connection $connection, string $id, array $consumer, float $deadline): void
    {
        $headers = ['id' => $id];
        if (self::isTopic($consumer['destination'])) {
            $headers['ack'] = 'auto';
        } else {
            $headers['ack'] = 'client-individual';
            $headers['prefetch-count'] = (string) $consumer['prefetch'];
        }
        $connection->subscribe($consumer['destination'], $headers, $deadline);
    }

    /** @param array<string, mixed> $options */
    private function deadline(array $options): float
    {
        return microtime(true) + (float) ($options['timeout'] ?? $this->timeout);
    }

    /** Waits before another attempt; a signal ends the wait. */
    private function pause(int $failures): void
    {
        usleep((int) (self::backOff($failures) * 1e6));
    }

    /** Seconds to wait after so many failures: doubling, bounded, and jittered, so that clients do not come in step. */
    private static function backOff(int $failures): float
    {
        return min(self::BACK_OFF_MOST, self::BACK_OFF_FIRST * 2 ** min($failures, 10)) * random_int(500, 1000) / 1000;
    }

    private static function isTopic(string $destination): bool
    {
        return strncmp($destination, '/topic/', 7) === 0;
    }

    private static function full(string $name, string $prefix): string
    {
        $full = $name !== '' && $name[0] === '/' ? $name : $prefix . $name;
        if ($full === $prefix || preg_match('/[\x00-\x1f\x7f]/', $full)) {
            throw new BadMessage(json_encode($name) . ' is no destination');
        }
        return $full;
    }

    /**
     * The caller's headers, as they may go on the wire: STOMP 1.0 has no escapes, so a line end cannot be sent.
     *
     * @param array<mixed, mixed> $headers
     * @return array<string, string>
     */
    private static function checked(array $headers): array
    {
        $out = [];
        foreach ($headers as $name => $value) {
            if (!is_string($name) || $name === '' || preg_match('/[:\\\\\x00-\x1f]/', $name)) {
                throw new BadMessage(json_encode($name) . ' cannot be the name of a header');
            }
            if (in_array($name, self::RESERVED, true)) {
                throw new BadMessage("the header $name is not the sender's to set");
            }
            if (!is_string($value) || preg_match('/[\x00\r\n]/', $value)) {
                throw new BadMessage("the header $name must be a string without line ends");
            }
            $out[$name] = $value;
        }
        return $out;
    }

    /**
     * @param array<string, mixed> $options
     * @param string[] $known
     * @return array<string, mixed>
     */
    private static function options(array $options, array $known): array
    {
        if ($unknown = array_diff(array_keys($options), $known)) {
            throw new BadMessage('unknown option: ' . implode(', ', $unknown));
        }
        return $options;
    }

    private static function uuid(): string
    {
        $bytes = random_bytes(16);
        $bytes[6] = chr(ord($bytes[6]) & 0x0f | 0x40);
        $bytes[8] = chr(ord($bytes[8]) & 0x3f | 0x80);
        return vsprintf('%s%s-%s-%s-%s-%s%s%s', str_split(bin2hex($bytes), 4));
    }
}
