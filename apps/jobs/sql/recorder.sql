-- What workers and Django record of jobs. Every statement but `lock` relies on the rows of its jobs being locked by
-- this transaction: that is the fence, and the order of a job's events.

-- name: lock
-- Lock the rows of jobs and read what the fence compares. Rows that another transaction holds are left out
-- (SKIP LOCKED): one caller's long transaction must not hold up the jobs of a whole worker.
--   ids uuid[]
-- Locks: the rows FOR NO KEY UPDATE, in the order of their ids, until the end of the transaction.
SELECT id, namespace, state, attempt, delivery, worker, cancel_requested_at, ticket, held_at IS NOT NULL AS held,
       attempt = 0 AND expires_at <= clock_timestamp() AS late, limits IS NOT NULL AS limited, on_death,
       reply_to, correlation_id, wants_progress, failures
FROM jobs_job WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED

-- name: admit_fresh
-- Which of these jobs may begin though their start is recorded later: it would be taken, decides nothing (no limit, no
-- expiry, no attempt of a worker that died) and keeps no time. One row of `jobs_admission` says which those are.
--   ids uuid[], deliveries int[], tickets int[]: in order. session int, number bigint, host text, pid int: who asks
-- Returns for each of them its position, from 1.
-- Whoever changes a job at this moment from outside is heard first: it has locked the row. A row that nobody has locked
-- since it was written (its xmax is 0) need not be locked to know that: who locks it after this look sees, once it has the
-- lock, that the message is held, since that was committed before.
-- Locks: the other rows FOR NO KEY UPDATE for a moment, skipping those that others hold.
WITH asked AS MATERIALIZED (
    SELECT g.position, j.xmax = '0' AS untouched, j.id, j.attempt, j.task, j.namespace, j.arguments::text, j.failures,
        j.ticket, g.delivery
    FROM ROWS FROM (unnest(%(ids)s::uuid[]), unnest(%(deliveries)s::int[]), unnest(%(tickets)s::int[])) WITH ORDINALITY
        AS g (id, delivery, ticket, position)
    JOIN jobs_job j ON j.id = g.id
    WHERE j.state IN ('ready', 'scheduled', 'waiting') AND j.ticket = g.ticket AND j.delivery <= g.delivery
      AND j.held_at IS NULL AND j.cancel_requested_at IS NULL AND j.limits IS NULL AND j.expires_at IS NULL
      AND j.timeout IS NULL AND j.deaths = 0 AND (j.on_death = 'resume' OR j.on_death = 'retry' AND j.attempt = 0)
), locked AS MATERIALIZED (
    SELECT a.position, j.id, j.attempt, j.task, j.namespace, j.arguments::text, j.failures
    FROM asked a JOIN jobs_job j ON j.id = a.id
    WHERE NOT a.untouched  -- and as above, since it may have changed before it could be locked
      AND j.state IN ('ready', 'scheduled', 'waiting') AND j.ticket = a.ticket AND j.delivery <= a.delivery
      AND j.held_at IS NULL AND j.cancel_requested_at IS NULL AND j.limits IS NULL AND j.expires_at IS NULL
      AND j.timeout IS NULL AND j.deaths = 0 AND (j.on_death = 'resume' OR j.on_death = 'retry' AND j.attempt = 0)
    FOR NO KEY UPDATE OF j SKIP LOCKED
), fresh AS MATERIALIZED (
    SELECT position, id, attempt, task, namespace, arguments, failures FROM asked WHERE untouched
    UNION ALL
    SELECT position, id, attempt, task, namespace, arguments, failures FROM locked
), traced AS (
    INSERT INTO jobs_admission (session, number, host, pid, jobs, attempts)
    SELECT %(session)s, %(number)s, %(host)s, %(pid)s, array_agg(id), array_agg(attempt + 1) FROM fresh HAVING count(*) > 0
)
SELECT position, attempt, task, namespace, arguments, failures FROM fresh

