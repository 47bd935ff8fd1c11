-- name: steps
-- The finished steps of a job.
--   id uuid
SELECT name, result::text FROM jobs_step WHERE job_id = %(id)s

-- name: keep_step
-- A step of an attempt is done. Returns nothing if the job is not in that attempt any more.
--   id uuid, attempt int, name text, result text (JSON)
-- Locks: the job's row FOR SHARE, until the end of the transaction: no other attempt begins meanwhile.
WITH job AS (
    SELECT id, attempt FROM jobs_job WHERE id = %(id)s AND state = 'running' AND attempt = %(attempt)s FOR SHARE
)
INSERT INTO jobs_step (job_id, name, attempt, result, finished_at)
SELECT id, %(name)s, attempt, %(result)s::jsonb, clock_timestamp() FROM job
ON CONFLICT (job_id, name) DO UPDATE SET result = excluded.result, attempt = excluded.attempt,
    finished_at = excluded.finished_at
RETURNING id

-- name: forget_steps
-- An attempt begins anew.
--   id uuid, attempt int
DELETE FROM jobs_step s USING jobs_job j
WHERE s.job_id = %(id)s AND j.id = s.job_id AND j.state = 'running' AND j.attempt = %(attempt)s
