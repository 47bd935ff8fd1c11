-- Jobs that have ended are found by an index without those that are ready: the condition says that they are not.

-- Remove the oldest jobs of a state that ended before a moment, with all that is known of them. Jobs that others wait for
-- stay. Returns how many went.
-- Locks: the jobs' rows, skipping those that somebody holds.
CREATE OR REPLACE FUNCTION msgweb.prune_jobs(of_state text, ended_before timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    old uuid[];
BEGIN
    old := ARRAY(
        SELECT j.id FROM jobs_job j
        WHERE j.state = of_state AND j.state <> 'ready' AND j.created_at < ended_before AND j.finished_at < ended_before
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
    DELETE FROM jobs_brokenlink WHERE job_id = ANY (old);
    DELETE FROM jobs_job WHERE id = ANY (old);
    RETURN cardinality(old);
END $$;