-- name: admit_claimed
-- `admit_fresh`, of the messages that a claim takes, and `settle_admissions`, of this session's batches: no statement, but
-- parts of the claim's (`apps.broker.engine.Companion`). So it waits for nothing, and headers that name no job are no error.
--   session int; tasks text (a line each): of these alone. number bigint, host text, pid int: who asks, as there.
--   settled text (numbers, commas between them)
-- Returns of each message that was never delivered before and names a job: id, job, ticket; and, if it may begin, attempts
-- before, task, namespace, arguments, failures, else nulls. Of a claim of more than 50 nothing: the joins are nested loops.
given AS MATERIALIZED (
    SELECT c.id AS message,
        substring(h.lines FROM '(?n)^job-id:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$')::uuid AS job,
        coalesce(substring(h.lines FROM '(?n)^job-ticket:([0-9]{1,9})$')::int, 0) AS ticket
    FROM taken c CROSS JOIN LATERAL (SELECT encode(c.headers, 'escape') AS lines OFFSET 0) h
    WHERE c.deliveries = 1 AND (SELECT count(*) FROM taken) <= 50
), fresh AS MATERIALIZED (
    SELECT g.message, j.id, j.attempt, j.task, j.namespace, j.arguments::text, j.failures
    FROM given g JOIN jobs_job j ON j.id = g.job
    WHERE j.task = ANY (string_to_array(%(tasks)s::text, E'\n'))
      AND j.state IN ('ready', 'scheduled', 'waiting') AND j.ticket = g.ticket AND j.delivery <= 1
      AND j.held_at IS NULL AND j.cancel_requested_at IS NULL AND j.limits IS NULL AND j.expires_at IS NULL
      AND j.timeout IS NULL AND j.deaths = 0 AND (j.on_death = 'resume' OR j.on_death = 'retry' AND j.attempt = 0)
    FOR NO KEY UPDATE OF j SKIP LOCKED
), traced AS (
    INSERT INTO jobs_admission (session, number, host, pid, jobs, attempts)
    SELECT %(session)s, %(number)s::int8, %(host)s::text, %(pid)s::int4, array_agg(id), array_agg(attempt + 1)
    FROM fresh HAVING count(*) > 0
), settled AS (
    DELETE FROM jobs_admission a
    WHERE a.session = %(session)s AND a.number = ANY (string_to_array(%(settled)s::text, ',')::int8[])
), along AS (
    SELECT g.message AS id, g.job, g.ticket, f.attempt::int4, f.task, f.namespace, f.arguments, f.failures::int4
    FROM given g LEFT JOIN fresh f ON f.message = g.message WHERE g.job IS NOT NULL
)

-- name: settle_admissions
-- All of these batches is on record, or was given back. Of a session that is dead they are kept: of its jobs, those that
-- it could not record any more are yet to be recovered.
--   sessions int[], numbers bigint[]: in order
DELETE FROM jobs_admission a
USING ROWS FROM (unnest(%(sessions)s::int[]), unnest(%(numbers)s::bigint[])) AS g (session, number)
WHERE a.session = g.session AND a.number = g.number AND EXISTS (SELECT FROM msgweb.session s WHERE s.id = a.session)

-- name: recover
-- See msgweb.recover_attempts.
--   ids uuid[]
SELECT msgweb.recover_attempts(%(ids)s::uuid[])

-- name: alive
-- Which sessions live.
--   sessions int[]
-- Locks: they live until the end of the transaction.
SELECT msgweb.living_sessions(%(sessions)s::int[])

-- name: peek
-- The same without locks, to tell a row that another holds from one that is not there.
--   ids uuid[]
SELECT id, state, attempt, delivery, worker FROM jobs_job WHERE id = ANY (%(ids)s::uuid[])

-- name: orphans
-- Jobs whose worker died with them: their task, how many have died in a row, whether that one had been told to stop, and
-- whether the job had come further under it, so that it counts as the first.
--   ids uuid[]
SELECT j.id, j.task, j.deaths, a.stopping_at IS NOT NULL AS stopping,
       j.on_death <> 'retry' AND EXISTS (SELECT FROM jobs_step s WHERE s.job_id = j.id AND s.attempt = j.attempt) AS further
