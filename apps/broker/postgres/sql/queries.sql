-- The writer's statements run in one pipeline, which is one transaction and one round trip.
-- Their parameters and results are binary; arrays are packed by `packing`.
--
-- Plans are generic and may be made while the tables are empty, when every path costs the same to the planner. So each
-- statement leaves it one path only: ids come as an array (`= ANY`), which the primary key takes as its condition;
-- what is ready is asked for in the order of the index over it. `tests/integration/test_broker_plans.py` holds this.

-- name: fence
-- $1 session, $2 whether nobody waits for the batch (acks without a receipt): if it is lost in a crash, its messages come
-- again, marked. $3 whether it takes locks that others may hold for long: it waits for them briefly.
-- The first statement of a batch, unless `write_one` is. Locks: the session's fence, shared, so that nobody buries the session meanwhile.
SELECT pg_advisory_xact_lock_shared(1297568601, $1::int4),
       CASE WHEN $2::bool THEN set_config('synchronous_commit', 'off', true) END,
       CASE WHEN $3::bool THEN set_config('lock_timeout', '50ms', true) END;

-- name: enter_batch
-- $1 session, $2 the batch's number, $3 the state of the catalogue that the batch was made from. Raises MW001 when the
-- session was buried, MW002 when the catalogue has changed. Its snapshot is younger than the fence.
INSERT INTO msgweb.batch (session, number)
SELECT $1::int4, $2::int8
WHERE CASE WHEN NOT EXISTS (SELECT FROM msgweb.session WHERE id = $1::int4)
               THEN msgweb.refuse('MW001', 'this session was taken for dead')
           WHEN (SELECT version FROM msgweb.catalogue) <> $3::int8
               THEN msgweb.refuse('MW002', 'the catalogue has changed')
           ELSE true END;

-- name: briefly
-- Before names are resolved: an application's open transaction may be making the same destination just now.
SELECT set_config('lock_timeout', '50ms', true);

-- name: resolve
-- $1 namespaces, $2 kinds, $3 names. One row each, in order: the id, 0 for a reply queue that has ended,
-- -1 for an unknown namespace. Makes what is missing.
SELECT CASE WHEN n.name IS NULL THEN -1
            ELSE coalesce(msgweb.destination_id(u.namespace, u.kind, u.name), 0) END::int4
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u (namespace, kind, name, place)
LEFT JOIN accounts_namespace n ON n.name = u.namespace
ORDER BY u.place;

-- name: open_reply_queue
-- $1 namespace, $2 name, $3 owning session. One row with the id, none for an unknown namespace.
INSERT INTO msgweb.destination (namespace, kind, name, owner)
SELECT n.name, 'queue', $2::text, $3::int4 FROM accounts_namespace n WHERE n.name = $1::text
ON CONFLICT (namespace, kind, name) DO UPDATE SET owner = excluded.owner
RETURNING id;

-- name: close_reply_queue
-- $1 the queue's id, $2 the owning session. What another session holds of it goes with its ack.
WITH gone AS (DELETE FROM msgweb.destination WHERE id = $1::int4),
     ready AS (DELETE FROM msgweb.message WHERE destination = $1::int4 AND session IS NULL)
DELETE FROM msgweb.message WHERE session = $2::int4 AND destination = $1::int4;

-- name: catalogue_version
-- The state of the catalogue; asked for before what it covers is read, so that what is read is at least as new.
SELECT version FROM msgweb.catalogue;

-- name: describe
-- $1 ids. A row for each that there is: id, whether it is paused, exclusive, whether sends to it need msgweb.enqueue,
-- whether it keeps what is acked, whether there may be messages of groups.
SELECT d.id, d.paused, d.exclusive,
       d.message_ttl IS NOT NULL OR d.max_length IS NOT NULL OR d.max_bytes IS NOT NULL OR d.expires_after IS NOT NULL,
       d.keep_for IS NOT NULL OR d.keep_messages IS NOT NULL, d.grouped
FROM msgweb.destination d WHERE d.id = ANY ($1::int4[]);

-- name: describe_named
-- $1 namespaces, $2 names: the same for queues by name.
SELECT d.id, d.paused, d.exclusive,
       d.message_ttl IS NOT NULL OR d.max_length IS NOT NULL OR d.max_bytes IS NOT NULL OR d.expires_after IS NOT NULL,
       d.keep_for IS NOT NULL OR d.keep_messages IS NOT NULL, d.grouped
