-- What is done to queues from outside, in bounded portions: the caller repeats until a portion comes back short.

-- A queue's id. Raises MW404 if there is none.
CREATE FUNCTION msgweb.queue_id(of_namespace text, queue_name text) RETURNS integer LANGUAGE plpgsql STABLE AS $$
DECLARE
    found integer;
BEGIN
    SELECT d.id INTO found FROM msgweb.destination d
    WHERE d.namespace = of_namespace AND d.kind = 'queue' AND d.name = queue_name AND d.owner IS NULL;
    IF found IS NULL THEN
        RAISE EXCEPTION 'there is no queue % in %', queue_name, of_namespace USING ERRCODE = 'MW404';
    END IF;
    RETURN found;
END $$;

-- Remove what waits: ready, behind its group, or delayed. What is held stays. Returns how many went.
CREATE FUNCTION msgweb.purge(of_namespace text, queue_name text, most integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    target integer := msgweb.queue_id(of_namespace, queue_name);
    gone   bigint[];
BEGIN
    gone := ARRAY(
        SELECT m.id FROM msgweb.message m WHERE m.destination = target AND m.session IS NULL
        ORDER BY m.priority DESC, m.id LIMIT most FOR UPDATE SKIP LOCKED);
    IF cardinality(gone) < most THEN
        gone := gone || ARRAY(
            SELECT m.id FROM msgweb.message m
            WHERE m.destination = target AND m.group_key IS NOT NULL AND m.session = 0
            LIMIT most - cardinality(gone) FOR UPDATE SKIP LOCKED);
    END IF;
    IF cardinality(gone) < most THEN
        gone := gone || ARRAY(
            SELECT m.id FROM msgweb.message m WHERE m.session = -1 AND m.destination = target
            LIMIT most - cardinality(gone) FOR UPDATE SKIP LOCKED);
    END IF;
    DELETE FROM msgweb.message m WHERE m.id = ANY (gone);
    RETURN cardinality(gone);
END $$;

-- Send dead letters back to the queues that they came from (or to `to_queue`), in their order, as if they were new there.
--   only_ids     these alone; null: the oldest of all
--   only_reason  expired, max-deliveries, rejected or overflow; null: any
-- Returns how many were moved. What came from nowhere, or from a queue that is gone, stays unless `to_queue` is given.
CREATE FUNCTION msgweb.redrive(of_namespace text, queue_name text, only_ids bigint[] DEFAULT NULL,
                               only_reason text DEFAULT NULL, to_queue text DEFAULT NULL, most integer DEFAULT 1000)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    letters integer := msgweb.queue_id(of_namespace, queue_name);
    target  integer;
    letter  record;
    moved   integer := 0;
    ready   integer[] := '{}';
BEGIN
    IF to_queue IS NOT NULL THEN
        target := msgweb.destination_id(of_namespace, 'queue', to_queue);
    END IF;
    FOR letter IN
        SELECT m.id, m.persistent, coalesce(target, d.id) AS target FROM msgweb.message m
        LEFT JOIN msgweb.destination d ON d.id = m.origin AND d.kind = 'queue'
        WHERE m.destination = letters AND m.session IS NULL AND (only_ids IS NULL OR m.id = ANY (only_ids))
          AND coalesce(target, d.id) IS NOT NULL
          AND (only_reason IS NULL OR msgweb.header(m.headers, 'dead-letter-reason') = only_reason)
        ORDER BY m.priority DESC, m.id LIMIT most FOR UPDATE OF m SKIP LOCKED
    LOOP
        UPDATE msgweb.message m SET id = nextval('msgweb.message_id'), destination = letter.target, origin = NULL,
            deliveries = 0, failures = 0, headers = msgweb.without_dead_letter(m.headers)
        WHERE m.id = letter.id AND m.persistent = letter.persistent;
        moved := moved + 1;
        IF letter.target <> ALL (ready) THEN
            ready := ready || letter.target;
        END IF;
    END LOOP;
    PERFORM msgweb.wake(ready);
    RETURN moved;
END $$;

-- Send a kept message again, as a new one, to its own queue or another. Returns the new message's id.
-- Raises MW404 if it is not kept (any more).
CREATE FUNCTION msgweb.replay(of_namespace text, queue_name text, kept_id bigint, to_queue text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    source integer := msgweb.queue_id(of_namespace, queue_name);
    kept   msgweb.kept_message;
    target integer := coalesce(msgweb.destination_id(of_namespace, 'queue', coalesce(to_queue, queue_name)), source);
    sent   record;
BEGIN
    SELECT * INTO kept FROM msgweb.kept_message k WHERE k.destination = source AND k.id = kept_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'message % is not kept in %', kept_id, queue_name USING ERRCODE = 'MW404';
    END IF;
    SELECT * INTO sent FROM msgweb.enqueue(target, kept.body, convert_to(
        'replayed-from:' || kept.id || E'\nreplayed-at:' || msgweb.escape_header(
            to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) || E'\n', 'UTF8') || kept.headers,
        kept.persistent, kept.priority, strict => true);
    PERFORM msgweb.announce(target, sent.id, sent.outcome, NULL, sent.ready);
    RETURN sent.id;
END $$;