FROM jobs_job j LEFT JOIN jobs_attempt a ON a.job_id = j.id AND a.number = j.attempt
WHERE j.id = ANY (%(ids)s::uuid[])

-- name: count_deaths
-- Of the worker that had begun an attempt which is still open.
--   ids uuid[], deaths int[], errors text[] (JSON or null)
WITH given AS (
    SELECT id, deaths, error::jsonb AS error
    FROM unnest(%(ids)s::uuid[], %(deaths)s::int[], %(errors)s::text[]) AS g (id, deaths, error)
), told AS (
    UPDATE jobs_attempt a SET error = g.error FROM given g WHERE a.job_id = g.id AND a.ended_at IS NULL
)
UPDATE jobs_job j SET deaths = g.deaths FROM given g WHERE j.id = g.id

-- name: stopping
-- The worker of attempts was told to stop: if it is killed now, that is no death of theirs.
--   ids uuid[], attempts int[]
UPDATE jobs_attempt a SET stopping_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS g (id, attempt) WHERE a.job_id = g.id AND a.number = g.attempt

-- name: start
-- A worker begins an attempt. An attempt that is still open belonged to a worker that died: it was interrupted, and of a
-- job that is to begin anew then, finished steps are forgotten.
--   ids uuid[], deliveries int[], again uuid[] (those that have been begun before), worker bigint, host text, pid int
-- Attempts are found by the primary key of each, whatever the planner thinks of the table's size.
WITH given AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(deliveries)s::int[]) AS g (id, delivery)
), interrupted AS (
    UPDATE jobs_attempt a SET ended_at = clock_timestamp(), outcome = 'interrupted'
    WHERE a.id = ANY (ARRAY(
        SELECT open.id FROM unnest(%(again)s::uuid[]) AS g (id) CROSS JOIN LATERAL (
            SELECT x.id FROM jobs_attempt x WHERE x.job_id = g.id AND x.ended_at IS NULL OFFSET 0) AS open))
    RETURNING a.job_id
), started AS (
    UPDATE jobs_job j
    SET state = 'running', attempt = j.attempt + 1, delivery = g.delivery, worker = %(worker)s,
        started_at = coalesce(j.started_at, statement_timestamp()), limits = j.limits - 'reserved'
    FROM given g WHERE j.id = g.id
    RETURNING j.id, j.attempt, j.task, j.namespace, j.arguments, j.failures, j.timeout, j.on_death, j.error, j.deaths
), forgotten AS (
    DELETE FROM jobs_step p USING started s
    WHERE p.job_id = s.id AND s.on_death = 'retry'
      AND (s.error->>'code' IN ('slot_died', 'worker_died') OR s.id IN (SELECT job_id FROM interrupted))
), opened AS (
    INSERT INTO jobs_attempt (job_id, number, worker, host, pid, started_at, outcome)
    SELECT id, attempt, %(worker)s, %(host)s, %(pid)s, statement_timestamp(), '' FROM started
), noted AS (
    INSERT INTO jobs_event (job_id, at, kind, data)
    SELECT s.id, clock_timestamp(), 'state', jsonb_build_object('state', 'running', 'attempt', s.attempt)
        || CASE WHEN i.job_id IS NULL THEN '{}' ELSE
            jsonb_build_object('text', 'taken up again: attempt ' || s.attempt - 1 || ' was interrupted'
                || CASE WHEN s.deaths > 0 THEN ' (deaths of its workers: ' || s.deaths || ')' ELSE '' END) END
    FROM started s LEFT JOIN interrupted i ON i.job_id = s.id
)
SELECT id, attempt, task, namespace, arguments::text, failures, timeout FROM started

