-- A crash of the server empties unlogged tables: non-persistent messages are gone then, and with them heads of groups
-- for whose end the groups' parked messages wait. This one says whether that happened.
CREATE UNLOGGED TABLE msgweb.since_crash (
    one boolean PRIMARY KEY DEFAULT true CHECK (one)
);
INSERT INTO msgweb.since_crash DEFAULT VALUES;

-- Every writer calls this before its first batch on a connection. After a crash the first one makes the next message of
-- each group ready whose head is gone, and the others wait for that: until then nothing is claimed, so that nothing that
-- is sent meanwhile overtakes. Returns the queues in which something became ready.
CREATE FUNCTION msgweb.after_crash() RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    ready integer[];
BEGIN
    IF EXISTS (SELECT FROM msgweb.since_crash) THEN
        RETURN '{}';
    END IF;
    INSERT INTO msgweb.since_crash DEFAULT VALUES ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    WITH heads AS MATERIALIZED (
        SELECT DISTINCT ON (m.destination, m.group_key) m.id, m.destination, m.group_key FROM msgweb.message m
        WHERE m.group_key IS NOT NULL AND m.session = 0 ORDER BY m.destination, m.group_key, m.id),
    freed AS (
        UPDATE msgweb.message m SET session = NULL FROM heads h
        WHERE m.id = h.id AND m.session = 0
          AND NOT EXISTS (SELECT FROM msgweb.message o WHERE o.destination = h.destination AND o.group_key = h.group_key
                          AND o.session > 0)
          AND NOT EXISTS (SELECT FROM msgweb.message o WHERE o.destination = h.destination AND o.group_key = h.group_key
                          AND o.session = -1 AND o.deliveries > 0)
          AND NOT EXISTS (SELECT FROM msgweb.message o WHERE o.destination = h.destination AND o.group_key = h.group_key
                          AND o.session IS NULL AND o.id < h.id)
        RETURNING m.destination)
    SELECT coalesce(array_agg(DISTINCT destination), '{}') INTO ready FROM freed;
    PERFORM msgweb.wake(ready);
    RETURN ready;
END $$;
