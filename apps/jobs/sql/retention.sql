-- name: prune_jobs
-- See msgweb.prune_jobs.
--   state text, before timestamptz, most int
SELECT msgweb.prune_jobs(%(state)s, %(before)s, %(most)s)

-- name: prune_logs
-- See msgweb.prune_logs.
--   after bigint, before timestamptz, most int
SELECT next_id, gone FROM msgweb.prune_logs(%(after)s, %(before)s, %(most)s)

-- name: prune_batches
-- See msgweb.prune_batches.
--   before timestamptz, most int
SELECT msgweb.prune_batches(%(before)s, %(most)s)

-- name: prune_permits
-- See msgweb.prune_permits.
--   beyond int, most int
SELECT msgweb.prune_permits(%(beyond)s, %(most)s)

-- name: prune_admissions
-- See msgweb.prune_admissions.
--   most int
SELECT msgweb.prune_admissions(%(most)s)

-- name: roll_up
-- Tallies of jobs that have ended, of less and less detail: see msgweb.roll_up_jobs_ended.
SELECT msgweb.roll_up_jobs_ended()
