-- An attempt that was recorded once, with its beginning and its success, is all that there is to tell of both: they are no
-- rows of jobs_event but are told from its own, as the events `told_from` and the next. So an event's number leaves room for
-- one more behind it.
ALTER TABLE jobs_event ALTER COLUMN id SET INCREMENT BY 2;
CREATE OR REPLACE VIEW msgweb.job_event AS
    SELECT id, job_id, at, kind, data FROM jobs_event
    UNION ALL
    SELECT 1, id, created_at, 'state', '{"state": "ready", "attempt": 0}' FROM jobs_job WHERE born_ready
    UNION ALL
    SELECT told_from, job_id, started_at, 'state', jsonb_build_object('state', 'running', 'attempt', number)
    FROM jobs_attempt WHERE told_from IS NOT NULL
    UNION ALL
    SELECT told_from + 1, job_id, ended_at, 'state', jsonb_build_object('state', 'succeeded', 'attempt', number)
    FROM jobs_attempt WHERE told_from IS NOT NULL;
