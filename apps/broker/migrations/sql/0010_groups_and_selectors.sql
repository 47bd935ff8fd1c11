-- Groups and selectors together (docs/adr/0006): of a group only the first message is offered, to whoever selects it.

-- Whether a message of a group has to wait: one of the group is worked on or retried, or an earlier one is ready. `id + 0`
-- is what the index over groups has.
CREATE FUNCTION msgweb.waits_behind(of_destination integer, of_group text, of_id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination AND o.group_key = of_group
                   AND o.session > 0)
        OR EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination AND o.group_key = of_group
                   AND o.session = -1 AND o.deliveries > 0)
        OR EXISTS (SELECT FROM msgweb.message o WHERE o.destination = of_destination AND o.group_key = of_group
                   AND o.session IS NULL AND o.id + 0 < of_id);
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
              OR msgweb.waits_behind(of_destination, candidate.group_key, candidate.id) THEN
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

-- For a consumer with a selector at a queue that holds messages of groups: what is ready behind the floors, in order, whether
-- it was sent more than a tenth of a second ago (`settled`), and whether it may be claimed (`first`). What has to wait is parked, so that it is looked at once. The locks of the groups in
-- which that happens are held until the end of the transaction: whoever passed over them meanwhile is woken.
-- Locks: the parked rows, and (trying only) the locks of their groups. Claims nothing.
CREATE FUNCTION msgweb.browse_groups(of_destination integer, most integer, priorities smallint[], floors bigint[])
RETURNS TABLE (id bigint, priority smallint, persistent boolean, headers bytea, place bigint, settled boolean, first boolean,
               group_key text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    parked    boolean := false;
BEGIN
    FOR candidate IN
        SELECT found.* FROM unnest(priorities, floors) AS lane (priority, floor),
        LATERAL (
            SELECT m.id, m.priority, m.persistent, m.headers, coalesce(m.position, m.id) AS place, m.group_key,
                   m.enqueued_at < clock_timestamp() - interval '0.1 s' AS settled
            FROM msgweb.message m
            WHERE m.destination = of_destination AND m.session IS NULL AND m.priority = lane.priority
              AND coalesce(m.position, m.id) > lane.floor AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
            ORDER BY coalesce(m.position, m.id) LIMIT most) AS found
        LIMIT most
    LOOP
        first := candidate.group_key IS NULL
            OR NOT msgweb.waits_behind(of_destination, candidate.group_key, candidate.id);
        IF NOT first AND pg_try_advisory_xact_lock(msgweb.group_lock(of_destination, candidate.group_key)) THEN
            first := NOT msgweb.waits_behind(of_destination, candidate.group_key, candidate.id);  -- who had the lock has ended
            IF NOT first THEN
                UPDATE msgweb.message m SET session = 0 WHERE m.id = (
                    SELECT o.id FROM msgweb.message o WHERE o.id = candidate.id AND o.persistent = candidate.persistent
                    AND coalesce(o.session, -9) = -9 FOR UPDATE SKIP LOCKED) AND m.persistent = candidate.persistent;
                parked := true;
            END IF;
        END IF;
        id := candidate.id;
        priority := candidate.priority;
        persistent := candidate.persistent;
        headers := candidate.headers;
        place := candidate.place;
        settled := candidate.settled;
        group_key := candidate.group_key;
        RETURN NEXT;
    END LOOP;
    IF parked THEN
        PERFORM msgweb.wake(ARRAY[of_destination]);
    END IF;
END $$;

-- Claim what a selector chose from a queue that holds messages of groups, unless others have taken it or it has to wait by
-- now. Rows in order; see the statement `claim`.
-- Locks: the claimed rows, and (trying only) the locks of their groups.
CREATE FUNCTION msgweb.claim_chosen_groups(of_destination integer, ids bigint[], of_session integer)
RETURNS TABLE (id bigint, priority smallint, persistent boolean, deliveries integer, headers bytea, body bytea,
               group_key text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    taken     bigint[] := '{}';
    groups    text[] := '{}';
    parked    boolean := false;
BEGIN
    FOR candidate IN
        SELECT m.id, m.persistent, m.group_key FROM msgweb.message m
        WHERE m.id = ANY (ids) AND coalesce(m.session, -9) = -9
          AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
        ORDER BY m.id FOR UPDATE SKIP LOCKED
    LOOP
        IF candidate.group_key IS NULL THEN
            taken := taken || candidate.id;
        ELSIF candidate.group_key <> ALL (groups)
              AND NOT pg_try_advisory_xact_lock(msgweb.group_lock(of_destination, candidate.group_key)) THEN
            CONTINUE;  -- somebody is at work on the group; who that is wakes us
        ELSIF candidate.group_key = ANY (groups)
              OR msgweb.waits_behind(of_destination, candidate.group_key, candidate.id) THEN
            UPDATE msgweb.message m SET session = 0 WHERE m.id = candidate.id AND m.persistent = candidate.persistent;
            parked := true;
        ELSE
            groups := groups || candidate.group_key;
            taken := taken || candidate.id;
        END IF;
    END LOOP;
    IF parked THEN
        PERFORM msgweb.wake(ARRAY[of_destination]);
    END IF;
    RETURN QUERY
        WITH held AS (
            UPDATE msgweb.message m SET session = of_session, deliveries = m.deliveries + 1
            WHERE m.id = ANY (taken) RETURNING m.id, m.priority, m.persistent, m.deliveries, m.headers, m.body, m.group_key)
        SELECT h.id, h.priority, h.persistent, h.deliveries, h.headers, h.body, h.group_key FROM held h
        ORDER BY h.priority DESC, h.id;
END $$;

-- A message of the group is done with: its next becomes ready, unless one is being worked on or retried.
-- The caller holds the group's lock. Returns the id of what is ready now; null: nothing is.
CREATE FUNCTION msgweb.next_of_group(of_destination integer, of_group text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    next_id  bigint;
    ready_id bigint;
BEGIN
    SELECT id INTO next_id FROM msgweb.message
    WHERE destination = of_destination AND group_key = of_group AND session = 0 ORDER BY id + 0 LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF EXISTS (SELECT FROM msgweb.message m WHERE m.destination = of_destination AND m.group_key = of_group
               AND m.session > 0)
       OR EXISTS (SELECT FROM msgweb.message m WHERE m.destination = of_destination AND m.group_key = of_group
                  AND m.session = -1 AND m.deliveries > 0) THEN
        RETURN NULL;
    END IF;
    SELECT m.id INTO ready_id FROM msgweb.message m
    WHERE m.destination = of_destination AND m.group_key = of_group AND m.session IS NULL ORDER BY m.id + 0 LIMIT 1;
    IF ready_id < coalesce(next_id, ready_id + 1) THEN
        RETURN ready_id;  -- who looked at it while the group was locked passed over it
    END IF;
    UPDATE msgweb.message SET session = NULL WHERE id = next_id AND group_key IS NOT NULL;
    RETURN next_id;
END $$;

CREATE OR REPLACE FUNCTION msgweb.advance_group(of_destination integer, of_group text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN msgweb.next_of_group(of_destination, of_group) IS NOT NULL;
END $$;

-- Delete what is done with, keep what its queue keeps, and let the next of its group come.
-- Locks: the groups of the messages, in order. Returns what became ready: destinations, and in each the earliest id.
CREATE FUNCTION msgweb.ack_and_advance(ids bigint[], of_session integer, OUT destination integer, OUT first bigint)
RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    ended    record;
    next_id  bigint;
    targets  integer[] := '{}';
    firsts   bigint[] := '{}';
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
        SELECT DISTINCT g.destination AS target, g.group_key FROM gone g WHERE g.group_key IS NOT NULL
    LOOP
        next_id := msgweb.next_of_group(ended.target, ended.group_key);
        IF next_id IS NOT NULL THEN
            targets := targets || ended.target;
            firsts := firsts || next_id;
        END IF;
    END LOOP;
    FOR destination, first IN SELECT x.d, min(x.f) FROM unnest(targets, firsts) AS x (d, f) GROUP BY x.d LOOP
        PERFORM pg_notify('msgweb_ready', destination || ':' || first || 'g');
        RETURN NEXT;
    END LOOP;
END $$;

-- The same for processes of the version before, which run on while others are deployed: in which destinations alone.
CREATE OR REPLACE FUNCTION msgweb.ack_special(ids bigint[], of_session integer) RETURNS integer[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(a.destination), '{}') FROM msgweb.ack_and_advance(ids, of_session) AS a
$$;
