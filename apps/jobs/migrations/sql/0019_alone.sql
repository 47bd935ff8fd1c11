-- Ask for a job as msgweb.enqueue_plain_job does, in a transaction of its own that the workers hear of before it is on disk. A
-- second one, which writes next to nothing, waits for the disk, and so for both. Nobody begins the job earlier for that: a
-- claim waits for the disk too, and the write-ahead log is written in its order. The statement is the one that is there: to call
-- that function took 35 microseconds of 210.
--   microseconds  what the function returns; null: nothing was written
CREATE PROCEDURE msgweb.enqueue_plain_alone(job_id uuid, of_namespace text, of_task text, of_queue text, arguments text,
    headers bytea, of_priority smallint, of_attempts integer, asker text, expires float8, of_timeout float8, death text,
    of_limits jsonb, batch uuid, INOUT microseconds bigint DEFAULT NULL) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    made timestamptz;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    WITH target AS MATERIALIZED (
        SELECT d.id, clock_timestamp() AS at, convert_to(arguments, 'UTF8') AS body FROM msgweb.destination d
        WHERE d.namespace = of_namespace AND d.kind = 'queue' AND d.name = of_queue AND d.owner IS NULL
          AND d.max_length IS NULL AND d.max_bytes IS NULL AND d.message_ttl IS NULL AND d.expires_after IS NULL
    ), job AS (
        INSERT INTO jobs_job (id, namespace, task, queue, arguments, priority, state, attempt, failures, max_attempts,
            delivery, reply_to, correlation_id, wants_progress, requested_by, created_at, expires_at, timeout, on_death,
            limits, batch_id, born_ready)
        SELECT job_id, of_namespace, of_task, of_queue, arguments::jsonb, of_priority, 'ready', 0, 0, of_attempts,
            0, '', '', false, asker, t.at, t.at + make_interval(secs => expires), of_timeout, death,
            of_limits, batch, true
        FROM target t
        ON CONFLICT (id) DO NOTHING RETURNING created_at
    ), message AS (
        INSERT INTO msgweb.message_persistent (destination, priority, persistent, headers, body)
        SELECT t.id, of_priority, true, headers, t.body FROM job, target t
        RETURNING id, destination, octet_length(headers) + octet_length(body) AS bytes
    ), tallied AS (
        INSERT INTO msgweb.tally (destination, sent, sent_bytes) SELECT m.destination, 1, m.bytes FROM message m
        RETURNING destination
    ), told AS (
        SELECT pg_notify('msgweb_ready', m.destination || ':' || m.id || 'p' || of_priority),
               pg_notify('msgweb_job', job_id::text)
        FROM message m
    )
    SELECT j.created_at INTO made FROM job j, told;
    IF made IS NOT NULL THEN
        COMMIT;  -- ends that setting
        PERFORM pg_logical_emit_message(true, 'msgweb', '');  -- who has written nothing waits for no disk
        microseconds := extract(epoch FROM made) * 1000000;
    END IF;
END $$;
