<?php

declare(strict_types=1);

namespace Msgweb;

/** A body of bytes: PHP's strings do not tell bytes from text, so the sender says it. */
final class Bytes
{
    /** @var string */
    private $data;

    public function __construct(string $data)
    {
        $this->data = $data;
    }

    public function __toString(): string
    {
        return $this->data;
    }
}
