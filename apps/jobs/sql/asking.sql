-- name: enqueue
-- Ask for a job: see msgweb.enqueue_job.
--   request text (JSON)
SELECT job_id, outcome, created FROM msgweb.enqueue_job(%(request)s::jsonb)

-- name: enqueue_plain
-- Ask for a job that nothing is special about: see msgweb.enqueue_plain_job. Null where it is not so plain.
--   $1 id, $2 namespace, $3 task, $4 queue, $5 arguments (JSON), $6 the message's headers, $7 priority, $8 max_attempts,
--   $9 requested_by, $10 expires (seconds), $11 timeout (seconds), $12 on_death, $13 limits (JSON), $14 batch
SELECT msgweb.enqueue_plain_job($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: enqueue_plain_alone
-- The same in a transaction of its own: see msgweb.enqueue_plain_alone. No other may be open.
CALL msgweb.enqueue_plain_alone($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: enqueued
-- Whether there is such a job: when it was made, as enqueue_plain says it, else null. It is on disk then.
--   $1 id
SELECT (SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM jobs_job WHERE id = $1::uuid),
       pg_logical_emit_message(true, 'msgweb', '')

-- name: issue
-- A new message for a job whose row is locked.
--   id uuid
SELECT msgweb.issue_job(%(id)s::uuid)

-- name: in_hands
-- Whether a worker holds a message of the job, whose row is locked: it may be at work on it, before that is on record.
--   id uuid, namespace text, queue text
SELECT msgweb.is_held(%(namespace)s, %(queue)s, convert_to('job-id:' || %(id)s::uuid || E'\n', 'UTF8'))

-- name: revive
-- What was cancelled because of a job that is tried again waits for it again: see msgweb.revive_followers.
--   id uuid
SELECT msgweb.revive_followers(%(id)s::uuid)

-- name: return_permits
-- A job whose row is locked gives back its places of limits.
--   id uuid
SELECT msgweb.return_permits(%(id)s::uuid)

-- name: upkeep
-- What time brings: see msgweb.upkeep_jobs.
--   thorough bool
SELECT msgweb.upkeep_jobs(500, %(thorough)s)

-- name: make_namespace
-- A namespace, if it is not there yet; workers hear of it.
--   name text
WITH made AS (
    INSERT INTO accounts_namespace (name, created_at) VALUES (%(name)s, clock_timestamp()) ON CONFLICT DO NOTHING
    RETURNING name
)
SELECT pg_notify('msgweb_namespaces', '') FROM made

-- name: task_result
-- A job as Django's Tasks API shows it.
--   id uuid
SELECT j.id, j.task, j.arguments::text, j.state, j.created_at, j.started_at, j.finished_at, j.result::text, j.error::text,
       (SELECT json_agg(json_build_object('worker', a.worker, 'host', a.host, 'started_at', a.started_at, 'error', a.error)
                        ORDER BY a.number)::text FROM jobs_attempt a WHERE a.job_id = j.id)
FROM jobs_job j WHERE j.id = %(id)s

-- name: complete_batches
-- Batches whose jobs have all ended are complete.
--   ids uuid[]
SELECT msgweb.complete_batches(%(ids)s::uuid[])

-- name: schedules_due
-- Whether the time of a schedule has come.
SELECT EXISTS (SELECT FROM jobs_schedule WHERE NOT paused AND next_at <= clock_timestamp())

-- name: schedules_of_settings
-- Whether there are schedules that the settings named, now or once.
SELECT EXISTS (SELECT FROM jobs_schedule WHERE source = 'settings')
