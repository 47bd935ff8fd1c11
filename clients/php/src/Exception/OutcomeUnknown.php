<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/**
 * The message left, but the connection was lost, or the deadline passed, before its receipt came.
 *
 * The server may have taken it or not. Sending it again makes at worst a duplicate; not sending it again loses it at
 * worst. Which of the two is right only the caller can know.
 */
final class OutcomeUnknown extends MessagingException
{
    protected $errorCode = 'outcome_unknown';
}
