-- What has been kept long enough goes, in portions, so that no statement is long and no lock is held for long.

-- Remove the oldest jobs of a state that ended before a moment, with all that is known of them. Jobs that others wait for
-- stay. Returns how many went.
-- Locks: the jobs' rows, skipping those that somebody holds.
CREATE FUNCTION msgweb.prune_jobs(of_state text, ended_before timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    old uuid[];
BEGIN
    old := ARRAY(
        SELECT j.id FROM jobs_job j
        WHERE j.state = of_state AND j.created_at < ended_before AND j.finished_at < ended_before
          AND NOT EXISTS (SELECT FROM jobs_dependency d WHERE d.after = j.id)
          AND (j.batch_id IS NULL OR EXISTS (SELECT FROM jobs_batch b WHERE b.id = j.batch_id AND b.finished_at IS NOT NULL))
        ORDER BY j.created_at LIMIT most FOR UPDATE OF j SKIP LOCKED);
    IF cardinality(old) = 0 THEN
        RETURN 0;
    END IF;
    DELETE FROM jobs_event WHERE job_id = ANY (old);
    DELETE FROM jobs_attempt WHERE job_id = ANY (old);
    DELETE FROM jobs_progress WHERE job_id = ANY (old);
    DELETE FROM jobs_step WHERE job_id = ANY (old);
    DELETE FROM jobs_dependency WHERE job_id = ANY (old);
    DELETE FROM jobs_job WHERE id = ANY (old);
    RETURN cardinality(old);
END $$;

-- Remove lines of logs and progress from before a moment, of jobs that have ended, among the next `most` events after an
-- id. Changes of state stay as long as their job.
--   next_id  where to go on; null: there are no more that old
CREATE FUNCTION msgweb.prune_logs(after_id bigint, before timestamptz, most integer, OUT next_id bigint, OUT gone integer)
LANGUAGE plpgsql AS $$
BEGIN
    gone := 0;
    SELECT max(x.id) INTO next_id FROM (
        SELECT e.id, e.at FROM jobs_event e WHERE e.id > after_id ORDER BY e.id LIMIT most) AS x WHERE x.at < before;
    IF next_id IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM jobs_event e USING jobs_job j
    WHERE e.id > after_id AND e.id <= next_id AND e.kind <> 'state' AND e.at < before
      AND j.id = e.job_id AND j.finished_at < before;
    GET DIAGNOSTICS gone = ROW_COUNT;
END $$;

-- Remove batches none of whose jobs is left.
CREATE FUNCTION msgweb.prune_batches(before timestamptz, most integer) RETURNS integer LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM jobs_batch WHERE id IN (
            SELECT b.id FROM jobs_batch b
            WHERE b.finished_at < before AND NOT EXISTS (SELECT FROM jobs_job j WHERE j.batch_id = b.id) LIMIT most)
        RETURNING 1)
    SELECT count(*)::integer FROM gone
$$;
