<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/** A body that cannot be written as JSON or text, or received bytes that are not what their content type says. */
final class BadBody extends BadMessage
{
    protected $errorCode = 'bad_body';
}
