<?php

declare(strict_types=1);

namespace Msgweb;

/**
 * The connection is over; what had been written before is without effect. Never leaves the library.
 *
 * @internal
 */
final class Lost extends \Exception
{
}
