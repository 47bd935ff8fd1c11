-- What was cancelled since a job that it follows had not succeeded lives again when that is tried again. And nothing here
-- calls itself: a chain may have any length.

-- A job waits in vain: what it waited for is kept as broken. The caller holds its row.
CREATE FUNCTION msgweb.break_links(of_job uuid) RETURNS void LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM jobs_dependency d WHERE d.job_id = of_job RETURNING d.job_id, d.after)
    INSERT INTO jobs_brokenlink (job_id, after) SELECT job_id, after FROM gone ON CONFLICT DO NOTHING
$$;

-- Release, or cancel, what waits for a job or a batch that has ended. Returns those that were cancelled, which may have
-- followers of their own.
-- Locks: the rows of what waits, skipping those that are held.
CREATE FUNCTION msgweb.follow_links(ended uuid, ended_state text, told jsonb) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    j    jobs_job;
    lost uuid[] := '{}';
BEGIN
    FOR j IN SELECT x.* FROM jobs_dependency d JOIN jobs_job x ON x.id = d.job_id WHERE d.after = ended
             ORDER BY x.id FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        IF ended_state <> 'succeeded' AND NOT j.after_any
            AND j.state NOT IN ('succeeded', 'failed', 'cancelled', 'expired')
        THEN
            PERFORM msgweb.break_links(j.id);
            PERFORM msgweb.give_up_job(j.id, 'cancelled', jsonb_build_object('code', 'dependency_failed',
                'message', format('the job that it follows, %s, has %s', ended, ended_state)),
                format('job %s has %s', ended, ended_state));
            lost := lost || j.id;
            CONTINUE;
        END IF;
        DELETE FROM jobs_dependency d WHERE d.job_id = j.id AND d.after = ended;
        CONTINUE WHEN j.state IN ('succeeded', 'failed', 'cancelled', 'expired');
        IF j.chain_argument <> '' THEN
            UPDATE jobs_job SET arguments = arguments || jsonb_build_object(j.chain_argument, told) WHERE id = j.id;
        END IF;
        PERFORM msgweb.release_if_free(j.id);
    END LOOP;
    RETURN lost;
END $$;

