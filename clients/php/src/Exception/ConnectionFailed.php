<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** Nobody answered before the deadline. Nothing was sent; trying again is safe. */
final class ConnectionFailed extends MessagingException
{
    protected $errorCode = 'connection_failed';
}
