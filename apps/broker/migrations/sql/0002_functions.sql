-- Settings and names are known by heart in each process: what makes that knowledge stale counts as a change.
CREATE TRIGGER catalogue_changed AFTER UPDATE OF message_ttl, on_expiry, max_deliveries, retry_delay, retry_delay_max,
    dead_letter_queue, max_length, max_bytes, overflow, paused, exclusive, expires_after, deduplication, keep_for,
    keep_messages, grouped ON msgweb.destination
    FOR EACH STATEMENT EXECUTE FUNCTION msgweb.catalogue_changed();
CREATE TRIGGER catalogue_changed_delete AFTER DELETE ON msgweb.destination
    FOR EACH ROW WHEN (OLD.owner IS NULL) EXECUTE FUNCTION msgweb.catalogue_changed();

-- A limited queue's allowance begins with nothing: the first send counts what waits.
CREATE FUNCTION msgweb.open_allowance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM msgweb.allowance WHERE destination = NEW.id;
    INSERT INTO msgweb.allowance (destination, messages, bytes) SELECT NEW.id, 0, 0
    WHERE NEW.max_length IS NOT NULL OR NEW.max_bytes IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER open_allowance AFTER UPDATE OF max_length, max_bytes ON msgweb.destination
    FOR EACH ROW EXECUTE FUNCTION msgweb.open_allowance();

-- Forget what hangs on a destination that ends.
CREATE FUNCTION msgweb.forget_destination() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM msgweb.allowance WHERE destination = OLD.id;
    DELETE FROM msgweb.deduplication WHERE destination = OLD.id;
    DELETE FROM msgweb.exclusive_consumer WHERE destination = OLD.id;
    DELETE FROM msgweb.kept_message WHERE destination = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_destination AFTER DELETE ON msgweb.destination
    FOR EACH ROW WHEN (OLD.owner IS NULL AND OLD.kind = 'queue') EXECUTE FUNCTION msgweb.forget_destination();

-- Where a queue's dead letters go, by name.
CREATE FUNCTION msgweb.dead_letter_name(queue msgweb.destination) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(queue.dead_letter_queue, left('DLQ.' || queue.name, 255))
$$;