FROM unnest($1::text[], $2::text[]) AS u (namespace, name)
JOIN msgweb.destination d ON d.namespace = u.namespace AND d.kind = 'queue' AND d.name = u.name;

-- name: bindings
-- Which queues get what is sent to topics: namespace, pattern, queue's name.
SELECT b.namespace::text, b.pattern, d.name FROM msgweb.binding b JOIN msgweb.destination d ON d.id = b.destination
ORDER BY b.id;

-- name: insert_messages
-- $1 ids (0: the next), $2 destinations, $3 priorities, $4 persistent, $5 handed over, $6 and still held, $7 headers,
-- $8 bodies, $9 session. The positions are drawn in this order.
INSERT INTO msgweb.message (id, position, destination, priority, persistent, session, deliveries, headers, body)
SELECT CASE WHEN u.id = 0 THEN u.position ELSE u.id END, CASE WHEN u.id <> 0 THEN u.position END,
       u.destination, msgweb.valid_priority(u.priority), u.persistent, CASE WHEN u.held THEN $9::int4 END, u.handed::int4,
       u.headers, u.body
FROM (SELECT nextval('msgweb.message_id') AS position, x.*
      FROM unnest($1::int8[], $2::int4[], $3::int2[], $4::bool[], $5::bool[], $6::bool[], $7::bytea[], $8::bytea[])
          AS x (id, destination, priority, persistent, handed, held, headers, body)) AS u;

-- name: write_one
-- `fence`, `enter_batch` and the insert of one message, where that is what a batch begins with: $1 to $3 as `enter_batch` has
-- them, $4 and $5 the rest of `fence`'s, $6 persistent, $7 id (0: the next), $8 destination, $9 priority, $10 handed over,
-- $11 and still held, $12 headers, $13 body.
SELECT msgweb.write_one($1::int4, $2::int8, $3::int8, $4::bool, $5::bool, $6::bool, $7::int8, $8::int4, $9::int2, $10::bool,
                        $11::bool, $12::bytea, $13::bytea);

-- name: enqueue_messages
-- What fits no plain insert: $1 destinations, $2 priorities, $3 persistent, $4 headers, $5 bodies, $6 seconds to live (0:
-- not limited), $7 seconds of delay, $8 groups, $9 deduplication keys (empty: none), $10 whether to
-- raise rather than report.
-- One row each, in order: id, outcome, destinations in which something became ready besides; see msgweb.enqueue.
SELECT e.id, e.outcome, e.ready
FROM unnest($1::int4[], $2::int2[], $3::bool[], $4::bytea[], $5::bytea[], $6::float8[], $7::float8[], $8::text[], $9::text[],
            $10::bool[])
     AS u (destination, priority, persistent, headers, body, ttl, delay, group_key, deduplication, strict),
LATERAL msgweb.enqueue(u.destination, u.body, u.headers, u.persistent, msgweb.valid_priority(u.priority), nullif(u.ttl, 0),
                       u.delay, nullif(u.group_key, ''), nullif(u.deduplication, ''), u.strict) AS e;

-- name: bind
-- $1 namespace, $2 pattern of topics, $3 the name of the queue that gets what is sent to them.
SELECT msgweb.bind($1::text, $2::text, $3::text);

-- name: unsubscribe_durable
-- $1 namespace, $2 the queue's name.
SELECT msgweb.unsubscribe_durable($1::text, $2::text);

-- name: add_schedule
-- $1 destination, $2 cron or null, $3 time zone, $4 period in seconds or null, $5 runs or null, $6 priority, $7 persistent,
-- $8 seconds to live or null, $9 group or null, $10 headers, $11 body, $12 seconds of delay.
SELECT msgweb.add_schedule($1::int4, NULL, $2::text, $3::text, $4::float8, $5::int8, $6::int4, $7::bool, $8::float8,
                           $9::text, $10::bytea, $11::bytea, $12::float8);

-- name: draw
-- The first of 4,096 ids that are this process's own, for messages that are handed over before they are written. Also a
-- place that all comes behind which is written from now on.
SELECT nextval('msgweb.message_id');

-- name: claim
-- $1 destination, $2 at most so many, $3 session, $4 priorities, highest first, $5 for each of them an id after which to
-- look. Rows in order: id, priority, persistent, deliveries, headers, body, whether it may expire,
-- place in the order.
-- Locks the claimed rows; passes over those that another is claiming.
WITH picked AS MATERIALIZED (
    SELECT found.id FROM unnest($4::int2[], $5::int8[]) AS lane (priority, floor),
    LATERAL (
        SELECT m.id FROM msgweb.message m
        WHERE m.destination = $1::int4 AND m.session IS NULL AND m.priority = lane.priority AND coalesce(m.position, m.id) > lane.floor
          AND m.group_key IS NULL AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
        ORDER BY coalesce(m.position, m.id) LIMIT $2::int4
        FOR UPDATE SKIP LOCKED) AS found
    LIMIT $2::int4),
