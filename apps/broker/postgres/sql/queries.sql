-- The writer's statements run in one pipeline, which is one transaction and one round trip.
-- Their parameters and results are binary; arrays are packed by `packing`.
--
-- Plans are generic and may be made while the tables are empty, when every path costs the same to the planner. So each
-- statement leaves it one path only: ids come as an array (`= ANY`), which the primary key takes as its condition;
-- what is ready is asked for in the order of the index over it. `tests/integration/test_broker_plans.py` holds this.

-- name: enter_batch
-- $1 session, $2 the batch's number. Raises MW001 when the session was buried.
-- Locks the session's row FOR KEY SHARE.
SELECT msgweb.enter_batch($1::int4, $2::int8);

-- name: relax
-- For a batch that nobody waits for (acks without a receipt): if it is lost in a crash, its messages come again, marked.
SELECT set_config('synchronous_commit', 'off', true);

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

-- name: insert_messages
-- $1 destinations, $2 priorities, $3 persistent, $4 to be handed over at once, $5 headers, $6 bodies, $7 session,
-- $8 the destinations among which there are such to hand over.
-- One row each, in order: id, whether this session holds it. A hand-over is allowed only where no ready row waits:
-- that keeps the order.
WITH blocked AS MATERIALIZED (
    SELECT d FROM unnest($8::int4[]) AS d
    WHERE (SELECT m.id FROM msgweb.message m WHERE m.destination = d AND m.session IS NULL
           ORDER BY m.priority DESC, m.id LIMIT 1) IS NOT NULL)
INSERT INTO msgweb.message (destination, priority, persistent, session, deliveries, headers, body)
SELECT u.destination, u.priority, u.persistent,
       CASE WHEN u.hand AND u.destination NOT IN (SELECT d FROM blocked) THEN $7::int4 END,
       CASE WHEN u.hand AND u.destination NOT IN (SELECT d FROM blocked) THEN 1 ELSE 0 END,
       u.headers, u.body
FROM unnest($1::int4[], $2::int2[], $3::bool[], $4::bool[], $5::bytea[], $6::bytea[])
     AS u (destination, priority, persistent, hand, headers, body)
RETURNING id, session IS NOT NULL;

-- name: claim
-- $1 destination, $2 at most so many, $3 session. Rows: id, priority, persistent, deliveries, headers, body, in order.
-- Locks the claimed rows; passes over those that another is claiming.
WITH picked AS MATERIALIZED (
    SELECT id FROM msgweb.message
    WHERE destination = $1::int4 AND session IS NULL
    ORDER BY priority DESC, id LIMIT $2::int4
    FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE msgweb.message m SET session = $3::int4, deliveries = m.deliveries + 1
    WHERE m.id = ANY (ARRAY(SELECT p.id FROM picked p))
    RETURNING m.id, m.priority, m.persistent, m.deliveries, m.headers, m.body)
SELECT id, persistent, deliveries, headers, body FROM taken ORDER BY priority DESC, id;

-- name: ack_persistent
-- $1 ids, $2 session: only what this session holds is deleted (fencing). coalesce keeps the planner from
-- the index over sessions: a plan made while the tables were empty would walk all that the session holds.
DELETE FROM msgweb.message WHERE id = ANY ($1::int8[]) AND persistent = true AND coalesce(session, 0) = $2::int4;

-- name: ack_transient
DELETE FROM msgweb.message WHERE id = ANY ($1::int8[]) AND persistent = false AND coalesce(session, 0) = $2::int4;

-- name: release
-- $1 ids, $2 session: ready again, in their own place.
UPDATE msgweb.message SET session = NULL WHERE id = ANY ($1::int8[]) AND coalesce(session, 0) = $2::int4;

-- name: wake
-- $1 destinations that this batch touched, at most WAKE_LIMIT: one notification for those in which something is ready
-- for others.
SELECT pg_notify('msgweb_ready', string_agg(d::text, ',')) FROM unnest($1::int4[]) AS d
WHERE (SELECT m.id FROM msgweb.message m WHERE m.destination = d AND m.session IS NULL
       ORDER BY m.priority DESC, m.id LIMIT 1) IS NOT NULL
HAVING count(*) > 0;

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

-- name: batch_outcome
-- $1 session, $2 the batch's number. After a lost connection: was it committed (bool), does the session live (bool)?
-- Locks the session's row FOR UPDATE, so that a backend that still works on the batch has ended when this answers.
WITH locked AS MATERIALIZED (SELECT id FROM msgweb.session WHERE id = $1::int4 FOR UPDATE)
SELECT (SELECT count(*) FROM locked) > 0;

-- name: batch_committed
-- $1 session, $2 number; in a statement of its own, so that its snapshot is younger than the lock before it.
SELECT EXISTS (SELECT FROM msgweb.batch WHERE session = $1::int4 AND number = $2::int8);

-- name: held_ids
-- $1 session: what it holds by the database's account.
SELECT id FROM msgweb.message WHERE session = $1::int4;
