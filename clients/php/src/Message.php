<?php

declare(strict_types=1);

namespace Msgweb;

use Msgweb\Exception\BadMessage;
use Msgweb\Exception\JobCancelled;
use Msgweb\Exception\MessagingException;

/** A message from a queue or a topic. */
final class Message
{
    /** @var string the body's bytes as they came */
    public $data;

    /** @var array<string, string> all headers, the sender's and the server's */
    public $headers;

    /** @var callable(string, mixed, array<string, string>, bool): void */
    private $answer;

    /** @var callable(self): ?Told */
    private $told;

    /** @var bool what ends the job has been said */
    private $answered = false;

    /** @var bool JobCancelled was thrown once */
    private $thrown = false;

    /** Progress goes at once so often, and then so many times a second. */
    private const PROGRESS_BURST = 20, PROGRESS_RATE = 20;

    /** @var array{done: int, total: int, text: string}|null progress that came too quickly and was not told yet */
    private $untold;

    /** @var array{done: int, total: int, text: string}|null the latest that was told */
    private $latest;

    /** @var float how often progress may be told at once, since $countedAt */
    private $allowance = self::PROGRESS_BURST;

    /** @var float when that was so (microtime) */
    private $countedAt = 0.0;

    /**
     * @internal
     * @param array<string, string> $headers
     * @param callable(string, mixed, array<string, string>, bool): void $answer
     * @param callable(self): ?Told $told
     */
    public function __construct(string $data, array $headers, callable $answer, callable $told)
    {
        $this->told = $told;
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

    /** Whether it is a job's: then the handler's end is the job's, and it may be cancelled. */
    public function isJob(): bool
    {
        return $this->jobId() !== null && $this->header('reply-to') === '/job/' . $this->jobId();
    }

    /** Which attempt at the job this is, from 1. */
    public function attempt(): ?int
    {
        return $this->header('job-attempt') === null ? null : (int) $this->header('job-attempt');
    }

    /**
     * Why the job is to stop, or null: `cancelled`, `timeout`, `lost` (another worker has it) or `ended`. Looks at what
     * the server has told so far; costs a system call and does not wait.
     *
     * Some seconds after the first two the job is taken away.
     */
    public function cancelled(): ?string
    {
        $told = $this->isJob() ? ($this->told)($this) : null;
        return $told === null ? null : $told->reason;
    }

    /**
     * Stop here, if the job is to stop. progress() and log() do the same, once.
     *
     * @throws JobCancelled let it pass: it tells the server that the work has stopped
     */
    public function checkpoint(): void
    {
        $reason = $this->cancelled();
        if ($reason !== null) {
            $this->thrown = true;
            throw new JobCancelled("the job is to stop: $reason", $reason);
        }
    }

    /**
     * Answer the asker; a job ends successfully with this body as its result.
     *
     * @param mixed $body
     * @throws BadMessage the message has no reply-to
     * @throws JobCancelled it comes too late, and was dropped: the job is not this worker's any more
     */
    public function reply($body): void
    {
        $this->respond('result', $body, true);
        $told = $this->isJob() ? ($this->told)($this) : null;
        if ($told !== null && $told->over) {
            throw new JobCancelled("the result came too late: the job is not this worker's any more", $told->reason);
        }
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
     * @internal
     * @param \Throwable|null $error what the handler threw
     * @return bool whether the message is dealt with; else it goes back to the queue
     */
    public function finish(?\Throwable $error): bool
    {
        $this->tellUntold();
        if (!$this->isJob()) {
            return $error === null;
        }
        if ($this->answered) {
            return true;
        }
        if ($error === null) {
            $this->respond('result', null, true);
        } elseif ($error instanceof JobCancelled) {
            if (in_array($error->errorCode(), ['cancelled', 'timeout'], true)) { // else there is nothing to end
                $this->respond('cancelled', ['reason' => $error->errorCode()], true);
            }
        } else {
            $told = ['message' => get_class($error) . ': ' . $error->getMessage(), 'traceback' => (string) $error];
            if ($error instanceof MessagingException) {
                $told['code'] = $error->errorCode();
            }
            $this->respond('error', $told, true);
        }
        return true;
    }

    /**
     * Tell how far the work is. Best effort, and cheap: after a burst of 20, of what comes quicker than 20 times a
     * second the latest is kept. It is told by the next progress in its stead, and before anything else that is said of
     * the work, but not by itself: PHP has no clock that would. What says that all is done goes at once.
     *
     * @throws BadMessage the message has no reply-to
     * @throws JobCancelled as checkpoint(), once: whoever clears up may still speak
     */
    public function progress(int $done, int $total, string $text = ''): void
    {
        $this->checkpointOnce();
        $this->replyTo();
        $now = microtime(true);
        $earned = max(0.0, $now - $this->countedAt) * self::PROGRESS_RATE;
        $this->allowance = min(self::PROGRESS_BURST, $this->allowance + $earned);
        $this->countedAt = $now;
        $this->untold = ['done' => $done, 'total' => $total, 'text' => $text];
        if ($this->allowance >= 1 || ($done === $total && $this->untold !== $this->latest)) {
            $this->allowance = max(0.0, $this->allowance - 1);
            $this->tellProgress();
        }
    }

    /**
     * Add a line to the job's log. Best effort; a plain request's asker does not see it.
     *
     * @throws BadMessage the message has no reply-to
     * @throws JobCancelled as progress()
     */
    public function log(string $text, string $level = 'info'): void
    {
        $this->checkpointOnce();
        $this->respond('log', ['level' => $level, 'text' => $text], false);
    }

    private function checkpointOnce(): void
    {
        if (!$this->thrown) {
            $this->checkpoint();
        }
    }

    private function tellProgress(): void
    {
        [$this->latest, $this->untold] = [$this->untold, null];
        $this->respond('progress', $this->latest, false);
    }

    /** Progress that was not told yet, before something else is said. Best effort. */
    private function tellUntold(): void
    {
        if ($this->untold !== null) {
            try {
                $this->tellProgress();
            } catch (MessagingException $lost) {
                // What is said next fails as well, or tells more.
            }
        }
    }

    /** @throws BadMessage the message has none */
    private function replyTo(): string
    {
        $replyTo = (string) $this->header('reply-to');
        if ($replyTo === '') {
            throw new BadMessage('the message has no reply-to: nobody waits for an answer');
        }
        return $replyTo;
    }

    /** @param mixed $body */
    private function respond(string $event, $body, bool $durable): void
    {
        $replyTo = $this->replyTo();
        if ($event !== 'progress') {
            $this->tellUntold();
        }
        $headers = ['job-event' => $event];
        foreach (['correlation-id', 'job-id', 'job-attempt'] as $name) {
            if ($this->header($name) !== null) {
                $headers[$name] = (string) $this->header($name);
            }
        }
        ($this->answer)($replyTo, $body, $headers, $durable);
        $this->answered = $this->answered || in_array($event, ['result', 'error', 'cancelled'], true);
    }
}
