<?php
/**
 * What the examples share: the library, by Composer if it is there.
 */

declare(strict_types=1);

require is_file(__DIR__ . '/../vendor/autoload.php')
    ? __DIR__ . '/../vendor/autoload.php'
    : __DIR__ . '/../src/autoload.php';

/** Let a consumer finish the message that it is at when it is told to end; needs the pcntl extension. */
function stopOnSignals(Msgweb\Messaging $messaging): void
{
    if (!function_exists('pcntl_async_signals')) {
        return;
    }
    pcntl_async_signals(true);
    foreach ([SIGINT, SIGTERM] as $signal) {
        pcntl_signal($signal, static function () use ($messaging): void {
            $messaging->stop();
        });
    }
}
