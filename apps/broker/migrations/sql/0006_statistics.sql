-- What happened at each destination, in rows that each process appends: no row is written twice.

-- resolution: seconds that a row stands for; at: when they begin. The sums of a span are the sums of its rows.
-- ready, in_flight, oldest_age: gauges, sampled by one process; null in the rows of the others.
CREATE TABLE msgweb.statistic (
    resolution      smallint NOT NULL CHECK (resolution IN (10, 60, 3600)),
    at              timestamptz NOT NULL,
    destination     integer NOT NULL,
    sent            bigint NOT NULL DEFAULT 0,
    sent_bytes      bigint NOT NULL DEFAULT 0,
    delivered       bigint NOT NULL DEFAULT 0,
    delivered_bytes bigint NOT NULL DEFAULT 0,
    acked           bigint NOT NULL DEFAULT 0,
    redelivered     bigint NOT NULL DEFAULT 0,
    failed          bigint NOT NULL DEFAULT 0,
    dead_lettered   bigint NOT NULL DEFAULT 0,
    expired         bigint NOT NULL DEFAULT 0,
    dropped         bigint NOT NULL DEFAULT 0,
    ready           bigint,
    in_flight       bigint,
    oldest_age      double precision
);
CREATE INDEX statistic_series ON msgweb.statistic (destination, resolution, at);
CREATE INDEX statistic_age ON msgweb.statistic (resolution, at);

CREATE FUNCTION msgweb.now_10s() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT date_bin('10 seconds', clock_timestamp(), '2000-01-01')
$$;

-- What happens in SQL and is seen by no process's own counters: sends, dead letters, expiry.
CREATE FUNCTION msgweb.count(of_destination integer, sent bigint DEFAULT 0, sent_bytes bigint DEFAULT 0,
                             dead_lettered bigint DEFAULT 0, expired bigint DEFAULT 0) RETURNS void LANGUAGE sql AS $$
    INSERT INTO msgweb.statistic (resolution, at, destination, sent, sent_bytes, dead_lettered, expired)
    VALUES (10, msgweb.now_10s(), $1, $2, $3, $4, $5)
$$;

-- Sample the gauges of all queues, unless another process does: what is ready (counted up to `most`), held, and how old
-- the oldest ready message of the highest priority is. Returns whether it was done.
CREATE FUNCTION msgweb.sample_queues(most integer DEFAULT 10000) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297568602, 0) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM msgweb.statistic s WHERE s.resolution = 10 AND s.at = msgweb.now_10s() AND s.ready IS NOT NULL) THEN
        RETURN false;
    END IF;
    INSERT INTO msgweb.statistic (resolution, at, destination, ready, in_flight, oldest_age)
    SELECT 10, msgweb.now_10s(), d.id, ready.n, coalesce(held.n, 0), oldest.age
    FROM msgweb.destination d
    LEFT JOIN (SELECT m.destination, count(*) AS n FROM msgweb.message m
               WHERE m.session = ANY (ARRAY(SELECT id FROM msgweb.session)) GROUP BY m.destination) held
        ON held.destination = d.id
    CROSS JOIN LATERAL (SELECT count(*) AS n FROM (
        SELECT FROM msgweb.message m WHERE m.destination = d.id AND m.session IS NULL
        ORDER BY m.priority DESC, m.id LIMIT most) x) ready
    LEFT JOIN LATERAL (
        SELECT extract(epoch FROM clock_timestamp() - m.enqueued_at)::float8 AS age FROM msgweb.message m
        WHERE m.destination = d.id AND m.session IS NULL ORDER BY m.priority DESC, m.id LIMIT 1) oldest ON true
    WHERE d.kind = 'queue' AND d.owner IS NULL AND (ready.n > 0 OR held.n > 0);
    RETURN true;
END $$;

-- Make ten-second rows older than an hour minutes, minutes older than a day hours, and forget what is older than a year.
-- One process at a time, each step one statement: a process that dies in between has moved nothing.
CREATE FUNCTION msgweb.roll_up_statistics(moment timestamptz DEFAULT clock_timestamp()) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    step record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1297568602, 1) THEN
        RETURN;
    END IF;
    FOR step IN SELECT * FROM (VALUES (10, 60, interval '1 hour', interval '1 minute'),
                                      (60, 3600, interval '1 day', interval '1 hour')) AS x (fine, coarse, age, width)
    LOOP
        WITH old AS (
            DELETE FROM msgweb.statistic s
            WHERE s.resolution = step.fine AND s.at < date_bin(step.width, moment - step.age, '2000-01-01') RETURNING s.*)
        INSERT INTO msgweb.statistic (resolution, at, destination, sent, sent_bytes, delivered, delivered_bytes, acked,
                                      redelivered, failed, dead_lettered, expired, dropped, ready, in_flight, oldest_age)
        SELECT step.coarse, date_bin(step.width, o.at, '2000-01-01'), o.destination, sum(o.sent), sum(o.sent_bytes),
               sum(o.delivered), sum(o.delivered_bytes), sum(o.acked), sum(o.redelivered), sum(o.failed),
               sum(o.dead_lettered), sum(o.expired), sum(o.dropped), max(o.ready), max(o.in_flight), max(o.oldest_age)
        FROM old o GROUP BY 2, 3;
    END LOOP;
    DELETE FROM msgweb.statistic s WHERE s.resolution = 3600 AND s.at < moment - interval '1 year';
END $$;
