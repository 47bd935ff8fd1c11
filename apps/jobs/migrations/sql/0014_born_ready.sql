-- A plain job's first event (it is ready) is told from its row: a third of what asking for many at once costs was to write it.

-- What happened to jobs, the first events that are no rows among them. Their number, 1, comes before all others.
SELECT setval('jobs_event_id_seq', 2, false) FROM jobs_event_id_seq WHERE last_value < 2;
ALTER TABLE jobs_event ALTER COLUMN id SET MINVALUE 2 SET START 2;
CREATE VIEW msgweb.job_event AS
    SELECT id, job_id, at, kind, data FROM jobs_event
    UNION ALL
    SELECT 1, id, created_at, 'state', '{"state": "ready", "attempt": 0}' FROM jobs_job WHERE born_ready;

-- Ask for a job that nothing is special about: its row, its first event and its message as one statement, whose plan is
-- made once. Others are asked for by msgweb.enqueue_job, which takes more than twice the time.
--   arguments  JSON; the message's body as it is given
--   headers    of the message, as they are stored
--   expires    seconds after which it is given up
-- Returns when the job was made, in microseconds since 1970; null: it is not so plain (its id is taken, or its queue is not
-- there, or has limits or a time to live), and nothing was written: ask enqueue_job. So it refuses nothing.
-- A number and no row: called as `SELECT f(...)` it needs hardly any planning, which is done for each call.
CREATE OR REPLACE FUNCTION msgweb.enqueue_plain_job(job_id uuid, of_namespace text, of_task text, of_queue text, arguments text,
    headers bytea, of_priority smallint, of_attempts integer, asker text, expires float8, of_timeout float8, death text,
    of_limits jsonb, batch uuid) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    made timestamptz;
BEGIN
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
    RETURN extract(epoch FROM made) * 1000000;
END $$;
