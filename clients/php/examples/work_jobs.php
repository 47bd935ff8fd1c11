#!/usr/bin/env php
<?php
/**
 * Does jobs of a task whose work is done outside: progress and log are on the job's page, and it stops when the job is
 * cancelled there.
 *
 *     php work_jobs.php shop.parcels          until Ctrl-C
 *     php work_jobs.php shop.parcels 3        ends after three jobs
 *
 * A job's body is its arguments. Here: {"order": 7, "parcels": 20, "seconds": 0.5}, and each parcel takes so long.
 */

declare(strict_types=1);

require __DIR__ . '/bootstrap.php';

$queue = $argv[1] ?? 'shop.parcels';
$limit = isset($argv[2]) ? (int) $argv[2] : null;

$messaging = Msgweb\Messaging::fromEnvironment();
stopOnSignals($messaging);

$messaging->on($queue, static function (Msgweb\Message $job): void {
    $asked = $job->body() + ['parcels' => 3, 'seconds' => 0.0];
    echo "job {$job->jobId()}, attempt {$job->attempt()}", PHP_EOL;
    $packed = [];
    try {
        for ($number = 1; $number <= $asked['parcels']; ++$number) {
            usleep((int) ($asked['seconds'] * 1e6)); // the work
            $packed[] = "{$asked['order']}-$number";
            $job->progress($number, $asked['parcels'], "parcel $number"); // throws when the job is to stop
        }
    } catch (Msgweb\Exception\JobCancelled $stop) {
        $job->log('unpacking ' . count($packed) . ' parcels', 'warning'); // a few seconds are there for that
        echo "stopped: {$stop->errorCode()}", PHP_EOL;
        throw $stop; // tells the server that the work has stopped
    }
    $job->reply(['parcels' => $packed]);
}, ['prefetch' => 1]); // a job is much work: another worker may have the next one

echo "waiting for jobs in $queue", PHP_EOL;
$messaging->run($limit);
$messaging->close();