-- name: append_events
--   ids uuid[], ats timestamptz[], kinds text[], data text[] (JSON): in order
INSERT INTO jobs_event (job_id, at, kind, data)
SELECT id, at, kind, data::jsonb
FROM unnest(%(ids)s::uuid[], %(ats)s::timestamptz[], %(kinds)s::text[], %(data)s::text[]) WITH ORDINALITY
    AS e (id, at, kind, data, position)
ORDER BY position

-- name: lines_of_attempt
-- How many lines the log of a job's present attempt has: those since the event that says that it began.
--   id uuid
SELECT count(*) FROM jobs_event
WHERE job_id = %(id)s AND kind = 'log' AND id > coalesce((
    SELECT id FROM jobs_event WHERE job_id = %(id)s AND kind = 'state' AND data->>'state' = 'running' AND data->>'text' IS NULL
    ORDER BY id DESC LIMIT 1), 0)

-- name: set_progress
--   ids uuid[] (each once), ats timestamptz[], dones bigint[], totals bigint[], texts text[]
INSERT INTO jobs_progress (job_id, updated_at, done, total, text)
SELECT * FROM unnest(%(ids)s::uuid[], %(ats)s::timestamptz[], %(dones)s::bigint[], %(totals)s::bigint[], %(texts)s::text[])
ON CONFLICT (job_id) DO UPDATE
SET updated_at = excluded.updated_at, done = excluded.done, total = excluded.total, text = excluded.text

-- name: finish
-- Attempts end, and with them, mostly, their jobs. `follow` comes after it. Decides the state that follows:
--   succeeded, cancelled, expired  final
--   failed                  cancelled where that was asked for; else waiting while the task may fail again; else failed
--   interrupted             cancelled where that was asked for; failed where a worker's death is to end the job; with an
--                           error (its worker died again), waiting if `again`, else failed; else ready. No failure
--   unbegun                 cancelled where that was asked for; else ready: it was begun on paper only
--   ids uuid[], outcomes text[], results text[] (JSON or null), errors text[] (JSON or null),
--   again bool[] (whether a failure may be retried), notes text[] (or null; for the state event),
--   pauses float8[] (seconds until the next attempt; null: doubling from 1 to 60). The first death of
--   the job's process is followed at once.
WITH given AS (
    SELECT id, outcome, result::jsonb AS result, error::jsonb AS error, again, note, pause
    FROM unnest(%(ids)s::uuid[], %(outcomes)s::text[], %(results)s::text[], %(errors)s::text[], %(again)s::bool[],
                %(notes)s::text[], %(pauses)s::float8[]) AS g (id, outcome, result, error, again, note, pause)
), decided AS (
    SELECT g.*, j.attempt, j.namespace, j.task, j.error AS earlier, CASE
        WHEN g.outcome IN ('succeeded', 'cancelled', 'expired') THEN g.outcome
        WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
        WHEN g.outcome = 'interrupted' AND j.on_death = 'fail' THEN 'failed'
        WHEN g.outcome = 'interrupted' AND g.error IS NOT NULL THEN CASE WHEN g.again THEN 'waiting' ELSE 'failed' END
        WHEN g.outcome IN ('interrupted', 'unbegun') THEN 'ready'
        WHEN g.error->>'code' = 'slot_died' AND j.on_death = 'fail' THEN 'failed'
        WHEN g.again AND j.failures + 1 < j.max_attempts THEN 'waiting'
        ELSE 'failed' END AS state
    FROM given g JOIN jobs_job j ON j.id = g.id
), told AS (
    SELECT *, CASE
        WHEN state = 'cancelled' THEN '{"code": "cancelled", "message": "the job was cancelled"}'
        WHEN state = 'expired' THEN '{"code": "expired", "message": "the job was not begun in time"}'
        WHEN outcome = 'interrupted' AND error IS NOT NULL THEN error
        WHEN outcome = 'interrupted' AND state = 'failed' THEN
            '{"code": "worker_died", "message": "its worker ended in the midst of it, and it is not begun again"}'
        WHEN outcome IN ('interrupted', 'unbegun') THEN earlier
        ELSE error END AS job_error
    FROM decided
), closed AS (
    UPDATE jobs_attempt a SET ended_at = clock_timestamp(), error = o.error,
        outcome = CASE o.outcome WHEN 'unbegun' THEN 'interrupted' ELSE o.outcome END
    FROM (SELECT d.outcome, d.error, open.place FROM decided d CROSS JOIN LATERAL (
        SELECT x.ctid AS place FROM jobs_attempt x
        WHERE x.job_id = d.id AND x.number = d.attempt AND x.ended_at IS NULL OFFSET 0) AS open) AS o
    WHERE a.ctid = o.place
), noted AS (
    INSERT INTO jobs_event (job_id, at, kind, data)
    SELECT id, clock_timestamp(), 'state', jsonb_strip_nulls(jsonb_build_object(
        'state', state, 'attempt', attempt, 'error', job_error - 'traceback', 'text', note))
    FROM told
), counted AS (
    INSERT INTO msgweb.jobs_ended (namespace, task, succeeded, failed, cancelled, expired)
    SELECT namespace, task, count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state = 'failed'),
        count(*) FILTER (WHERE state = 'cancelled'), count(*) FILTER (WHERE state = 'expired')
    FROM decided WHERE state NOT IN ('waiting', 'ready') GROUP BY namespace, task
)
UPDATE jobs_job j
SET state = d.state, worker = NULL, blocked_on = NULL, result = d.result, error = d.job_error,
    failures = j.failures + (d.outcome = 'failed')::int,
    finished_at = CASE WHEN d.state NOT IN ('waiting', 'ready') THEN clock_timestamp() END,
    run_at = CASE WHEN d.state = 'waiting' THEN clock_timestamp() + make_interval(secs => CASE
        WHEN d.error->>'code' = 'slot_died' AND NOT EXISTS (
            SELECT FROM jobs_attempt a WHERE a.job_id = j.id AND a.number < j.attempt AND a.error->>'code' = 'slot_died')
        THEN 0
        ELSE coalesce(d.pause, least(60, 2.0 ^ least(j.failures, 10)) * (0.8 + 0.4 * random())) END) ELSE j.run_at END
