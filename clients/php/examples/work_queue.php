#!/usr/bin/env php
<?php
/**
 * Works off a queue: each message goes to one worker, and comes back if that worker fails or dies.
 *
 *     php work_queue.php thumbnails          until Ctrl-C
 *     php work_queue.php thumbnails 100      ends after 100 messages
 *
 * Fill it, from another terminal:
 *
 *     php send.php thumbnails '{"picture": "shoe.jpg", "width": 200}'
 */

declare(strict_types=1);

require __DIR__ . '/bootstrap.php';

$queue = $argv[1] ?? 'thumbnails';
$limit = isset($argv[2]) ? (int) $argv[2] : null;

$messaging = Msgweb\Messaging::fromEnvironment();
stopOnSignals($messaging);

$messaging->on($queue, static function (Msgweb\Message $message): void {
    $again = $message->redelivered() ? ' (again)' : '';
    $body = $message->body();
    echo "working on {$message->id()}$again: ", json_encode($body, JSON_UNESCAPED_SLASHES), PHP_EOL;
    if (is_array($body) && !isset($body['picture'])) {
        // Thrown: the message goes back to the queue, and this worker pauses a little before it takes another.
        throw new RuntimeException('which picture?');
    }
    if ($message->header('reply-to') !== null) {
        $message->progress(1, 2, 'half way');
        $message->reply(['done' => true, 'picture' => $body['picture'] ?? null]);
    }
}, ['prefetch' => 1]);

echo "waiting for messages in $queue", PHP_EOL;
$handled = $messaging->run($limit);
$messaging->close();
echo "handled $handled", PHP_EOL;
