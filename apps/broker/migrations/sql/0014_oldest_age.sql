-- How many seconds the oldest message that is ready has waited; null where none is. Of each priority the first in line: a
-- message of low priority may be older than all that go before it.
CREATE FUNCTION msgweb.oldest_age(of_destination integer) RETURNS double precision LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM clock_timestamp() - min(head.enqueued_at))::float8
    FROM generate_series(0, 9) AS lane (priority), LATERAL (
        SELECT m.enqueued_at FROM msgweb.message m
        WHERE m.destination = $1 AND m.session IS NULL AND m.priority = lane.priority
        ORDER BY coalesce(m.position, m.id) LIMIT 1) head
$$;

-- Sample the gauges of all queues, unless another process does: what is ready (counted up to `most`), held, and how old
-- the oldest ready message is. Returns whether it was done.
CREATE OR REPLACE FUNCTION msgweb.sample_queues(most integer DEFAULT 10000) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297568602, 0) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM msgweb.statistic s WHERE s.resolution = 10 AND s.at = msgweb.now_10s() AND s.ready IS NOT NULL) THEN
        RETURN false;
    END IF;
    INSERT INTO msgweb.statistic (resolution, at, destination, ready, in_flight, oldest_age)
    SELECT 10, msgweb.now_10s(), d.id, ready.n, coalesce(held.n, 0),
           CASE WHEN ready.n > 0 THEN msgweb.oldest_age(d.id) END
    FROM msgweb.destination d
    LEFT JOIN (SELECT m.destination, count(*) AS n FROM msgweb.message m
               WHERE m.session = ANY (ARRAY(SELECT id FROM msgweb.session)) GROUP BY m.destination) held
        ON held.destination = d.id
    CROSS JOIN LATERAL (SELECT count(*) AS n FROM (
        SELECT FROM msgweb.message m WHERE m.destination = d.id AND m.session IS NULL
        ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT most) x) ready
    WHERE d.kind = 'queue' AND d.owner IS NULL AND (ready.n > 0 OR held.n > 0);
    RETURN true;
END $$;
