-- Where a message stands in its queue. Null: its id says so. A message that is handed over before it is written has an id
-- that was drawn before, and takes its position when it is written: only so does it stand behind what its sender sent
-- before by another process (docs/adr/0005).
ALTER TABLE msgweb.message ADD position bigint;

-- What is ready is indexed by that expression, and no other index can serve its order. With plain ids the planner took the
-- primary key instead, once statistics said that nearly all messages were of one queue: a claim from any other queue then
-- walked through all of that one's backlog. For the same reason `id + 0` for groups, whose messages have no position.
DROP INDEX msgweb.message_ready;
CREATE INDEX message_ready ON msgweb.message (destination, priority DESC, (coalesce(position, id))) WHERE session IS NULL;
DROP INDEX msgweb.message_grouped;
CREATE INDEX message_grouped ON msgweb.message (destination, group_key, session, (id + 0)) WHERE group_key IS NOT NULL;

-- A session's fence is the advisory lock (1297568601, its id): every batch shares it, whoever buries the session has it
-- alone. It writes nothing; locking the session's row FOR KEY SHARE, as before, cost each batch a write of that row and,
-- beside the lease's renewals, a multixact.

-- End sessions: the given ones, and all whose lease is over. What they held is ready again, their reply queues go.
-- A restart of Postgres extends every lease by its own length: nobody could renew meanwhile.
-- by_force: first end the database connections of their processes. A process that froze within a transaction (SIGSTOP, a
-- paused machine, a cut network) would keep its locks for as long as it is frozen, and nobody could go on with its work.
-- Locks: the sessions' fences and rows, skipping those that are writing at this moment.
-- Returns the sessions that were ended.
CREATE OR REPLACE FUNCTION msgweb.bury_sessions(ids integer[], by_force boolean DEFAULT true) RETURNS SETOF integer LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    dead     integer[];
    released integer[];
BEGIN
    dead := ARRAY(
        SELECT id FROM msgweb.session
        WHERE id = ANY (ids)
           OR (expires_at < clock_timestamp()
               AND pg_postmaster_start_time() + (expires_at - seen_at) < clock_timestamp()));
    IF by_force AND cardinality(dead) > 0 THEN
        PERFORM pg_terminate_backend(a.pid, 1000)
        FROM msgweb.session s JOIN pg_stat_activity a ON a.application_name LIKE 'msgweb %' || s.process
        WHERE s.id = ANY (dead) AND s.process <> '' AND a.pid <> pg_backend_pid()
          AND a.datname = current_database() AND a.usename = current_user;
    END IF;
    dead := ARRAY(SELECT one FROM unnest(dead) AS one WHERE pg_try_advisory_xact_lock(1297568601, one));
    dead := ARRAY(SELECT id FROM msgweb.session WHERE id = ANY (dead) FOR UPDATE SKIP LOCKED);
    IF cardinality(dead) = 0 THEN
        RETURN;
    END IF;
    WITH freed AS (
        UPDATE msgweb.message SET session = NULL WHERE session = ANY (dead) RETURNING destination)
    SELECT array_agg(DISTINCT destination) INTO released FROM freed;
    PERFORM pg_notify('msgweb_ready', d::text) FROM unnest(released) AS d;
    DELETE FROM msgweb.message m USING msgweb.destination d
    WHERE d.owner = ANY (dead) AND m.destination = d.id AND m.session IS NULL;
    DELETE FROM msgweb.destination WHERE owner = ANY (dead);
    DELETE FROM msgweb.session WHERE id = ANY (dead);
    PERFORM pg_notify('msgweb_session', '');
    RETURN QUERY SELECT unnest(dead);
END $$;

-- Move messages to where their queues' dead letters go. What cannot go there now (an application's open transaction is
-- making that queue) is tried again in a second. Messages of groups: the caller holds the groups' locks.
-- Locks: the messages. Returns the destinations in which something became ready.
CREATE OR REPLACE FUNCTION msgweb.dead_letter(ids bigint[], reason text) RETURNS integer[] LANGUAGE plpgsql AS $$
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
                id = nextval('msgweb.message_id'), position = NULL, destination = target, session = NULL, deliveries = 0, failures = 0,
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

-- Make ready what is due, drop or dead-letter what has expired. One process at a time; a bounded number a call.
-- A delayed message that was never delivered takes its place when it is due; one that is retried keeps its own.
--   next_due  when to come again for a delayed message at the latest; null: none is delayed
--   more      whether there was more than one call does
CREATE OR REPLACE FUNCTION msgweb.sweep(most integer DEFAULT 1000, OUT next_due timestamptz, OUT more boolean, OUT ready integer[])
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
                id = CASE WHEN p.deliveries = 0 THEN nextval('msgweb.message_id') ELSE p.id END,
                position = CASE WHEN p.deliveries > 0 THEN m.position END
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

