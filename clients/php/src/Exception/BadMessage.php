<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** A message that cannot be sent: a bad destination, header or priority. Nothing was sent. */
class BadMessage extends MessagingException
{
    protected $errorCode = 'bad_message';
}
