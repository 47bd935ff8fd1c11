-- How many jobs have ended is told apart by task. What ended before is of no task: its rows are not written again, and
-- sums that ask for none count them as ever. So do the rows of a worker that has not been replaced yet.
ALTER TABLE msgweb.jobs_ended ADD COLUMN task text NOT NULL DEFAULT '';

-- Make rows as they were written ten seconds, those older than an hour minutes, those older than a day hours, and forget
-- what is older than a year. One process at a time, each step one statement: a process that dies in between has moved
-- nothing.
CREATE OR REPLACE FUNCTION msgweb.roll_up_jobs_ended(moment timestamptz DEFAULT clock_timestamp()) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    step record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297568602, 3) THEN
        RETURN;
    END IF;
    FOR step IN SELECT * FROM (VALUES (0, 10, interval '0', interval '10 seconds'),
                                      (10, 60, interval '1 hour', interval '1 minute'),
                                      (60, 3600, interval '1 day', interval '1 hour')) AS x (fine, coarse, age, width)
    LOOP
        WITH old AS (
            DELETE FROM msgweb.jobs_ended e
            WHERE e.resolution = step.fine AND e.at < date_bin(step.width, moment - step.age, '2000-01-01') RETURNING e.*)
        INSERT INTO msgweb.jobs_ended (resolution, at, namespace, task, succeeded, failed, cancelled, expired)
        SELECT step.coarse, date_bin(step.width, o.at, '2000-01-01'), o.namespace, o.task, sum(o.succeeded), sum(o.failed),
               sum(o.cancelled), sum(o.expired)
        FROM old o GROUP BY 2, 3, 4;
    END LOOP;
    DELETE FROM msgweb.jobs_ended e WHERE e.resolution = 3600 AND e.at < moment - interval '1 year';
END $$;

-- End a job that is not at work, with an error, and tell its asker. The caller holds its row, and calls follow_jobs.
CREATE OR REPLACE FUNCTION msgweb.give_up_job(of_job uuid, to_state text, error jsonb, why text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    j jobs_job;
BEGIN
    UPDATE jobs_job SET state = to_state, error = give_up_job.error, finished_at = clock_timestamp(), worker = NULL,
        ticket = ticket + 1, blocked_on = NULL
    WHERE id = of_job RETURNING * INTO j;
    INSERT INTO msgweb.jobs_ended (namespace, task, failed, cancelled, expired)
    VALUES (j.namespace, j.task, (to_state = 'failed')::int, (to_state = 'cancelled')::int, (to_state = 'expired')::int);
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
