#!/usr/bin/env php
<?php
/**
 * Taoshop's warehouse: hears of each new order on the topic orders.new and prints the picking list.
 *
 *     php warehouse.php          until Ctrl-C
 *     php warehouse.php 1        ends after one order
 *
 * A topic is best effort: what was ordered while nobody listened is in the shop's database, not here.
 */

declare(strict_types=1);

require __DIR__ . '/bootstrap.php';

$credentials = Msgweb\Credentials::fromEnvironment();
$credentials->namespace = getenv('TAOSHOP_NAMESPACE') ?: 'taoshop.development';
$messaging = new Msgweb\Messaging($credentials);
stopOnSignals($messaging);

$messaging->on('/topic/orders.new', static function (Msgweb\Message $message): void {
    $order = $message->body();
    echo "order {$order['number']} for {$order['name']}", PHP_EOL;
    foreach ($order['lines'] as $line) {
        printf("  %3d x %s  %s\n", $line['quantity'], $line['sku'], $line['title']);
    }
});

echo 'the warehouse listens', PHP_EOL;
$messaging->run(isset($argv[1]) ? (int) $argv[1] : null);
$messaging->close();