FROM told d WHERE j.id = d.id
RETURNING j.id, j.state, j.failures, j.namespace, j.reply_to, j.correlation_id, j.result::text, j.error::text

-- name: complete
-- Attempts that succeeded before their start was written, as one change of each row: of jobs that are still as they were
-- when they were admitted, under sessions that live. The attempt's row tells of both, so they are no events of their own
-- (`apps.jobs.events`). It needs no lock before it: it passes over rows that anybody has locked, or locks, since the job was
-- given its present state. Should somebody do so in the same moment, it waits for the time that `briefly` grants, and fails.
-- `follow_completed` comes after it.
--   ids uuid[], attempts int[], deliveries int[], tickets int[], workers int[], seconds float8[] (how long each took),
--   results jsonb (a list): in order; free bool: whether to pass over those; sessions int[]: the workers, each once;
--   host text, pid int
-- Returns the places (from 1) of those that are done; of them, of those that somebody wants a reply of; and the ids of those
-- that something follows: limits, a batch. One row.
-- Locks: the sessions live until the end of the transaction.
WITH living AS MATERIALIZED (
    SELECT msgweb.living_sessions(%(sessions)s::int[]) AS id
), given AS (
    SELECT *, clock_timestamp() AS ended FROM ROWS FROM (unnest(%(ids)s::uuid[]), unnest(%(attempts)s::int[]),
        unnest(%(deliveries)s::int[]), unnest(%(tickets)s::int[]), unnest(%(workers)s::int[]),
        unnest(%(seconds)s::float8[]), jsonb_array_elements(%(results)s::jsonb)) WITH ORDINALITY
        AS g (id, attempt, delivery, ticket, worker, seconds, result, place)
    WHERE worker = ANY (ARRAY(SELECT id FROM living))
), done AS (
    UPDATE jobs_job j
    SET state = 'succeeded', attempt = g.attempt, delivery = g.delivery, worker = NULL, blocked_on = NULL,
        started_at = coalesce(j.started_at, g.ended - make_interval(secs => g.seconds)), finished_at = g.ended,
        result = g.result, error = NULL
    FROM given g
    WHERE j.id = g.id AND (j.xmax = '0' OR NOT %(free)s::bool)
      AND j.attempt = g.attempt - 1 AND j.state IN ('ready', 'scheduled', 'waiting') AND j.delivery <= g.delivery
      AND j.ticket = g.ticket AND j.held_at IS NULL
    RETURNING j.id, j.attempt, g.worker, g.ended - make_interval(secs => g.seconds) AS began, g.ended, g.place, j.namespace, j.task,
        j.reply_to <> '' AS asked, j.limits IS NOT NULL OR j.batch_id IS NOT NULL AS followed
), closed AS (
    INSERT INTO jobs_attempt (job_id, number, worker, host, pid, started_at, ended_at, outcome, told_from)
    SELECT id, attempt, worker, %(host)s, %(pid)s, began, ended, 'succeeded', nextval('jobs_event_id_seq') FROM done
), counted AS (
    INSERT INTO msgweb.jobs_ended (namespace, task, succeeded)
    SELECT namespace, task, count(*) FROM done GROUP BY namespace, task
)
SELECT array_agg(place), array_agg(place) FILTER (WHERE asked), array_agg(id) FILTER (WHERE followed) FROM done

