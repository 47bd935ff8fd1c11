<?php

declare(strict_types=1);

namespace Msgweb;

/** The answer to a request. */
final class Reply
{
    /** @var mixed parsed JSON (objects as arrays), or a string */
    public $body;

    /** @var array<string, string> */
    public $headers;

    /** @var string the request's correlation id, which is the job's id if a task was asked for */
    public $jobId;

    /** @var string|null the job's page, if a task was asked for */
    public $statusUrl;

    /**
     * @param mixed $body
     * @param array<string, string> $headers
     */
    public function __construct($body, array $headers, string $jobId, ?string $statusUrl)
    {
        $this->body = $body;
        $this->headers = $headers;
        $this->jobId = $jobId;
        $this->statusUrl = $statusUrl;
    }
}
