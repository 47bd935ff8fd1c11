<?php

declare(strict_types=1);

namespace Msgweb\Exception;

/**
 * The job that this handler works on is to stop, or is somebody else's: clear up and let this pass.
 *
 * errorCode() says why: `cancelled`, `timeout`, `lost` (another worker has it) or `ended`.
 */
final class JobCancelled extends MessagingException
{
    protected $errorCode = 'cancelled';
}
