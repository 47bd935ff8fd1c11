<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** The reply did not come before the deadline. The work itself goes on. */
final class ReplyTimeout extends MessagingException
{
    protected $errorCode = 'reply_timeout';

    /** @var string the request's correlation id, which is the job's id if a task was asked for */
    private $jobId;

    /** @var string|null */
    private $statusUrl;

    public function __construct(string $message, string $jobId, ?string $statusUrl)
    {
        parent::__construct($message);
        $this->jobId = $jobId;
        $this->statusUrl = $statusUrl;
    }

    /** The request's correlation id, which is the job's id if a task was asked for. */
    public function jobId(): string
    {
        return $this->jobId;
    }

    /** The page on which a person can follow the job, if the server has told it. */
    public function statusUrl(): ?string
    {
        return $this->statusUrl;
    }
}
