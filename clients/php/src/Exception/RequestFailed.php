<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** The reply is an error: the job failed, was cancelled, or the worker refused it. */
final class RequestFailed extends MessagingException
{
    protected $errorCode = 'request_failed';

    /** @var string */
    private $jobId;

    public function __construct(string $message, ?string $errorCode, string $jobId)
    {
        parent::__construct($message, $errorCode);
        $this->jobId = $jobId;
    }

    /** The request's correlation id, which is the job's id if a task was asked for. */
    public function jobId(): string
    {
        return $this->jobId;
    }
}
