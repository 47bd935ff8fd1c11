<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\BadMessage;

/** A message from a queue or a topic. */
final class Message
{
    /** @var string the body's bytes as they came */
    public $data;

    /** @var array<string, string> all headers, the sender's and the server's */
    public $headers;

    /** @var callable(string, mixed, array<string, string>, bool): void */
    private $answer;

    /**
     * @internal
     * @param array<string, string> $headers
     * @param callable(string, mixed, array<string, string>, bool): void $answer
     */
    public function __construct(string $data, array $headers, callable $answer)
    {
        $this->data = $data;
        $this->headers = $headers;
        $this->answer = $answer;
    }

    /**
     * The body, by its content type: JSON is parsed (objects become arrays), all else is a string.
     *
     * @return mixed
     * @throws Exception\BadBody the bytes are not the JSON that the content type says; they are still in `data`
     */
    public function body()
    {
        return Content::decode($this->data, $this->header('content-type'));
    }

    /** A header's value, or null. */
    public function header(string $name): ?string
    {
        return isset($this->headers[$name]) ? (string) $this->headers[$name] : null;
    }

    /** Where it was sent to, such as `/queue/mails`. */
    public function destination(): string
    {
        return (string) $this->header('destination');
    }

    /** The server's id of the message, the same when it is delivered again. */
    public function id(): string
    {
        return (string) $this->header('message-id');
    }

    /** Whether it may have been delivered before. */
    public function redelivered(): bool
    {
        return $this->header('redelivered') === 'true';
    }

    /** The job that this message asks to work on, if it is one. */
    public function jobId(): ?string
    {
        return $this->header('job-id');
    }

    /**
     * Answer the asker; a job ends successfully with this body as its result.
     *
     * @param mixed $body
     * @throws BadMessage the message has no reply-to
     */
    public function reply($body): void
    {
        $this->respond('result', $body, true);
    }

    /**
     * Answer that it cannot be done; a job ends as failed.
     *
     * @throws BadMessage the message has no reply-to
     */
    public function fail(string $text, string $code = 'task_failed'): void
    {
        $this->respond('error', ['code' => $code, 'message' => $text], true);
    }

    /**
     * Tell how far the work is. Best effort.
     *
     * @throws BadMessage the message has no reply-to
     */
    public function progress(int $done, int $total, string $text = ''): void
    {
        $this->respond('progress', ['done' => $done, 'total' => $total, 'text' => $text], false);
    }

    /**
     * Add a line to the job's log. Best effort; a plain request's asker does not see it.
     *
     * @throws BadMessage the message has no reply-to
     */
    public function log(string $text, string $level = 'info'): void
    {
        $this->respond('log', ['level' => $level, 'text' => $text], false);
    }

    /** @param mixed $body */
    private function respond(string $event, $body, bool $durable): void
    {
        $replyTo = $this->header('reply-to');
        if ($replyTo === null || $replyTo === '') {
            throw new BadMessage('the message has no reply-to: nobody waits for an answer');
        }
        $headers = ['job-event' => $event];
        foreach (['correlation-id', 'job-id'] as $name) {
            if ($this->header($name) !== null) {
                $headers[$name] = (string) $this->header($name);
            }
        }
        ($this->answer)($replyTo, $body, $headers, $durable);
    }
}