taken AS (
    UPDATE msgweb.message m SET session = $3::int4, deliveries = m.deliveries + 1
    WHERE m.id = ANY (ARRAY(SELECT p.id FROM picked p))
    RETURNING m.id, m.priority, m.persistent, m.deliveries, m.headers, m.body, m.expires_at IS NOT NULL AS expires,
              coalesce(m.position, m.id) AS place)
SELECT id, priority, persistent, deliveries, headers, body, expires, place FROM taken ORDER BY priority DESC, place;

-- name: claim_groups
-- The same for a queue that holds messages of groups: $1 destination, $2 at most so many, $3 session. A further column: the
-- message's group.
SELECT g.id, g.priority, g.persistent, g.deliveries, g.headers, g.body, false, g.id, g.group_key
FROM msgweb.claim_groups($1::int4, $2::int4, $3::int4) AS g;

-- name: browse
-- For a consumer with a selector: $1 destination, $2 at most so many, $3 priorities, $4 for each of them an id after which
-- to look. Rows in order: id, priority, persistent, headers, place in the order, whether it was sent more than a tenth of a
-- second ago. Locks nothing.
SELECT found.id, found.priority, found.persistent, found.headers, found.place, found.settled
FROM unnest($3::int2[], $4::int8[]) AS lane (priority, floor),
LATERAL (
    SELECT m.id, m.priority, m.persistent, m.headers, coalesce(m.position, m.id) AS place,
           m.enqueued_at < clock_timestamp() - interval '0.1 s' AS settled FROM msgweb.message m
    WHERE m.destination = $1::int4 AND m.session IS NULL AND m.priority = lane.priority AND coalesce(m.position, m.id) > lane.floor
      AND m.group_key IS NULL AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
    ORDER BY coalesce(m.position, m.id) LIMIT $2::int4) AS found
LIMIT $2::int4;

-- name: browse_groups
-- The same for a queue that holds messages of groups: $1 destination, $2 at most so many, $3 priorities, $4 floors. Two further
-- columns: whether it may be claimed (the first of its group, or of none), and its group.
SELECT b.id, b.priority, b.persistent, b.headers, b.place, b.settled, b.first, b.group_key
FROM msgweb.browse_groups($1::int4, $2::int4, $3::int2[], $4::int8[]) AS b;

-- name: claim_chosen
-- $1 ids that were found by `browse`, $2 session. Rows as `claim` has them, without those that others have taken meanwhile.
WITH picked AS MATERIALIZED (
    SELECT m.id FROM msgweb.message m WHERE m.id = ANY ($1::int8[]) AND coalesce(m.session, -9) = -9
    FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE msgweb.message m SET session = $2::int4, deliveries = m.deliveries + 1
    WHERE m.id = ANY (ARRAY(SELECT p.id FROM picked p))
    RETURNING m.id, m.priority, m.persistent, m.deliveries, m.headers, m.body, m.expires_at IS NOT NULL AS expires,
              coalesce(m.position, m.id) AS place)
SELECT id, priority, persistent, deliveries, headers, body, expires, place FROM taken ORDER BY priority DESC, place;

-- name: claim_chosen_groups
-- The same for a queue that holds messages of groups: $1 destination, $2 ids, $3 session. A further column: the message's group.
SELECT g.id, g.priority, g.persistent, g.deliveries, g.headers, g.body, false, g.id, g.group_key
FROM msgweb.claim_chosen_groups($1::int4, $2::int8[], $3::int4) AS g;

-- name: join_queue
-- $1 destination, $2 session, $3 without waiting for one that is alone, $4 and $5 the highest and the lowest priority of its
-- consumers: `alone`, `shared` or `wait`.
SELECT msgweb.join_queue($1::int4, $2::int4, $3::bool, $4::int4, $5::int4);

-- name: ranks
-- $1 destination, $2 session: the others that consume it, with the highest and the lowest priority of their consumers.
SELECT c.session, c.highest, c.lowest FROM msgweb.consumer c WHERE c.destination = $1::int4 AND c.session <> $2::int4;

-- name: set_rank
-- $1 destination, $2 session, $3 and $4 the highest and the lowest priority of its consumers now.
SELECT msgweb.set_rank($1::int4, $2::int4, $3::int4, $4::int4);

