<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** The server answered with an ERROR frame. Nothing took effect. */
final class Refused extends MessagingException
{
    protected $errorCode = 'refused';
}
