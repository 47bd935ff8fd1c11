#!/usr/bin/env php
<?php
/**
 * Sends a message to a queue, fire and forget: stored safely once this ends.
 *
 *     php send.php thumbnails '{"picture": "shoe.jpg", "width": 200}'
 *     php send.php greetings 'Good morning'
 */

declare(strict_types=1);

require __DIR__ . '/bootstrap.php';

if ($argc !== 3) {
    fwrite(STDERR, "usage: php send.php QUEUE BODY\n");
    exit(2);
}
[, $queue, $body] = $argv;
$json = json_decode($body, true);

try {
    Msgweb\Messaging::fromEnvironment()->send($queue, $json ?? $body);
    echo "stored in $queue", PHP_EOL;
} catch (Msgweb\Exception\MessagingException $error) {
    fwrite(STDERR, "{$error->errorCode()}: {$error->getMessage()}\n");
    exit(1);
}