-- name: bid
-- $1 destination, $2 session, $3 the highest priority for which it has credit.
SELECT pg_notify('msgweb_session', 'bid:' || $1::int4 || ':' || $2::int4 || ':' || $3::int4);

-- name: share_queue
-- $1 destination, $2 session: it is alone no longer.
SELECT msgweb.share_queue($1::int4, $2::int4);

-- name: part_queues
-- $1 destinations that the session $2 does not consume any more.
SELECT msgweb.part_queues($1::int4[], $2::int4);

-- name: take_exclusive
-- $1 destination, $2 session: whether the session may consume it.
SELECT msgweb.take_exclusive($1::int4, $2::int4);

-- name: leave_exclusive
SELECT msgweb.leave_exclusive($1::int4, $2::int4);

-- name: be_exclusive
-- $1 destination: one consumer at a time from now on.
UPDATE msgweb.destination SET exclusive = true WHERE id = $1::int4 AND NOT exclusive;

-- name: ack_persistent
-- $1 ids, $2 session: only what this session holds is deleted (fencing). coalesce keeps the planner from
-- the index over sessions: a plan made while the tables were empty would walk all that the session holds.
DELETE FROM msgweb.message WHERE id = ANY ($1::int8[]) AND persistent = true AND coalesce(session, 0) = $2::int4;

-- name: ack_transient
DELETE FROM msgweb.message WHERE id = ANY ($1::int8[]) AND persistent = false AND coalesce(session, 0) = $2::int4;

-- name: ack_special
-- $1 ids, $2 session: of queues that keep messages, and of groups. A row for each destination in which something became
-- ready: its id, the place of the first.
SELECT a.destination, a.first FROM msgweb.ack_and_advance($1::int8[], $2::int4) AS a;

-- name: release
-- $1 ids, $2 session: ready again, in their own place.
UPDATE msgweb.message SET session = NULL WHERE id = ANY ($1::int8[]) AND coalesce(session, 0) = $2::int4;

-- name: recall
-- $1 ids, $2 session: ready again, and as if they had never been claimed: no consumer has seen them.
UPDATE msgweb.message SET session = NULL, deliveries = deliveries - 1
WHERE id = ANY ($1::int8[]) AND coalesce(session, 0) = $2::int4;

-- name: reject
-- $1 ids, $2 session, $3 seconds until they come again (negative: as the queue says), $4 to the dead letters at once.
-- The destinations in which something became ready.
SELECT msgweb.reject($1::int8[], $2::int4, ARRAY(SELECT CASE WHEN d >= 0 THEN d END FROM unnest($3::float8[]) AS d), $4::bool[]);

-- name: wake
-- $1 where something became ready by this batch, `<queue>:<an id before which nothing did>`, with a `g` where there may be
-- groups; separated by commas. Looks at nothing: a process that sends and does not consume pays no more for a backlog.
SELECT pg_notify('msgweb_ready', $1::text);

-- name: publish
-- $1 a ready payload of at most 7,999 bytes.
SELECT pg_notify('msgweb_topic', $1::text);

-- name: publish_large
-- $1 session, $2 the packed message: kept for a minute, its id notified.
WITH kept AS (INSERT INTO msgweb.topic_message (payload) VALUES ($2::bytea) RETURNING id)
SELECT pg_notify('msgweb_topic', $1::text || ' @' || kept.id) FROM kept;

-- name: end_backend
-- $1 an application name that only one process has, $2 its present backend: ends what is left of a connection that
-- broke on this side.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = $1::text AND pid <> $2::int4 AND datname = current_database();

-- name: after_crash
-- On every new connection, before anything else: the queues in which something became ready by it.
SELECT msgweb.after_crash();

-- name: await_batch
-- $1 session. After a lost connection: a backend that still works on the batch has ended when this answers.
-- Locks: the session's fence, alone.
SELECT pg_advisory_xact_lock(1297568601, $1::int4);

-- name: batch_outcome
-- $1 the session now, $2 the batch's session, $3 its number: does the session live, was the batch committed?
-- In a statement of its own, so that its snapshot is younger than the lock before it.
SELECT EXISTS (SELECT FROM msgweb.session WHERE id = $1::int4),
       EXISTS (SELECT FROM msgweb.batch WHERE session = $2::int4 AND number = $3::int8);

-- name: held_ids
-- $1 session: what it holds by the database's account.
SELECT id FROM msgweb.message WHERE session = $1::int4;