-- The same, and what follows from that.
CREATE OR REPLACE FUNCTION msgweb.follow_one(ended uuid, ended_state text, told jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lost uuid[] := msgweb.follow_links(ended, ended_state, told);
BEGIN
    IF cardinality(lost) > 0 THEN
        PERFORM msgweb.follow_jobs(lost);
    END IF;
END $$;

-- What follows when jobs have ended, or wait for another attempt: their places go on, those after them are released, their
-- batch may be complete. The caller holds their rows. What others hold at this moment is left to upkeep.
-- Locks: the rows of what follows, skipping those that are held.
CREATE OR REPLACE FUNCTION msgweb.follow_jobs(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j       record;
    batches uuid[] := '{}';
    lost    uuid[];
BEGIN
    WHILE cardinality(ids) > 0 LOOP
        lost := '{}';
        FOR j IN
            SELECT x.id, x.state, x.limits, x.batch_id, x.result,
                   x.state IN ('succeeded', 'failed', 'cancelled', 'expired') AS final
            FROM jobs_job x
            WHERE x.id = ANY (ids)
              AND (x.state = 'waiting' OR x.limits IS NOT NULL OR x.batch_id IS NOT NULL
                   OR EXISTS (SELECT FROM jobs_dependency d WHERE d.after = x.id))
            ORDER BY x.id
        LOOP
            IF j.limits ? 'key' AND j.state NOT IN ('running', 'ready') THEN
                PERFORM msgweb.return_permits(j.id);
            END IF;
            IF j.state = 'waiting' THEN
                PERFORM msgweb.issue_job(j.id);
            ELSIF j.final THEN
                lost := lost || msgweb.follow_links(j.id, j.state, j.result);
                IF j.batch_id IS NOT NULL AND j.batch_id <> ALL (batches) THEN
                    batches := batches || j.batch_id;
                END IF;
            END IF;
        END LOOP;
        ids := lost;
    END LOOP;
    IF cardinality(batches) > 0 THEN
        PERFORM msgweb.complete_batches(batches);
    END IF;
END $$;

-- A job is tried again that had ended: what was cancelled because of it waits again, and what was cancelled because of
-- that, and so on; except what waits in vain for another. Its asker had its reply. Returns how many there are.
-- The caller holds the job's row, and it is open.
-- Locks: the rows of what lives again.
CREATE FUNCTION msgweb.revive_followers(of_job uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    opened  uuid[] := ARRAY[of_job];
    next    uuid[];
    j       record;
    revived integer := 0;
BEGIN
    DELETE FROM jobs_brokenlink b WHERE b.job_id = of_job;  -- it begins, whatever became of those
    WHILE cardinality(opened) > 0 LOOP
        next := '{}';
        FOR j IN
            SELECT x.id, x.attempt, b.after FROM jobs_brokenlink b JOIN jobs_job x ON x.id = b.job_id
            WHERE b.after = ANY (opened) AND x.state = 'cancelled' AND x.error->>'code' = 'dependency_failed'
            ORDER BY x.id FOR NO KEY UPDATE OF x
        LOOP
            CONTINUE WHEN j.id = ANY (next) OR EXISTS (
                SELECT FROM jobs_brokenlink b LEFT JOIN jobs_job x ON x.id = b.after LEFT JOIN jobs_batch g ON g.id = b.after
                WHERE b.job_id = j.id
                  AND (coalesce(x.id, g.id) IS NULL OR x.state IN ('failed', 'cancelled', 'expired')));
            INSERT INTO jobs_dependency (job_id, after)
            SELECT b.job_id, b.after
            FROM jobs_brokenlink b LEFT JOIN jobs_job x ON x.id = b.after LEFT JOIN jobs_batch g ON g.id = b.after
            WHERE b.job_id = j.id AND (x.state <> 'succeeded' OR (x.id IS NULL AND g.finished_at IS NULL))
            ON CONFLICT DO NOTHING;
            DELETE FROM jobs_brokenlink b WHERE b.job_id = j.id;
            UPDATE jobs_job x SET state = 'scheduled', error = NULL, result = NULL, failures = 0, deaths = 0, reply_to = '',
                finished_at = NULL, expires_at = NULL, cancel_requested_at = NULL,
                batch_id = (SELECT b.id FROM jobs_batch b WHERE b.id = x.batch_id AND b.finished_at IS NULL)
            WHERE x.id = j.id;
            PERFORM msgweb.note_job(j.id, 'scheduled', j.attempt, format('job %s is tried again', j.after));
            next := next || j.id;
        END LOOP;
        revived := revived + cardinality(next);
        opened := next;
    END LOOP;
    RETURN revived;
END $$;

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
    DELETE FROM jobs_brokenlink WHERE job_id = ANY (old);
    DELETE FROM jobs_job WHERE id = ANY (old);
    RETURN cardinality(old);
END $$;

-- Ask for a job: its row, its first event and its message.
--   request  the columns of jobs_job, and: delay, expires, unique_window (seconds), unique_states, after (ids of jobs and
--            batches), hold (boolean)
-- outcome: `new`; `known`: there is one of that id; `duplicate`: one with its unique key stands in the way.
-- Locks: an advisory lock of the unique key; the jobs and batches that it follows FOR SHARE.
-- Raises MW404: there is no such namespace, or nothing to follow.
CREATE OR REPLACE FUNCTION msgweb.enqueue_job(request jsonb, OUT job_id uuid, OUT outcome text, OUT created timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    j       jobs_job;
    follows uuid[] := '{}';
    other   record;
    pending integer := 0;
    lost    uuid;
    found_result jsonb;
    found_one    boolean := false;
    key     text := coalesce(request->>'unique_key', '');
BEGIN
    IF key <> '' THEN
        key := encode(sha256(convert_to((request->>'namespace') || ' ' || key, 'UTF8')), 'hex');
        PERFORM pg_advisory_xact_lock(hashtextextended(key, 1297568620));
        SELECT x.id INTO job_id FROM jobs_job x
        WHERE x.unique_key = key AND x.id IS DISTINCT FROM (request->>'id')::uuid
          AND x.state = ANY (ARRAY(SELECT jsonb_array_elements_text(request->'unique_states')))
          AND (request->'unique_window' IS NULL OR jsonb_typeof(request->'unique_window') = 'null'
               OR x.created_at > clock_timestamp() - make_interval(secs => (request->>'unique_window')::float8))
        ORDER BY x.created_at DESC LIMIT 1;
        IF FOUND THEN
            outcome := 'duplicate';
            RETURN;
        END IF;
    END IF;
    created := clock_timestamp();
    INSERT INTO jobs_job AS x (id, namespace, task, queue, arguments, priority, state, attempt, failures, max_attempts,
        delivery, reply_to, correlation_id, wants_progress, requested_by, created_at, run_at, expires_at, timeout, on_death,
        unique_key, limits, held_at, chain_argument, after_any, batch_id)
    SELECT coalesce(r.id, gen_random_uuid()), r.namespace, r.task, r.queue, coalesce(r.arguments, '{}'),
        coalesce(r.priority, 4),
        CASE WHEN r.after IS NOT NULL OR coalesce(r.run_at, created + make_interval(secs => r.delay)) > created
             THEN 'scheduled' ELSE 'ready' END,
        0, 0, coalesce(r.max_attempts, 1), 0, coalesce(r.reply_to, ''), coalesce(r.correlation_id, ''),
        coalesce(r.wants_progress, false), coalesce(r.requested_by, ''), created,
        coalesce(r.run_at, created + make_interval(secs => r.delay)),
        coalesce(r.run_at, created + make_interval(secs => r.delay), created) + make_interval(secs => r.expires),
        r.timeout, coalesce(r.on_death, 'resume'), key, nullif(r.limits, 'null'),
        CASE WHEN r.hold THEN created END, coalesce(r.chain_argument, ''), coalesce(r.after_any, false), r.batch
    FROM jsonb_to_record(request) AS r (id uuid, namespace text, task text, queue text, arguments jsonb, priority smallint,
        max_attempts integer, reply_to text, correlation_id text, wants_progress boolean, requested_by text,
        run_at timestamptz, delay float8, expires float8, timeout float8, on_death text, limits jsonb, hold boolean,
        chain_argument text, after_any boolean, after jsonb, batch uuid)
    ON CONFLICT (id) DO NOTHING RETURNING * INTO j;
    IF j.id IS NULL THEN
        job_id := (request->>'id')::uuid;
        outcome := 'known';
        RETURN;
    END IF;
    job_id := j.id;
    outcome := 'new';
    IF jsonb_typeof(request->'after') = 'array' THEN
        follows := ARRAY(SELECT DISTINCT a::uuid FROM jsonb_array_elements_text(request->'after') AS a);
        FOR other IN SELECT x.id, x.state, x.result FROM jobs_job x WHERE x.id = ANY (follows) ORDER BY x.id FOR SHARE LOOP
            found_one := true;
            IF other.state IN ('scheduled', 'ready', 'running', 'waiting') THEN
                INSERT INTO jobs_dependency (job_id, after) VALUES (j.id, other.id);
                pending := pending + 1;
            ELSIF other.state <> 'succeeded' AND NOT j.after_any THEN
                lost := other.id;
            ELSE
                found_result := other.result;
            END IF;
        END LOOP;
        FOR other IN SELECT b.id, b.finished_at FROM jobs_batch b WHERE b.id = ANY (follows) ORDER BY b.id FOR SHARE LOOP
            found_one := true;
            IF other.finished_at IS NULL THEN
                INSERT INTO jobs_dependency (job_id, after) VALUES (j.id, other.id);
                pending := pending + 1;
            END IF;
        END LOOP;
        IF NOT found_one THEN
            RAISE EXCEPTION 'there is no job to follow: %', request->>'after' USING ERRCODE = 'MW404';
        END IF;
        IF lost IS NOT NULL THEN
            DELETE FROM jobs_dependency d WHERE d.job_id = j.id;
            INSERT INTO jobs_brokenlink (job_id, after) SELECT j.id, f FROM unnest(follows) AS f;
            PERFORM msgweb.destination_id(j.namespace, 'queue', j.queue);
            PERFORM msgweb.give_up_job(j.id, 'cancelled', jsonb_build_object('code', 'dependency_failed',
                'message', format('the job that it follows, %s, did not succeed', lost)), format('job %s did not succeed', lost));
            RETURN;
        END IF;
        IF pending = 0 THEN
            UPDATE jobs_job x SET state = CASE WHEN x.run_at > created THEN 'scheduled' ELSE 'ready' END,
                arguments = CASE WHEN x.chain_argument = '' THEN x.arguments
                    ELSE x.arguments || jsonb_build_object(x.chain_argument, found_result) END
            WHERE x.id = j.id RETURNING * INTO j;
        END IF;
    END IF;
    INSERT INTO jobs_event (job_id, at, kind, data) VALUES (j.id, created, 'state',
        jsonb_build_object('state', j.state, 'attempt', 0)
            || CASE WHEN pending > 0 THEN jsonb_build_object('text', 'waits for others') ELSE '{}' END);
    IF pending = 0 AND j.held_at IS NULL THEN
        PERFORM msgweb.send_job(j);
    ELSE
        PERFORM msgweb.destination_id(j.namespace, 'queue', j.queue);
    END IF;
    PERFORM pg_notify('msgweb_job', j.id::text);
END $$;
