-- What workers have begun and not recorded yet.

-- One row for each batch of jobs whose start a worker deferred (`admit_fresh`): so that of a worker that dies before it
-- has recorded them, the next one learns which attempts there were. Rows of jobs that are all on record are removed.
--   session   of the worker
--   number    counts the batches of its process
--   attempts  the number of each job's attempt, in the order of the jobs
CREATE TABLE jobs_admission (
    session  integer NOT NULL,
    number   bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    host     text NOT NULL,
    pid      integer NOT NULL,
    jobs     uuid[] NOT NULL,
    attempts integer[] NOT NULL,
    PRIMARY KEY (session, number)
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE jobs_admission ALTER COLUMN jobs SET STORAGE EXTERNAL, ALTER COLUMN attempts SET STORAGE EXTERNAL;

-- Record the attempts at these jobs whose workers died before they could: their starts, and nothing else. What follows
-- from such a death is decided by whoever begins the next attempt.
-- Returns the jobs. Locks: their rows must be locked by the caller.
CREATE FUNCTION msgweb.recover_attempts(ids uuid[]) RETURNS SETOF uuid LANGUAGE sql
SET enable_hashjoin = on AS $$
    WITH begun AS (
        SELECT DISTINCT ON (u.job) u.job, u.attempt, a.session, a.host, a.pid, a.at
        FROM jobs_admission a
        CROSS JOIN LATERAL ROWS FROM (unnest(a.jobs), unnest(a.attempts)) AS u (job, attempt)
        JOIN unnest(ids) AS g (id) ON g.id = u.job
        WHERE NOT EXISTS (SELECT FROM msgweb.session s WHERE s.id = a.session)
        ORDER BY u.job, u.attempt DESC
    ), recovered AS (
        UPDATE jobs_job j
        SET state = 'running', attempt = b.attempt, worker = b.session, started_at = coalesce(j.started_at, b.at)
        FROM begun b
        WHERE j.id = b.job AND j.attempt = b.attempt - 1 AND j.state IN ('ready', 'scheduled', 'waiting')
        RETURNING b.*
    ), opened AS (
        INSERT INTO jobs_attempt (job_id, number, worker, host, pid, started_at, outcome)
        SELECT job, attempt, session, host, pid, at, '' FROM recovered
    ), noted AS (
        INSERT INTO jobs_event (job_id, at, kind, data)
        SELECT job, at, 'state', jsonb_build_object('state', 'running', 'attempt', attempt) FROM recovered
    )
    SELECT job FROM recovered
$$;

-- Remove what dead workers left that nobody will ask for again: each of its jobs has ended, or more is on record of it.
-- Returns how many rows.
CREATE FUNCTION msgweb.prune_admissions(most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    DELETE FROM jobs_admission x WHERE (x.session, x.number) IN (
        SELECT a.session, a.number FROM jobs_admission a
        WHERE NOT EXISTS (SELECT FROM msgweb.session s WHERE s.id = a.session)
          AND NOT EXISTS (
            SELECT FROM ROWS FROM (unnest(a.jobs), unnest(a.attempts)) AS u (job, attempt)
            JOIN jobs_job j ON j.id = u.job
            WHERE j.attempt < u.attempt AND j.finished_at IS NULL)
        LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
