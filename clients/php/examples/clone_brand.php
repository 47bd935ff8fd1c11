#!/usr/bin/env php
<?php
/**
 * Asks for a clone of a brand, watches it, and gets the report: request-reply with progress.
 *
 *     php clone_brand.php ember "Ember Nord" nord.example
 *
 * The work is done by a worker, wherever it runs. Ctrl-C here does not stop it: the job goes on, and its page shows it.
 */

declare(strict_types=1);

require __DIR__ . '/bootstrap.php';

if ($argc !== 4) {
    fwrite(STDERR, "usage: php clone_brand.php BRAND NAME DOMAIN\n");
    exit(2);
}
[, $brand, $name, $domain] = $argv;

$credentials = Msgweb\Credentials::fromEnvironment();
$credentials->namespace = getenv('FIREBRAND_NAMESPACE') ?: 'firebrand.development';
$messaging = new Msgweb\Messaging($credentials);

try {
    $reply = $messaging->request(
        'firebrand.clone_brand',
        ['brand' => $brand, 'name' => $name, 'domain' => $domain],
        [
            'timeout' => 3600,
            'on_accepted' => static function (string $jobId, ?string $statusUrl): void {
                echo "job $jobId", PHP_EOL, "watch it at $statusUrl", PHP_EOL;
            },
            'on_progress' => static function (Msgweb\Progress $progress): void {
                echo $progress, PHP_EOL;
            },
        ]
    );
    echo 'done: ', json_encode($reply->body, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES), PHP_EOL;
} catch (Msgweb\Exception\ReplyTimeout $late) {
    fwrite(STDERR, "no reply yet; the job goes on: {$late->statusUrl()}\n");
    exit(3);
} catch (Msgweb\Exception\MessagingException $error) {
    fwrite(STDERR, "{$error->errorCode()}: {$error->getMessage()}\n");
    exit(1);
}
