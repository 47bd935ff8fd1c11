-- A job's life beside its attempts: asked for, limited, followed by others, kept up. What an attempt writes is in
-- apps/jobs/sql/recorder.sql. See docs/adr/0010.

-- Send a job's message. Its ticket tells a worker whether it still counts.
CREATE FUNCTION msgweb.send_job(j jobs_job) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM msgweb.send(j.namespace::text, '/queue/' || j.queue, convert_to(j.arguments::text, 'UTF8'),
        jsonb_build_object('job-id', j.id, 'task', j.task, 'reply-to', '/job/' || j.id, 'content-type', 'application/json')
            || CASE WHEN j.ticket = 0 THEN '{}' ELSE jsonb_build_object('job-ticket', j.ticket) END,
        true, j.priority::integer, NULL,
        greatest(extract(epoch FROM j.run_at - clock_timestamp()), 0)::double precision);
END $$;

-- Give a job a new message; those that it had are void. Where its queue takes none now, upkeep tries again
-- (blocked_on = ''). The caller holds its row.
CREATE FUNCTION msgweb.issue_job(of_job uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j jobs_job;
BEGIN
    UPDATE jobs_job SET ticket = ticket + 1, delivery = 0, blocked_on = NULL WHERE id = of_job RETURNING * INTO j;
    BEGIN
        PERFORM msgweb.send_job(j);
    EXCEPTION WHEN SQLSTATE 'MW413' OR SQLSTATE 'MW404' THEN
        UPDATE jobs_job SET blocked_on = '' WHERE id = of_job;
    END;
END $$;

-- Note a change of state, and wake who watches. The caller holds the job's row.
CREATE FUNCTION msgweb.note_job(of_job uuid, to_state text, of_attempt integer, why text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO jobs_event (job_id, at, kind, data) VALUES (of_job, clock_timestamp(), 'state',
        jsonb_strip_nulls(jsonb_build_object('state', to_state, 'attempt', of_attempt, 'text', why)));
    SELECT pg_notify('msgweb_job', of_job::text);
$$;

-- End a job that is not at work, with an error, and tell its asker. The caller holds its row, and calls follow_jobs.
CREATE FUNCTION msgweb.give_up_job(of_job uuid, to_state text, error jsonb, why text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j jobs_job;
BEGIN
    UPDATE jobs_job SET state = to_state, error = give_up_job.error, finished_at = clock_timestamp(), worker = NULL,
        ticket = ticket + 1, blocked_on = NULL
    WHERE id = of_job RETURNING * INTO j;
    PERFORM msgweb.note_job(of_job, to_state, j.attempt, why);
    IF j.reply_to <> '' THEN
        BEGIN
            PERFORM msgweb.send(j.namespace::text, j.reply_to::text, convert_to((error - 'traceback')::text, 'UTF8'),
                jsonb_build_object('correlation-id', coalesce(nullif(j.correlation_id, ''), j.id::text), 'job-id', j.id,
                    'job-event', 'error', 'content-type', 'application/json'));
        EXCEPTION WHEN SQLSTATE 'MW413' OR SQLSTATE 'MW404' OR SQLSTATE 'MW400' THEN
            INSERT INTO jobs_event (job_id, at, kind, data) VALUES (of_job, clock_timestamp(), 'log', jsonb_build_object(
                'level', 'error', 'text', format('the reply to %s could not be sent: %s', j.reply_to, SQLERRM)));
        END;
    END IF;
END $$;

-- Whether jobs that are limited may begin: `go`; `blocked` (it has been put aside, and gets a new message when it is its
-- turn); `busy` (ask again: another is being decided on). The caller holds their rows.
-- Locks: places and paces of the keys, in the order of the keys, never waiting for a held one.
CREATE FUNCTION msgweb.admit_jobs(ids uuid[]) RETURNS TABLE (id uuid, verdict text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    j        jobs_job;
    place    integer;
    places   integer;
    past     double precision[];
    wanted   integer;
    moment   double precision;
    at_once  double precision;
BEGIN
    FOR j IN SELECT * FROM jobs_job x WHERE x.id = ANY (ids) ORDER BY x.limits->>'key', x.limits->>'rate_key', x.created_at
    LOOP
        id := j.id;
        verdict := 'go';
        IF j.limits ? 'key' THEN
            SELECT p.number INTO place FROM jobs_permit p WHERE p.job = j.id AND p.key = j.limits->>'key';
            IF place IS NULL THEN
                place := msgweb.take_permit(j.limits->>'key', (j.limits->>'limit')::integer, j.id);
            END IF;
            IF place IS NULL THEN
                SELECT count(*) INTO places FROM jobs_permit p WHERE p.key = j.limits->>'key';
                IF places < (j.limits->>'limit')::integer THEN
                    INSERT INTO jobs_permit (key, number)
                    SELECT j.limits->>'key', n FROM generate_series(1, (j.limits->>'limit')::integer) AS n
                    ON CONFLICT DO NOTHING;
                    place := msgweb.take_permit(j.limits->>'key', (j.limits->>'limit')::integer, j.id);
                END IF;
            END IF;
            IF place IS NULL THEN
                UPDATE jobs_job x SET state = 'ready', ticket = x.ticket + 1, blocked_on = j.limits->>'key', run_at = NULL
                WHERE x.id = j.id;
                PERFORM msgweb.note_job(j.id, 'ready', j.attempt,
                    format('waits its turn: at most %s at a time', j.limits->>'limit'));
                verdict := 'blocked';
            END IF;
        END IF;
        IF verdict = 'go' AND j.limits ? 'rate_key' AND NOT j.limits ? 'reserved' THEN
            wanted := (j.limits->>'count')::integer;
            SELECT p.moments INTO past FROM jobs_pace p WHERE p.key = j.limits->>'rate_key' FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                INSERT INTO jobs_pace (key, moments) VALUES (j.limits->>'rate_key', '{}') ON CONFLICT DO NOTHING;
                IF NOT FOUND THEN
                    verdict := 'busy';
                END IF;
                past := '{}';
            END IF;
            IF verdict = 'go' THEN
                at_once := extract(epoch FROM clock_timestamp());
                moment := at_once;
                IF cardinality(past) >= wanted THEN
                    moment := greatest(at_once, past[cardinality(past) - wanted + 1] + (j.limits->>'per')::float8);
                END IF;
                past := past || moment;
                UPDATE jobs_pace p SET moments = past[greatest(cardinality(past) - wanted + 1, 1):]
                WHERE p.key = j.limits->>'rate_key';
                IF moment > at_once THEN
                    UPDATE jobs_job x SET state = 'scheduled', run_at = to_timestamp(moment),
                        limits = x.limits || '{"reserved": true}' WHERE x.id = j.id;
                    PERFORM msgweb.issue_job(j.id);
                    PERFORM msgweb.note_job(j.id, 'scheduled', j.attempt,
                        format('waits its turn: at most %s in %s s', j.limits->>'count', j.limits->>'per'));
                    verdict := 'blocked';
                END IF;
            END IF;
            IF verdict <> 'go' AND j.limits ? 'key' THEN
                PERFORM msgweb.return_permits(j.id);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- A place of a concurrency limit for a job; null: there is none free (or it is being taken at this moment).
CREATE FUNCTION msgweb.take_permit(of_key text, most integer, of_job uuid) RETURNS integer LANGUAGE sql AS $$
    UPDATE jobs_permit SET job = of_job WHERE id = (
        SELECT id FROM jobs_permit WHERE key = of_key AND number <= most AND job IS NULL
        ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING number
$$;

-- A job gives its places back; each goes to whoever has waited longest for it.
CREATE FUNCTION msgweb.return_permits(of_job uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place jobs_permit;
BEGIN
    FOR place IN SELECT * FROM jobs_permit p WHERE p.job = of_job ORDER BY p.id FOR UPDATE LOOP
        PERFORM msgweb.hand_permit(place);
    END LOOP;
END $$;

CREATE FUNCTION msgweb.hand_permit(place jobs_permit) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    next_job uuid;
BEGIN
    SELECT x.id INTO next_job FROM jobs_job x
    WHERE x.blocked_on = place.key AND x.held_at IS NULL AND place.number <= (x.limits->>'limit')::integer
      AND x.state = 'ready'
    ORDER BY x.priority DESC, x.created_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    UPDATE jobs_permit p SET job = next_job WHERE p.id = place.id;
    IF next_job IS NOT NULL THEN
        PERFORM msgweb.issue_job(next_job);
    END IF;
    RETURN next_job IS NOT NULL;
END $$;

-- What follows when jobs have ended, or wait for another attempt: their places go on, those after them are released, their
-- batch may be complete. The caller holds their rows. What others hold at this moment is left to upkeep.
-- Locks: the rows of what follows, skipping those that are held.
CREATE FUNCTION msgweb.follow_jobs(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j       record;
    batches uuid[] := '{}';
BEGIN
    FOR j IN
        SELECT x.id, x.state, x.limits, x.batch_id, x.result, x.state IN ('succeeded', 'failed', 'cancelled', 'expired') AS final
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
            PERFORM msgweb.follow_one(j.id, j.state, j.result);
            IF j.batch_id IS NOT NULL AND j.batch_id <> ALL (batches) THEN
                batches := batches || j.batch_id;
            END IF;
        END IF;
    END LOOP;
    IF cardinality(batches) > 0 THEN
        PERFORM msgweb.complete_batches(batches);
    END IF;
END $$;

-- Release, or cancel, what waits for a job or a batch that has ended.
CREATE FUNCTION msgweb.follow_one(ended uuid, ended_state text, told jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j    jobs_job;
    lost uuid[] := '{}';
BEGIN
    FOR j IN SELECT x.* FROM jobs_dependency d JOIN jobs_job x ON x.id = d.job_id WHERE d.after = ended
             ORDER BY x.id FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        DELETE FROM jobs_dependency d WHERE d.job_id = j.id AND d.after = ended;
        CONTINUE WHEN j.state IN ('succeeded', 'failed', 'cancelled', 'expired');
        IF ended_state <> 'succeeded' AND NOT j.after_any THEN
            DELETE FROM jobs_dependency d WHERE d.job_id = j.id;
            PERFORM msgweb.give_up_job(j.id, 'cancelled', jsonb_build_object('code', 'dependency_failed',
                'message', format('the job that it follows, %s, has %s', ended, ended_state)),
                format('job %s has %s', ended, ended_state));
            lost := lost || j.id;
            CONTINUE;
        END IF;
        IF j.chain_argument <> '' THEN
            UPDATE jobs_job SET arguments = arguments || jsonb_build_object(j.chain_argument, told) WHERE id = j.id;
        END IF;
        PERFORM msgweb.release_if_free(j.id);
    END LOOP;
    IF cardinality(lost) > 0 THEN
        PERFORM msgweb.follow_jobs(lost);
    END IF;
END $$;

-- Let a job begin that waits for no other any more. The caller holds its row.
CREATE FUNCTION msgweb.release_if_free(of_job uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    j jobs_job;
BEGIN
    IF EXISTS (SELECT FROM jobs_dependency d WHERE d.job_id = of_job) THEN
        RETURN;
    END IF;
    UPDATE jobs_job SET state = CASE WHEN run_at > clock_timestamp() THEN 'scheduled' ELSE 'ready' END
    WHERE id = of_job RETURNING * INTO j;
    PERFORM msgweb.note_job(of_job, j.state, j.attempt, 'those before it have ended');
    IF j.held_at IS NULL THEN
        PERFORM msgweb.issue_job(of_job);
    END IF;
END $$;

-- Batches whose last job has ended are complete: what waits for them is released. Two who end the last two jobs at the same
-- moment do not see each other: upkeep calls this too.
CREATE FUNCTION msgweb.complete_batches(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    batch   uuid;
    summary jsonb;
BEGIN
    FOREACH batch IN ARRAY ids LOOP
        CONTINUE WHEN EXISTS (SELECT FROM jobs_job x WHERE x.batch_id = batch
                              AND x.state IN ('scheduled', 'ready', 'running', 'waiting'));
        UPDATE jobs_batch b SET finished_at = clock_timestamp() WHERE b.id = batch AND b.finished_at IS NULL;
        CONTINUE WHEN NOT FOUND;
        SELECT jsonb_build_object('batch', batch, 'total', count(*),
            'succeeded', count(*) FILTER (WHERE x.state = 'succeeded'), 'failed', count(*) FILTER (WHERE x.state = 'failed'),
            'cancelled', count(*) FILTER (WHERE x.state = 'cancelled'), 'expired', count(*) FILTER (WHERE x.state = 'expired'))
        INTO summary FROM jobs_job x WHERE x.batch_id = batch;
        PERFORM msgweb.follow_one(batch, 'succeeded', summary);
    END LOOP;
END $$;

-- Ask for a job: its row, its first event and its message.
--   request  the columns of jobs_job, and: delay, expires, unique_window (seconds), unique_states, after (ids of jobs and
--            batches), hold (boolean)
-- outcome: `new`; `known`: there is one of that id; `duplicate`: one with its unique key stands in the way.
-- Locks: an advisory lock of the unique key; the jobs and batches that it follows FOR SHARE.
-- Raises MW404: there is no such namespace, or nothing to follow.
CREATE FUNCTION msgweb.enqueue_job(request jsonb, OUT job_id uuid, OUT outcome text, OUT created timestamptz)
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

-- What time brings: due jobs are called ready, late ones expire, and whatever two transactions at the same moment could not
-- see of each other is made good. One process at a time, a bounded number a call; skips what others hold.
CREATE FUNCTION msgweb.upkeep_jobs(most integer DEFAULT 500) RETURNS integer LANGUAGE plpgsql AS $$
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
    FOR place IN SELECT p.* FROM jobs_permit p
        WHERE CASE WHEN p.job IS NULL THEN EXISTS (SELECT FROM jobs_job x WHERE x.blocked_on = p.key)
                   ELSE NOT EXISTS (SELECT FROM jobs_job x WHERE x.id = p.job AND x.state IN ('ready', 'running')
                                    AND x.blocked_on IS NULL AND x.held_at IS NULL) END
        ORDER BY p.id LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM msgweb.hand_permit(place);
    END LOOP;
    FOR j IN SELECT DISTINCT d.after, coalesce(x.state, CASE WHEN b.id IS NULL THEN 'cancelled' ELSE 'succeeded' END) AS state,
                    coalesce(x.result, 'null') AS result
        FROM jobs_dependency d LEFT JOIN jobs_job x ON x.id = d.after LEFT JOIN jobs_batch b ON b.id = d.after
        WHERE (x.id IS NULL AND b.finished_at IS NULL AND b.id IS NULL) OR b.finished_at IS NOT NULL
           OR x.state IN ('succeeded', 'failed', 'cancelled', 'expired')
        LIMIT most
    LOOP
        PERFORM msgweb.follow_one(j.after, j.state, j.result);
        done := done + 1;
    END LOOP;
    PERFORM msgweb.complete_batches(ARRAY(SELECT b.id FROM jobs_batch b WHERE b.finished_at IS NULL
        AND NOT EXISTS (SELECT FROM jobs_job x WHERE x.batch_id = b.id AND x.state IN ('scheduled', 'ready', 'running', 'waiting'))
        LIMIT most));
    RETURN done;
END $$;
