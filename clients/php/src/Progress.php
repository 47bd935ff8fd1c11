<?php

declare(strict_types=1);

namespace Msgweb;

/** How far the work is: done of total units of whatever kind the worker counts. */
final class Progress
{
    /** @var int */
    public $done;

    /** @var int 0 while it is not known */
    public $total;

    /** @var string */
    public $text;

    public function __construct(int $done, int $total, string $text)
    {
        $this->done = $done;
        $this->total = $total;
        $this->text = $text;
    }

    /** 0 to 100; 0 while the total is not known. */
    public function percent(): int
    {
        return $this->total > 0 ? min(100, intdiv($this->done * 100, $this->total)) : 0;
    }

    public function __toString(): string
    {
        return rtrim(sprintf('%3d%% %s', $this->percent(), $this->text));
    }
}
