-- That a priority is 0 to 9 is seen to where messages come in: here, for the engine's statements, and in msgweb.send, REST,
-- jobs and bulk sends. Postgres reads a table's CHECKs from their text anew for each statement that writes to it: six
-- microseconds of the forty that a batch of one message takes (docs/adr/0008).
ALTER TABLE msgweb.message DROP CONSTRAINT message_priority_check;
CREATE FUNCTION msgweb.valid_priority(priority smallint) RETURNS smallint LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN priority BETWEEN 0 AND 9 OR msgweb.refuse('check_violation', 'a priority is 0 to 9, not ' || priority)
                THEN priority END
$$;

-- `fence`, `enter_batch` and the insert of one message (see queries.sql) in one call: each statement fewer saves some
-- ten microseconds, and a batch of one message waits for them.
--   relaxed    nobody waits for the batch: if it is lost in a crash, its messages come again, marked
--   contended  it takes locks that others may hold for long: it waits for them briefly
--   given_id   0: the next one of the sequence; handed: the message was handed over before; held: and is still held
-- Raises MW001 when the session was buried, MW002 when the catalogue has changed.
-- Locks: the session's fence, shared, first. What follows are statements of their own, whose snapshots are younger.
CREATE FUNCTION msgweb.write_one(of_session integer, batch_number bigint, version_read bigint, relaxed boolean, contended boolean,
                                 is_persistent boolean, given_id bigint, target integer, of_priority smallint, handed boolean,
                                 held boolean, its_headers bytea, its_body bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    -- A condition is evaluated without a query, which PERFORM would be.
    IF pg_advisory_xact_lock_shared(1297568601, of_session) IS NULL
       OR relaxed AND set_config('synchronous_commit', 'off', true) IS NULL
       OR contended AND set_config('lock_timeout', '50ms', true) IS NULL THEN
        RAISE EXCEPTION 'these have a value';
    END IF;
    INSERT INTO msgweb.batch (session, number)
    SELECT s.id, batch_number FROM msgweb.session s, msgweb.catalogue c
    WHERE s.id = of_session AND c.only_row AND c.version = version_read;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM msgweb.session s WHERE s.id = of_session) THEN
            PERFORM msgweb.refuse('MW002', 'the catalogue has changed');
        END IF;
        PERFORM msgweb.refuse('MW001', 'this session was taken for dead');
    END IF;
    place := nextval('msgweb.message_id');
    IF is_persistent THEN
        INSERT INTO msgweb.message_persistent (id, position, destination, priority, persistent, session, deliveries, headers, body)
        VALUES (CASE WHEN given_id = 0 THEN place ELSE given_id END, CASE WHEN given_id <> 0 THEN place END, target,
                msgweb.valid_priority(of_priority), true, CASE WHEN held THEN of_session END, handed::integer, its_headers,
                its_body);
    ELSE
        INSERT INTO msgweb.message_transient (id, position, destination, priority, persistent, session, deliveries, headers, body)
        VALUES (CASE WHEN given_id = 0 THEN place ELSE given_id END, CASE WHEN given_id <> 0 THEN place END, target,
                msgweb.valid_priority(of_priority), false, CASE WHEN held THEN of_session END, handed::integer, its_headers,
                its_body);
    END IF;
END $$;