-- A message of the group is done with: its next becomes ready, unless one is being worked on or retried.
-- The caller holds the group's lock. Returns whether something became ready.
CREATE OR REPLACE FUNCTION msgweb.advance_group(of_destination integer, of_group text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    next_id bigint;
BEGIN
    SELECT id INTO next_id FROM msgweb.message
    WHERE destination = of_destination AND group_key = of_group AND session = 0 ORDER BY id + 0 LIMIT 1
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

-- Make room in a queue by its oldest messages of its lowest priority, at least so many messages and bytes.
-- Returns the destinations in which something became ready.
CREATE OR REPLACE FUNCTION msgweb.drop_head(queue msgweb.destination, messages bigint, bytes bigint) RETURNS integer[]
LANGUAGE plpgsql AS $$
DECLARE
    lowest  smallint;
    dropped record;
    gone    bigint[] := '{}';
    ready   integer[] := '{}';
BEGIN
    WHILE messages > 0 OR bytes > 0 LOOP
        SELECT priority INTO lowest FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL
            AND m.id <> ALL (gone) ORDER BY m.priority, coalesce(m.position, m.id) DESC LIMIT 1;
        EXIT WHEN lowest IS NULL;
        SELECT m.id, m.group_key, octet_length(m.headers) + octet_length(m.body) AS size INTO dropped
        FROM msgweb.message m WHERE m.destination = queue.id AND m.session IS NULL AND m.priority = lowest
            AND m.id <> ALL (gone) ORDER BY coalesce(m.position, m.id) LIMIT 1 FOR UPDATE SKIP LOCKED;
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
CREATE OR REPLACE FUNCTION msgweb.admit(queue msgweb.destination, size bigint, OUT admitted boolean, OUT ready integer[])
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
                    ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT queue.max_length) AS x;
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

-- Claim from a queue that holds messages of groups: of each group only its first, and only while no other of it is
-- worked on or retried; what is found behind such a one is parked. Rows in order; see the statement `claim`.
-- Locks: the claimed rows, and (trying only) the locks of their groups.
CREATE OR REPLACE FUNCTION msgweb.claim_groups(of_destination integer, most integer, of_session integer)
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
        ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT 2000 FOR UPDATE SKIP LOCKED
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

-- Remove what waits: ready, behind its group, or delayed. What is held stays. Returns how many went.
CREATE OR REPLACE FUNCTION msgweb.purge(of_namespace text, queue_name text, most integer DEFAULT 5000) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    target integer := msgweb.queue_id(of_namespace, queue_name);
    gone   bigint[];
BEGIN
    gone := ARRAY(
        SELECT m.id FROM msgweb.message m WHERE m.destination = target AND m.session IS NULL
        ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT most FOR UPDATE SKIP LOCKED);
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
CREATE OR REPLACE FUNCTION msgweb.redrive(of_namespace text, queue_name text, only_ids bigint[] DEFAULT NULL,
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
        ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT most FOR UPDATE OF m SKIP LOCKED
    LOOP
        UPDATE msgweb.message m SET id = nextval('msgweb.message_id'), position = NULL, destination = letter.target, origin = NULL,
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

-- Sample the gauges of all queues, unless another process does: what is ready (counted up to `most`), held, and how old
-- the oldest ready message of the highest priority is. Returns whether it was done.
CREATE OR REPLACE FUNCTION msgweb.sample_queues(most integer DEFAULT 10000) RETURNS boolean LANGUAGE plpgsql AS $$
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
        ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT most) x) ready
    LEFT JOIN LATERAL (
        SELECT extract(epoch FROM clock_timestamp() - m.enqueued_at)::float8 AS age FROM msgweb.message m
        WHERE m.destination = d.id AND m.session IS NULL ORDER BY m.priority DESC, coalesce(m.position, m.id) LIMIT 1) oldest ON true
    WHERE d.kind = 'queue' AND d.owner IS NULL AND (ready.n > 0 OR held.n > 0);
    RETURN true;
END $$;

-- Every writer calls this before its first batch on a connection. After a crash the first one makes the next message of
-- each group ready whose head is gone, and the others wait for that: until then nothing is claimed, so that nothing that
-- is sent meanwhile overtakes. Returns the queues in which something became ready.
CREATE OR REPLACE FUNCTION msgweb.after_crash() RETURNS integer[] LANGUAGE plpgsql AS $$
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
        WHERE m.group_key IS NOT NULL AND m.session = 0 ORDER BY m.destination, m.group_key, m.id + 0),
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

-- Tell the processes of a message that was put into a queue. `<queue>:<id>`: nothing before that id became ready by it;
-- `g` behind: it belongs to a group; `p` and its priority at the end.
DROP FUNCTION msgweb.announce(integer, bigint, text, text, integer[]);
CREATE FUNCTION msgweb.announce(target integer, id bigint, outcome text, message_group text, ready integer[],
                                priority integer DEFAULT 9) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF outcome = 'sent' THEN
        PERFORM pg_notify('msgweb_ready',
            target || ':' || id || CASE WHEN message_group IS NULL THEN '' ELSE 'g' END || 'p' || priority);
    ELSIF outcome = 'delayed' THEN
        PERFORM pg_notify('msgweb_session', 'due');
    END IF;
    IF cardinality(ready) > 0 THEN
        PERFORM msgweb.wake(ready);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION msgweb.send(namespace text, destination text, body bytea, headers jsonb DEFAULT '{}',
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
            PERFORM msgweb.announce(target, sent.id, sent.outcome, message_group, sent.ready, priority);
        END LOOP;
        RETURN NULL;
    END IF;
    IF target IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO sent FROM msgweb.enqueue(target, body, encoded, persistent, priority, ttl, delay, message_group,
                                           deduplication, true);
    PERFORM msgweb.announce(target, sent.id, sent.outcome, message_group, sent.ready, priority);
    IF sent.id IS NOT NULL THEN
        PERFORM msgweb.count(target, sent => 1, sent_bytes => octet_length(encoded) + octet_length(body));
    END IF;
    RETURN sent.id;
END $$;
