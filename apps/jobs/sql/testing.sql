-- name: advance
-- Let time pass for all jobs: see apps.jobs.testing.advance.
--   seconds float8
WITH s AS (SELECT make_interval(secs => %(seconds)s::float8) AS span),
paces AS (
    UPDATE jobs_pace SET moments = ARRAY(SELECT m - %(seconds)s::float8 FROM unnest(moments) WITH ORDINALITY AS u (m, n) ORDER BY n)
),
times AS (
    UPDATE jobs_schedule SET next_at = next_at - span, last_at = last_at - span FROM s
)
UPDATE jobs_job SET run_at = run_at - span, expires_at = expires_at - span, created_at = created_at - span,
    started_at = started_at - span, finished_at = finished_at - span
FROM s