-- name: briefly
-- What follows waits for a lock so long at the most; then it fails.
SELECT set_config('lock_timeout', '50ms', true)

-- name: replies
-- What those are told who asked for jobs that have ended, as `finish` returns it.
--   ids uuid[]
SELECT id, state, failures, namespace, reply_to, correlation_id, result::text, error::text
FROM jobs_job WHERE id = ANY (%(ids)s::uuid[])

-- name: follow_completed
-- `follow`, where few of the jobs have anything that follows.
--   ids uuid[], followed uuid[] (those with limits or in a batch)
SELECT msgweb.follow_jobs(%(followed)s::uuid[]
    || ARRAY(SELECT DISTINCT d.after FROM jobs_dependency d WHERE d.after = ANY (%(ids)s::uuid[])))

-- name: follow
-- What follows when attempts have ended: the next attempt's message, places of limits, chains, batches.
--   ids uuid[]
SELECT msgweb.follow_jobs(%(ids)s::uuid[])

-- name: admit
-- Whether jobs that are limited may begin: go, blocked (put aside), busy (ask again).
--   ids uuid[]
SELECT id, verdict FROM msgweb.admit_jobs(%(ids)s::uuid[])

-- name: cancel_requests
-- Which of a worker's jobs somebody wants cancelled. Behind the notification, for the one that was lost.
--   ids uuid[]
SELECT id FROM jobs_job WHERE id = ANY (%(ids)s::uuid[]) AND cancel_requested_at IS NOT NULL

-- name: attempts_of
-- What became of jobs that a gateway's consumers work on, and whether somebody wants them cancelled.
--   ids uuid[]
SELECT id, attempt, worker, state, cancel_requested_at IS NOT NULL FROM jobs_job WHERE id = ANY (%(ids)s::uuid[])

-- name: namespaces
SELECT name FROM accounts_namespace ORDER BY name

-- name: notify
-- Wake who watches these jobs. The last statement before COMMIT. 200 ids are what fits into a payload.
--   channel text, ids uuid[] (each once)
SELECT pg_notify(%(channel)s, string_agg(id::text, ' '))
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS i (id, place) GROUP BY (place - 1) / 200

-- name: send
-- A reply. Returns null if its queue has ended.
--   namespace text, destination text, body text, headers text (JSON), persistent bool
SELECT msgweb.send(%(namespace)s, %(destination)s, %(body)s::text, %(headers)s::jsonb, %(persistent)s)
