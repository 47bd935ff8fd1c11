-- Upkeep whose cost does not grow with what merely waits: with keys that have free places, with long chains.

DROP FUNCTION msgweb.upkeep_jobs(integer);

-- What time brings: due jobs are called ready, late ones expire, and whatever two transactions at the same moment could not
-- see of each other is made good. One process at a time, a bounded number a call; skips what others hold.
--   thorough  look at everything that waits for others, too: not in each call
-- Returns how much it did.
CREATE FUNCTION msgweb.upkeep_jobs(most integer DEFAULT 500, thorough boolean DEFAULT true) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    j     record;
    place jobs_permit;
    done  integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297568620, 0) THEN
        RETURN 0;
    END IF;
    FOR j IN SELECT x.id, x.attempt FROM jobs_job x
        WHERE x.state IN ('scheduled', 'waiting') AND x.run_at <= clock_timestamp() AND x.held_at IS NULL
          AND NOT EXISTS (SELECT FROM jobs_dependency d WHERE d.job_id = x.id)
        ORDER BY x.run_at LIMIT most FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        UPDATE jobs_job SET state = 'ready' WHERE id = j.id;
        PERFORM msgweb.note_job(j.id, 'ready', j.attempt, 'its time has come');
        done := done + 1;
    END LOOP;
    FOR j IN SELECT x.id FROM jobs_job x
        WHERE x.expires_at <= clock_timestamp() AND x.state IN ('scheduled', 'ready', 'waiting') AND x.attempt = 0
        ORDER BY x.expires_at LIMIT most FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        DELETE FROM jobs_dependency d WHERE d.job_id = j.id;
        PERFORM msgweb.give_up_job(j.id, 'expired',
            '{"code": "expired", "message": "the job was not begun in time"}', 'not begun in time');
        PERFORM msgweb.follow_jobs(ARRAY[j.id]);
        done := done + 1;
    END LOOP;
    FOR j IN SELECT x.id FROM jobs_job x WHERE x.blocked_on = '' AND x.held_at IS NULL
        AND x.state IN ('scheduled', 'ready', 'waiting')
        ORDER BY x.priority DESC, x.created_at LIMIT most FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        PERFORM msgweb.issue_job(j.id);
        done := done + 1;
    END LOOP;
    -- Places of jobs that are gone or have ended.
    FOR place IN SELECT p.* FROM jobs_permit p
        WHERE p.job IS NOT NULL AND NOT EXISTS (
            SELECT FROM jobs_job x WHERE x.id = p.job AND x.state IN ('ready', 'running') AND x.blocked_on IS NULL
              AND x.held_at IS NULL)
        ORDER BY p.id LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM msgweb.hand_permit(place);
        done := done + 1;
    END LOOP;
    -- Free places that somebody waits for: by way of the keys that jobs wait for, each looked up in their index.
    FOR place IN
        WITH RECURSIVE wanted AS (
            (SELECT x.blocked_on AS key FROM jobs_job x WHERE x.blocked_on > '' ORDER BY x.blocked_on LIMIT 1)
            UNION ALL
            SELECT (SELECT x.blocked_on FROM jobs_job x WHERE x.blocked_on > w.key ORDER BY x.blocked_on LIMIT 1)
            FROM wanted w WHERE w.key IS NOT NULL)
        SELECT p.* FROM jobs_permit p WHERE p.job IS NULL AND p.key IN (SELECT key FROM wanted)
        LIMIT most FOR UPDATE OF p SKIP LOCKED
    LOOP
        done := done + msgweb.hand_permit(place)::integer;
    END LOOP;
    PERFORM msgweb.complete_batches(ARRAY(SELECT b.id FROM jobs_batch b WHERE b.finished_at IS NULL
        AND NOT EXISTS (SELECT FROM jobs_job x WHERE x.batch_id = b.id AND x.state IN ('scheduled', 'ready', 'running', 'waiting'))
        LIMIT most));
    IF NOT thorough THEN
        RETURN done;
    END IF;
    FOR j IN SELECT DISTINCT d.after, coalesce(x.state, CASE WHEN b.id IS NULL THEN 'cancelled' ELSE 'succeeded' END) AS state,
                    coalesce(x.result, 'null') AS result
        FROM jobs_dependency d LEFT JOIN jobs_job x ON x.id = d.after LEFT JOIN jobs_batch b ON b.id = d.after
        WHERE (x.id IS NULL AND b.id IS NULL) OR b.finished_at IS NOT NULL
           OR x.state IN ('succeeded', 'failed', 'cancelled', 'expired')
        LIMIT most
    LOOP
        PERFORM msgweb.follow_one(j.after, j.state, j.result);
        done := done + 1;
    END LOOP;
    RETURN done;
END $$;

-- Remove free places of keys that nobody has or waits for, when there are many. They are made again when they are needed.
CREATE FUNCTION msgweb.prune_permits(beyond integer, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone integer := 0;
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM jobs_permit LIMIT beyond + 1) AS x) > beyond THEN
        DELETE FROM jobs_permit WHERE id IN (
            SELECT p.id FROM jobs_permit p
            WHERE p.job IS NULL
              AND NOT EXISTS (SELECT FROM jobs_permit o WHERE o.key = p.key AND o.job IS NOT NULL)
              AND NOT EXISTS (SELECT FROM jobs_job x WHERE x.blocked_on = p.key)
            LIMIT most FOR UPDATE OF p SKIP LOCKED);
        GET DIAGNOSTICS gone = ROW_COUNT;
    END IF;
    RETURN gone;
END $$;
