<?php

declare(strict_types=1);

namespace Msgweb;

/**
 * What the server told about a job that is at work here.
 *
 * @internal
 */
final class Told
{
    /** @var string which attempt at the job it speaks of */
    public $attempt;

    /** @var bool the job is this worker's no more; else it is to stop, and still has some seconds for it */
    public $over;

    /** @var string cancelled, timeout, lost or ended */
    public $reason;

    public function __construct(string $attempt, bool $over, string $reason)
    {
        $this->attempt = $attempt;
        $this->over = $over;
        $this->reason = $reason;
    }
}
