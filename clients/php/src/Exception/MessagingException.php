<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/**
 * Base of every error that the Messaging API raises on purpose.
 *
 *     MessagingException
 *     ├── BadCredentials     the file or the environment does not say where to connect to
 *     ├── BadMessage         a message that cannot be sent, such as a priority of 12
 *     │   └── BadBody        a body that is no JSON, or no text where its content type says so
 *     ├── ConnectionFailed   nobody answered before the deadline; nothing was sent
 *     ├── Refused            the server's ERROR frame
 *     ├── OutcomeUnknown     sent, but no receipt came: the server may have taken it or not
 *     ├── ReplyTimeout       no reply before the deadline; the work may go on
 *     ├── RequestFailed      the reply is an error; errorCode() is the worker's
 *     └── JobCancelled       the job that a handler works on is to stop, or is somebody else's
 */
class MessagingException extends \RuntimeException
{
    /** @var string */
    protected $errorCode = 'messaging_error';

    public function __construct(string $message, ?string $errorCode = null, ?\Throwable $previous = null)
    {
        parent::__construct($message, 0, $previous);
        if ($errorCode !== null && $errorCode !== '') {
            $this->errorCode = $errorCode;
        }
    }

    /** Stable and machine-readable, the same in PHP, Python, STOMP and REST; PHP's own getCode() is a number. */
    public function errorCode(): string
    {
        return $this->errorCode;
    }
}