-- Headers (name:value LF each) without those that dead-lettering put before them.
CREATE FUNCTION msgweb.without_dead_letter(headers bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    WHILE substring(headers FROM 1 FOR 12) = 'dead-letter-'::bytea LOOP
        headers := substring(headers FROM position(E'\n'::bytea IN headers) + 1);
    END LOOP;
    RETURN headers;
END $$;

-- A header's value, unescaped no further; null where there is none, or where it is no UTF-8.
CREATE FUNCTION msgweb.header(headers bytea, name text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    line  bytea := convert_to(E'\n' || msgweb.escape_header(name) || ':', 'UTF8');
    whole bytea := E'\n'::bytea || headers;
    start integer := position(line IN whole);
BEGIN
    IF start = 0 THEN
        RETURN NULL;
    END IF;
    whole := substring(whole FROM start + length(line));
    RETURN convert_from(substring(whole FROM 1 FOR position(E'\n'::bytea IN whole) - 1), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire THEN
    RETURN NULL;
END $$;

-- What an advisory lock of a message group is called. Whoever takes a group's next message, or ends its present one,
-- holds it until the end of the transaction.
CREATE FUNCTION msgweb.group_lock(of_destination integer, of_group text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended(of_group, 1297568600::bigint + of_destination)
$$;

-- A message of the group is done with: its next becomes ready, unless one is being worked on or retried.
-- The caller holds the group's lock. Returns whether something became ready.
CREATE FUNCTION msgweb.advance_group(of_destination integer, of_group text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    next_id bigint;
BEGIN
    SELECT id INTO next_id FROM msgweb.message
    WHERE destination = of_destination AND group_key = of_group AND session = 0 ORDER BY id LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF EXISTS (SELECT FROM msgweb.message m WHERE m.destination = of_destination AND m.group_key = of_group
               AND m.session > 0)
       OR EXISTS (SELECT FROM msgweb.message m WHERE m.destination = of_destination AND m.group_key = of_group
                  AND m.session = -1 AND m.deliveries > 0) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM msgweb.message m WHERE m.destination = of_destination AND m.group_key = of_group
               AND m.session IS NULL AND m.id < coalesce(next_id, m.id + 1)) THEN
        RETURN true;  -- who looked at it while the group was locked passed over it
    END IF;
    IF next_id IS NULL THEN
        RETURN false;
    END IF;
    UPDATE msgweb.message SET session = NULL WHERE id = next_id AND group_key IS NOT NULL;
    RETURN true;
END $$;

-- Move messages to where their queues' dead letters go. What cannot go there now (an application's open transaction is
-- making that queue) is tried again in a second. Messages of groups: the caller holds the groups' locks.
-- Locks: the messages. Returns the destinations in which something became ready.
CREATE FUNCTION msgweb.dead_letter(ids bigint[], reason text) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    source msgweb.destination;
    target integer;
    moved  record;
    number bigint;
    ready  integer[] := '{}';
BEGIN
    FOR source IN SELECT * FROM msgweb.destination d
        WHERE d.id = ANY (ARRAY(SELECT m.destination FROM msgweb.message m WHERE m.id = ANY (ids)))
    LOOP
        BEGIN
            target := msgweb.destination_id(source.namespace, 'queue', msgweb.dead_letter_name(source));
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            UPDATE msgweb.message SET session = -1, available_at = clock_timestamp() + interval '1 second'
            WHERE id = ANY (ids) AND destination = source.id;
            CONTINUE;
        END;
        IF target = source.id THEN
            DELETE FROM msgweb.message WHERE id = ANY (ids) AND destination = source.id;
            CONTINUE;
        END IF;
        number := 0;
        FOR moved IN SELECT m.id, m.persistent, m.group_key FROM msgweb.message m
            WHERE m.id = ANY (ids) AND m.destination = source.id
        LOOP
            number := number + 1;
            UPDATE msgweb.message m SET
                id = nextval('msgweb.message_id'), destination = target, session = NULL, deliveries = 0, failures = 0,
                origin = source.id, expires_at = NULL, available_at = NULL, group_key = NULL,
                headers = convert_to(
                    'dead-letter-reason:' || reason || E'\ndead-letter-from:' || msgweb.escape_header('/queue/' || source.name)
                    || E'\ndead-letter-at:'
                    || msgweb.escape_header(to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
                    || E'\ndead-letter-deliveries:' || m.deliveries || E'\ndead-letter-message-id:' || m.id || E'\n', 'UTF8')
                    || msgweb.without_dead_letter(m.headers)
            WHERE m.id = moved.id AND m.persistent = moved.persistent;
            IF moved.group_key IS NOT NULL AND msgweb.advance_group(source.id, moved.group_key) THEN
                ready := ready || source.id;
            END IF;
        END LOOP;
        IF FOUND THEN
            ready := ready || target;
            PERFORM msgweb.count(source.id, dead_lettered => number);
        END IF;
    END LOOP;
    RETURN ready;
END $$;

-- Make room in a queue by its oldest messages of its lowest priority, at least so many messages and bytes.
-- Returns the destinations in which something became ready.
CREATE FUNCTION msgweb.drop_head(queue msgweb.destination, messages bigint, bytes bigint) RETURNS integer[]
LANGUAGE plpgsql AS $$
DECLARE
    lowest  smallint;
    dropped record;
    gone    bigint[] := '{}';
    ready   integer[] := '{}';
BEGIN
    WHILE messages > 0 OR bytes > 0 LOOP
        SELECT priority INTO lowest FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL
            AND m.id <> ALL (gone) ORDER BY m.priority, m.id DESC LIMIT 1;
        EXIT WHEN lowest IS NULL;
        SELECT m.id, m.group_key, octet_length(m.headers) + octet_length(m.body) AS size INTO dropped
        FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL AND m.priority = lowest
            AND m.id <> ALL (gone) ORDER BY m.id LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        messages := messages - 1;
        bytes := bytes - dropped.size;
        gone := gone || dropped.id;
        IF cardinality(gone) >= 1000 THEN
            EXIT;
        END IF;
    END LOOP;
    PERFORM pg_advisory_xact_lock(k) FROM (
        SELECT DISTINCT msgweb.group_lock(m.destination, m.group_key) AS k FROM msgweb.message m
        WHERE m.id = ANY (gone) AND m.group_key IS NOT NULL ORDER BY 1) AS locks;
    RETURN msgweb.dead_letter(gone, 'overflow');
END $$;

-- Whether a limited queue takes one more message of that size. A queue that drops from its head always does, unless the
-- message alone is larger than the queue. Counts what waits (ready, or behind its group) when the allowance is used up;
-- where counting takes long, not more often than for a fifth of the time.
-- Locks: the queue's allowance, until the end of the transaction.
CREATE FUNCTION msgweb.admit(queue msgweb.destination, size bigint, OUT admitted boolean, OUT ready integer[])
LANGUAGE plpgsql AS $$
DECLARE
    free       msgweb.allowance;
    waiting    bigint;
    occupied   bigint := 0;
    begun      timestamptz;
BEGIN
    ready := '{}';
    admitted := true;
    SELECT * INTO STRICT free FROM msgweb.allowance a WHERE a.destination = queue.id FOR UPDATE;
    IF free.messages < 1 OR free.bytes < size THEN
        IF free.count_after IS NULL OR free.count_after < clock_timestamp() THEN
            begun := clock_timestamp();
            IF queue.max_bytes IS NULL THEN
                SELECT count(*) INTO waiting FROM (
                    SELECT FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL
                    ORDER BY m.priority DESC, m.id LIMIT queue.max_length) AS x;
                SELECT waiting + count(*) INTO waiting FROM (
                    SELECT FROM msgweb.message m WHERE m.destination = queue.id AND m.group_key IS NOT NULL
                        AND m.session = 0 LIMIT queue.max_length) AS x;
            ELSE
                SELECT count(*), coalesce(sum(x.size), 0) INTO waiting, occupied FROM (
                    SELECT octet_length(m.headers) + octet_length(m.body) AS size FROM msgweb.message m
                    WHERE m.destination = queue.id AND m.session IS NULL) AS x;
                SELECT waiting + count(*), occupied + coalesce(sum(x.size), 0) INTO waiting, occupied FROM (
                    SELECT octet_length(m.headers) + octet_length(m.body) AS size FROM msgweb.message m
                    WHERE m.destination = queue.id AND m.group_key IS NOT NULL AND m.session = 0) AS x;
            END IF;
            free.messages := coalesce(queue.max_length, 9e18::bigint) - waiting;
            free.bytes := coalesce(queue.max_bytes, 9e18::bigint) - occupied;
            free.count_after := CASE WHEN clock_timestamp() - begun > interval '5 milliseconds'
                                THEN clock_timestamp() + 4 * (clock_timestamp() - begun) END;
        END IF;
        IF free.messages < 1 OR free.bytes < size THEN
            IF queue.overflow = 'drop-head' AND size <= coalesce(queue.max_bytes, size) THEN
                ready := msgweb.drop_head(queue, 1 - free.messages, size - free.bytes);
                free.messages := greatest(free.messages, 1);
                free.bytes := greatest(free.bytes, size);
            ELSE
                admitted := false;
            END IF;
        END IF;
    END IF;
    IF admitted THEN
        free.messages := free.messages - 1;
        free.bytes := free.bytes - size;
    END IF;
    UPDATE msgweb.allowance a SET messages = free.messages, bytes = free.bytes, count_after = free.count_after
    WHERE a.destination = queue.id;
END $$;

-- Put a message into a queue, with all that the queue and the message ask for.
--   ttl            seconds from when it is available until it expires
--   delay          seconds until it is available
--   group_key      its message group
--   deduplication  a key: a second message with it within the queue's window is a duplicate
--   strict         raise instead of returning full or gone
-- outcome: sent, delayed, duplicate (dropped, as asked for), full (the queue's limit refuses it), gone (no such queue).
-- ready: further destinations in which something became ready (dead letters of a queue that drops from its head).
-- Raises MW413 (full) and MW404 (gone) if strict. Notifies nobody.
CREATE FUNCTION msgweb.enqueue(target integer, body bytea, headers bytea, persistent boolean, priority integer,
                               ttl double precision DEFAULT NULL, delay double precision DEFAULT 0,
                               group_key text DEFAULT NULL, deduplication text DEFAULT NULL,
                               strict boolean DEFAULT false,
                               OUT id bigint, OUT outcome text, OUT ready integer[]) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    queue      msgweb.destination;
    available  timestamptz;
    admitted   boolean;
BEGIN
    ready := '{}';
    SELECT * INTO queue FROM msgweb.destination d WHERE d.id = target;
    IF queue.expires_after IS NOT NULL THEN
        SELECT * INTO queue FROM msgweb.destination d WHERE d.id = target FOR KEY SHARE;
        UPDATE msgweb.destination d SET used_at = clock_timestamp() WHERE d.id = (
            SELECT x.id FROM msgweb.destination x WHERE x.id = target
            AND x.used_at < clock_timestamp() - least(interval '1 second', make_interval(secs => queue.expires_after / 10))
            FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    IF queue.id IS NULL THEN
        IF strict THEN
            RAISE EXCEPTION 'the queue is gone' USING ERRCODE = 'MW404';
        END IF;
        outcome := 'gone';
        RETURN;
    END IF;
    IF deduplication IS NOT NULL THEN
        SELECT 'duplicate' INTO outcome FROM msgweb.deduplication k
        WHERE k.destination = target AND k.key = deduplication AND k.expires_at > clock_timestamp();
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF queue.max_length IS NOT NULL OR queue.max_bytes IS NOT NULL THEN
        SELECT a.admitted, a.ready INTO admitted, ready FROM msgweb.admit(queue, octet_length(headers) + octet_length(body)) AS a;
        IF NOT admitted THEN
            IF strict THEN
                RAISE EXCEPTION '/queue/% is full: it takes % messages and % bytes', queue.name,
                    coalesce(queue.max_length::text, 'any number of'), coalesce(queue.max_bytes::text, 'any number of')
                    USING ERRCODE = 'MW413';
            END IF;
            outcome := 'full';
            RETURN;
        END IF;
    END IF;
    IF deduplication IS NOT NULL THEN
        INSERT INTO msgweb.deduplication AS k (destination, key, expires_at)
        VALUES (target, deduplication, clock_timestamp() + make_interval(secs => coalesce(queue.deduplication, 600)))
        ON CONFLICT ON CONSTRAINT deduplication_pkey DO UPDATE SET expires_at = excluded.expires_at
        WHERE k.expires_at <= clock_timestamp();
        IF NOT FOUND THEN
            outcome := 'duplicate';
            RETURN;
        END IF;
    END IF;
    IF group_key IS NOT NULL AND NOT queue.grouped THEN
        UPDATE msgweb.destination d SET grouped = true WHERE d.id = (
            SELECT x.id FROM msgweb.destination x WHERE x.id = target AND NOT x.grouped FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    ttl := least(ttl, queue.message_ttl);
    available := clock_timestamp() + make_interval(secs => coalesce(delay, 0));
    INSERT INTO msgweb.message AS m (destination, priority, persistent, session, available_at, expires_at, group_key,
                                     headers, body)
    VALUES (target, priority, persistent, CASE WHEN delay > 0 THEN -1 END, CASE WHEN delay > 0 THEN available END,
            available + make_interval(secs => ttl), group_key, headers, body)
    RETURNING m.id INTO id;
    outcome := CASE WHEN delay > 0 THEN 'delayed' ELSE 'sent' END;
END $$;

-- Delete what is done with, keep what its queue keeps, and let the next of its group come.
-- Locks: the groups of the messages, in order. Returns the destinations in which something became ready.
CREATE FUNCTION msgweb.ack_special(ids bigint[], of_session integer) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    ended record;
    ready integer[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(k) FROM (
        SELECT DISTINCT msgweb.group_lock(m.destination, m.group_key) AS k FROM msgweb.message m
        WHERE m.id = ANY (ids) AND m.group_key IS NOT NULL ORDER BY 1) AS locks;
    FOR ended IN
        WITH gone AS (
            DELETE FROM msgweb.message m WHERE m.id = ANY (ids) AND coalesce(m.session, 0) = of_session RETURNING m.*),
        kept AS (
            INSERT INTO msgweb.kept_message (id, destination, enqueued_at, deliveries, priority, persistent,
                                             correlation_id, headers, body)
            SELECT g.id, g.destination, g.enqueued_at, g.deliveries, g.priority, g.persistent,
                   msgweb.header(g.headers, 'correlation-id'), g.headers, g.body
            FROM gone g JOIN msgweb.destination d ON d.id = g.destination
            WHERE d.keep_for IS NOT NULL OR d.keep_messages IS NOT NULL)
        SELECT DISTINCT destination, group_key FROM gone WHERE group_key IS NOT NULL
    LOOP
        IF msgweb.advance_group(ended.destination, ended.group_key) THEN
            ready := ready || ended.destination;
        END IF;
    END LOOP;
    PERFORM msgweb.wake(ready);
    RETURN ready;
END $$;

-- Tell the processes that something is ready in these queues.
CREATE FUNCTION msgweb.wake(destinations integer[]) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('msgweb_ready', d::text) FROM (SELECT DISTINCT unnest(destinations)) AS x (d)
$$;

-- A consumer refused these messages, or died over them: the queue's policy says whether they come again, and when.
--   delays  seconds for each message; null: the queue's back-off. at_once: to the dead letters, without further attempts
-- Locks: the messages, and the groups of those that are given up. Returns the destinations in which something became
-- ready, this process's own included.
CREATE FUNCTION msgweb.reject(ids bigint[], of_session integer, delays double precision[], at_once boolean[])
RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    refused record;
    pause   double precision;
    given_up bigint[] := '{}';
    rejected bigint[] := '{}';
    ready   integer[] := '{}';
BEGIN
    FOR refused IN
        SELECT m.id, m.persistent, m.destination, m.failures + 1 AS failures, u.delay, u.now, d.max_deliveries,
               d.retry_delay, d.retry_delay_max
        FROM unnest(ids, delays, at_once) AS u (id, delay, now)
        JOIN msgweb.message m ON m.id = u.id AND coalesce(m.session, 0) = of_session
        LEFT JOIN msgweb.destination d ON d.id = m.destination
    LOOP
        IF refused.now THEN
            rejected := rejected || refused.id;
            CONTINUE;
        ELSIF refused.failures >= refused.max_deliveries THEN
            given_up := given_up || refused.id;
            CONTINUE;
        END IF;
        pause := coalesce(refused.delay, least(coalesce(refused.retry_delay, 0) * 2 ^ least(refused.failures - 1, 60),
                                               coalesce(refused.retry_delay_max, 3600)));
        UPDATE msgweb.message m SET session = CASE WHEN pause > 0 THEN -1 END, failures = refused.failures,
            available_at = CASE WHEN pause > 0 THEN clock_timestamp() + make_interval(secs => pause) END
        WHERE m.id = refused.id AND m.persistent = refused.persistent;
        IF pause <= 0 THEN
            ready := ready || refused.destination;
        END IF;
    END LOOP;
    IF cardinality(given_up) + cardinality(rejected) > 0 THEN
        PERFORM pg_advisory_xact_lock(k) FROM (
            SELECT DISTINCT msgweb.group_lock(m.destination, m.group_key) AS k FROM msgweb.message m
            WHERE m.id = ANY (given_up || rejected) AND m.group_key IS NOT NULL ORDER BY 1) AS locks;
        ready := ready || msgweb.dead_letter(given_up, 'max-deliveries') || msgweb.dead_letter(rejected, 'rejected');
    END IF;
    PERFORM msgweb.wake(ready);
    RETURN ready;
END $$;

-- Claim from a queue that holds messages of groups: of each group only its first, and only while no other of it is
-- worked on or retried; what is found behind such a one is parked. Rows in order; see the statement `claim`.
-- Locks: the claimed rows, and (trying only) the locks of their groups.
CREATE FUNCTION msgweb.claim_groups(of_destination integer, most integer, of_session integer)
RETURNS TABLE (id bigint, priority smallint, persistent boolean, deliveries integer, headers bytea, body bytea,
               group_key text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    seen      integer := 0;
    taken     bigint[] := '{}';
    groups    text[] := '{}';
    passed    text[] := '{}';
BEGIN
    FOR candidate IN
        SELECT m.id, m.persistent, m.group_key FROM msgweb.message m
        WHERE m.destination = of_destination AND m.session IS NULL
          AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
        ORDER BY m.priority DESC, m.id LIMIT 2000 FOR UPDATE SKIP LOCKED
    LOOP
        IF candidate.group_key IS NULL THEN
            taken := taken || candidate.id;
        ELSIF candidate.group_key = ANY (passed) THEN
            CONTINUE;
        ELSIF candidate.group_key <> ALL (groups)
              AND NOT pg_try_advisory_xact_lock(msgweb.group_lock(of_destination, candidate.group_key)) THEN
            passed := passed || candidate.group_key;  -- somebody is at work on the group; who that is wakes us
            CONTINUE;
        ELSIF candidate.group_key = ANY (groups)
              OR EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination
                         AND o.group_key = candidate.group_key AND o.session > 0)
              OR EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination
                         AND o.group_key = candidate.group_key AND o.session = -1 AND o.deliveries > 0)
              OR EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination
                         AND o.group_key = candidate.group_key AND o.session IS NULL AND o.id < candidate.id) THEN
            UPDATE msgweb.message m SET session = 0 WHERE m.id = candidate.id AND m.persistent = candidate.persistent;
        ELSE
            groups := groups || candidate.group_key;
            taken := taken || candidate.id;
        END IF;
        EXIT WHEN cardinality(taken) >= most;
    END LOOP;
    RETURN QUERY
        WITH held AS (
            UPDATE msgweb.message m SET session = of_session, deliveries = m.deliveries + 1
            WHERE m.id = ANY (taken) RETURNING m.id, m.priority, m.persistent, m.deliveries, m.headers, m.body, m.group_key)
        SELECT h.id, h.priority, h.persistent, h.deliveries, h.headers, h.body, h.group_key FROM held h
        ORDER BY h.priority DESC, h.id;
END $$;

-- Make ready what is due, drop or dead-letter what has expired. One process at a time; a bounded number a call.
-- A delayed message that was never delivered takes its place when it is due; one that is retried keeps its own.
--   next_due  when to come again for a delayed message at the latest; null: none is delayed
--   more      whether there was more than one call does
CREATE FUNCTION msgweb.sweep(most integer DEFAULT 1000, OUT next_due timestamptz, OUT more boolean, OUT ready integer[])
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    due     bigint[];
    expired record;
    dropped bigint[] := '{}';
    letters bigint[] := '{}';
    count   integer := 0;
BEGIN
    ready := '{}';
    more := false;
    IF pg_try_advisory_xact_lock(1297568599, 0) THEN
        WITH picked AS MATERIALIZED (
            SELECT m.id, m.persistent, m.deliveries FROM msgweb.message m
            WHERE m.session = -1 AND m.available_at <= clock_timestamp()
            ORDER BY m.available_at LIMIT most FOR UPDATE SKIP LOCKED),
        placed AS (
            UPDATE msgweb.message m SET session = NULL, available_at = NULL,
                id = CASE WHEN p.deliveries = 0 THEN nextval('msgweb.message_id') ELSE p.id END
            FROM picked p WHERE m.id = p.id AND m.persistent = p.persistent RETURNING m.destination)
        SELECT array_agg(DISTINCT destination), count(*) INTO ready, count FROM placed;
        ready := coalesce(ready, '{}');
        more := count >= most;
        count := 0;
        FOR expired IN
            SELECT m.id, m.group_key, m.destination, d.on_expiry FROM msgweb.message m
            LEFT JOIN msgweb.destination d ON d.id = m.destination
            WHERE m.expires_at <= clock_timestamp() AND coalesce(m.session, 0) <= 0
            ORDER BY m.expires_at LIMIT most FOR UPDATE OF m SKIP LOCKED
        LOOP
            count := count + 1;
            IF expired.on_expiry = 'dead-letter' THEN
                letters := letters || expired.id;
            ELSE
                dropped := dropped || expired.id;
            END IF;
        END LOOP;
        more := more OR count >= most;
        IF count > 0 THEN
            PERFORM pg_advisory_xact_lock(k) FROM (
                SELECT DISTINCT msgweb.group_lock(m.destination, m.group_key) AS k FROM msgweb.message m
                WHERE m.id = ANY (letters || dropped) AND m.group_key IS NOT NULL ORDER BY 1) AS locks;
            PERFORM msgweb.count(m.destination, expired => count(*)) FROM msgweb.message m
            WHERE m.id = ANY (dropped || letters) GROUP BY m.destination;
            ready := ready || msgweb.dead_letter(letters, 'expired');
            FOR expired IN DELETE FROM msgweb.message m WHERE m.id = ANY (dropped) RETURNING m.destination, m.group_key
            LOOP
                IF expired.group_key IS NOT NULL AND msgweb.advance_group(expired.destination, expired.group_key) THEN
                    ready := ready || expired.destination;
                END IF;
            END LOOP;
        END IF;
        PERFORM msgweb.wake(ready);
    END IF;
    SELECT m.available_at INTO next_due FROM msgweb.message m WHERE m.session = -1 ORDER BY m.available_at LIMIT 1;
END $$;

-- Once in a while: queues that nobody uses, keys whose window is over, kept messages whose time is over.
CREATE FUNCTION msgweb.tidy_queues() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    queue msgweb.destination;
    last  bigint;
BEGIN
    DELETE FROM msgweb.deduplication WHERE expires_at < clock_timestamp();
    FOR queue IN SELECT * FROM msgweb.destination d WHERE d.expires_after IS NOT NULL FOR UPDATE SKIP LOCKED LOOP
        IF EXISTS (SELECT FROM msgweb.session s WHERE s.details->'consumers' ? queue.id::text) THEN
            UPDATE msgweb.destination SET used_at = clock_timestamp() WHERE id = queue.id;
        ELSIF queue.used_at + make_interval(secs => queue.expires_after) < clock_timestamp() THEN
            DELETE FROM msgweb.destination WHERE id = queue.id;
            DELETE FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL;
            DELETE FROM msgweb.message m WHERE m.destination = queue.id AND m.group_key IS NOT NULL AND m.session = 0;
        END IF;
    END LOOP;
    FOR queue IN SELECT * FROM msgweb.destination d WHERE d.keep_for IS NOT NULL OR d.keep_messages IS NOT NULL LOOP
        DELETE FROM msgweb.kept_message k WHERE k.destination = queue.id
            AND k.acked_at < clock_timestamp() - make_interval(secs => queue.keep_for);
        SELECT k.id INTO last FROM msgweb.kept_message k WHERE k.destination = queue.id
            ORDER BY k.id DESC OFFSET queue.keep_messages LIMIT 1;
        DELETE FROM msgweb.kept_message k WHERE k.destination = queue.id AND queue.keep_messages IS NOT NULL AND k.id <= last;
    END LOOP;
END $$;

-- Refuse from within a statement, with a SQLSTATE of ours.
CREATE FUNCTION msgweb.refuse(code text, message text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', message USING ERRCODE = code;
END $$;
DROP FUNCTION msgweb.enter_batch(integer, bigint);  -- a statement of the writer's has taken its place: queries.sql

-- Consume an exclusive queue. Returns whether the session is its consumer now.
CREATE FUNCTION msgweb.take_exclusive(of_destination integer, of_session integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO msgweb.exclusive_consumer (destination, session) VALUES (of_destination, of_session)
    ON CONFLICT (destination) DO NOTHING;
    RETURN EXISTS (SELECT FROM msgweb.exclusive_consumer e WHERE e.destination = of_destination AND e.session = of_session);
END $$;

-- Its consumer has gone: another may take it.
CREATE FUNCTION msgweb.leave_exclusive(of_destination integer, of_session integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM msgweb.exclusive_consumer e WHERE e.destination = of_destination AND e.session = of_session;
    PERFORM msgweb.wake(ARRAY[of_destination]);
END $$;
CREATE FUNCTION msgweb.free_exclusive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM msgweb.leave_exclusive(e.destination, OLD.id) FROM msgweb.exclusive_consumer e WHERE e.session = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER free_exclusive AFTER DELETE ON msgweb.session FOR EACH ROW EXECUTE FUNCTION msgweb.free_exclusive();

-- Send from SQL, inside the caller's own transaction: nothing is seen before COMMIT, nothing remains after ROLLBACK.
--   destination    /queue/x, /topic/x, /reply-queue/x, or a bare x (a queue)
--   headers        a JSON object, such as {"content-type": "application/json"}
--   ttl            seconds until it expires
--   delay          seconds until it is available
--   message_group  messages of one group are processed one at a time, in order
--   deduplication  a key: a second message with it within the queue's window is dropped
-- Returns the message's id; null for a topic (best effort), for a duplicate, and for a reply queue that has ended
-- (dropped). Raises MW400 for what cannot be, MW404 for an unknown namespace, MW413 for a full queue.
DROP FUNCTION msgweb.send(text, text, text, jsonb, boolean, integer);
DROP FUNCTION msgweb.send(text, text, bytea, jsonb, boolean, integer);
CREATE FUNCTION msgweb.send(namespace text, destination text, body bytea, headers jsonb DEFAULT '{}',
                            persistent boolean DEFAULT true, priority integer DEFAULT 4,
                            ttl double precision DEFAULT NULL, delay double precision DEFAULT 0,
                            message_group text DEFAULT NULL, deduplication text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    of_kind text := 'queue';
    of_name text := destination;
    target  integer;
    packed  bytea;
    encoded bytea;
    row_id  bigint;
    sent    record;
BEGIN
    IF destination LIKE '/queue/%' THEN
        of_name := substr(destination, 8);
    ELSIF destination LIKE '/topic/%' THEN
        of_kind := 'topic';
        of_name := substr(destination, 8);
    ELSIF destination LIKE '/reply-queue/%' THEN
        of_name := '$reply.' || substr(destination, 14);
    ELSIF destination LIKE '/%' THEN
        of_name := '';
    END IF;
    IF coalesce(of_name, '') = '' OR (destination NOT LIKE '/reply-queue/%' AND of_name LIKE '$reply.%') OR length(of_name) > 255 THEN
        RAISE EXCEPTION '% is no destination: give /queue/NAME or /topic/NAME, at most 255 characters', destination
            USING ERRCODE = 'MW400';
    END IF;
    IF priority NOT BETWEEN 0 AND 9 THEN
        RAISE EXCEPTION 'a priority is 0 to 9, not %', priority USING ERRCODE = 'MW400';
    END IF;
    IF ttl <= 0 OR ttl > 3e9 OR ttl = 'NaN' THEN
        RAISE EXCEPTION 'a ttl is a number of seconds above 0, not %', ttl USING ERRCODE = 'MW400';
    END IF;
    IF delay < 0 OR delay > 3e9 OR delay = 'NaN' THEN
        RAISE EXCEPTION 'a delay is a number of seconds, 0 or more, not %', delay USING ERRCODE = 'MW400';
    END IF;
    IF length(message_group) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'a message group has 1 to 255 characters' USING ERRCODE = 'MW400';
    END IF;
    IF length(deduplication) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'a deduplication key has 1 to 255 characters' USING ERRCODE = 'MW400';
    END IF;
    target := msgweb.destination_id(namespace, of_kind, of_name);
    encoded := msgweb.encode_headers(headers);
    IF of_kind = 'topic' THEN
        packed := msgweb.pack_field(convert_to(namespace, 'UTF8')) || msgweb.pack_field(convert_to(of_name, 'UTF8'))
            || msgweb.pack_field(encoded) || msgweb.pack_field(body);
        IF length(packed) <= 5900 THEN
            PERFORM pg_notify('msgweb_topic', '0 ' || translate(encode(packed, 'base64'), E'\n', ''));
        ELSE
            INSERT INTO msgweb.topic_message (payload) VALUES (packed) RETURNING id INTO row_id;
            PERFORM pg_notify('msgweb_topic', '0 @' || row_id);
        END IF;
        FOR target IN SELECT msgweb.bound_queues(namespace, of_name) LOOP
            SELECT * INTO sent FROM msgweb.enqueue(target, body,
                convert_to('destination:' || msgweb.escape_header(destination) || E'\n', 'UTF8') || encoded,
                persistent, priority, ttl, delay, message_group, deduplication);
            PERFORM msgweb.announce(target, sent.id, sent.outcome, message_group, sent.ready);
        END LOOP;
        RETURN NULL;
    END IF;
    IF target IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO sent FROM msgweb.enqueue(target, body, encoded, persistent, priority, ttl, delay, message_group,
                                           deduplication, true);
    PERFORM msgweb.announce(target, sent.id, sent.outcome, message_group, sent.ready);
    IF sent.id IS NOT NULL THEN
        PERFORM msgweb.count(target, sent => 1, sent_bytes => octet_length(encoded) + octet_length(body));
    END IF;
    RETURN sent.id;
END $$;

-- Tell the processes of a message that was put into a queue. `<queue>:<id>`: nothing before that id became ready by it;
-- a `g` behind: it belongs to a group.
CREATE FUNCTION msgweb.announce(target integer, id bigint, outcome text, message_group text, ready integer[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF outcome = 'sent' THEN
        PERFORM pg_notify('msgweb_ready',
            target || ':' || id || CASE WHEN message_group IS NULL THEN '' ELSE 'g' END);
    ELSIF outcome = 'delayed' THEN
        PERFORM pg_notify('msgweb_session', 'due');
    END IF;
    IF cardinality(ready) > 0 THEN
        PERFORM msgweb.wake(ready);
    END IF;
END $$;

-- The same with a body of text, sent as UTF-8.
CREATE FUNCTION msgweb.send(namespace text, destination text, body text, headers jsonb DEFAULT '{}',
                            persistent boolean DEFAULT true, priority integer DEFAULT 4,
                            ttl double precision DEFAULT NULL, delay double precision DEFAULT 0,
                            message_group text DEFAULT NULL, deduplication text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS $$
    SELECT msgweb.send(namespace, destination, convert_to(body, 'UTF8'), headers, persistent, priority, ttl, delay,
                       message_group, deduplication)
$$;
