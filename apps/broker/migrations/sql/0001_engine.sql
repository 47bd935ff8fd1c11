-- The engine's own schema. Nothing outside apps/broker knows these tables; msgweb.send() is for everyone.

CREATE SCHEMA msgweb;

-- A process that holds messages: a gateway, a worker, a web process with open streams. Its row is its lease.
-- Alive means: expires_at lies ahead, and the session's own connection holds the advisory lock (1297568599, id).
-- process: how the application_name of each of its database connections ends; whoever buries it ends those.
-- Every batch takes the row FOR KEY SHARE; whoever buries the session takes it FOR UPDATE. That is the fence.
CREATE TABLE msgweb.session (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('gateway', 'worker', 'web')),
    host       text NOT NULL,
    pid        integer NOT NULL,
    process    text NOT NULL DEFAULT '',
    details    jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A queue or a topic. Reply queues have an owner and end with it.
CREATE TABLE msgweb.destination (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace  varchar(127) NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('queue', 'topic')),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    owner      integer,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (namespace, kind, name)
);
-- A foreign key to accounts_namespace in all but name: destination_id() checks that the namespace is there, this trigger
-- that it stays. (With a real one, no test database could be emptied by TRUNCATE.)
CREATE FUNCTION msgweb.keep_namespace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM msgweb.destination WHERE namespace = OLD.name) THEN
        RAISE EXCEPTION 'namespace % still has queues or topics', OLD.name USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER keep_namespace BEFORE DELETE OR UPDATE OF name ON accounts_namespace
    FOR EACH ROW EXECUTE FUNCTION msgweb.keep_namespace();

CREATE INDEX destination_owner ON msgweb.destination (owner) WHERE owner IS NOT NULL;

-- A row a message: ready while session is null, held otherwise, deleted when acked. ids are the order.
-- The transient partition is not logged: quick, and empty after a crash of Postgres.
CREATE SEQUENCE msgweb.message_id AS bigint;
CREATE TABLE msgweb.message (
    id          bigint NOT NULL DEFAULT nextval('msgweb.message_id'),
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    destination integer NOT NULL,
    session     integer,
    deliveries  integer NOT NULL DEFAULT 0,
    priority    smallint NOT NULL DEFAULT 4 CHECK (priority BETWEEN 0 AND 9),
    persistent  boolean NOT NULL,
    headers     bytea NOT NULL,
    body        bytea NOT NULL
) PARTITION BY LIST (persistent);
ALTER SEQUENCE msgweb.message_id OWNED BY msgweb.message.id;
CREATE TABLE msgweb.message_persistent PARTITION OF msgweb.message (PRIMARY KEY (id)) FOR VALUES IN (true);
CREATE UNLOGGED TABLE msgweb.message_transient PARTITION OF msgweb.message (PRIMARY KEY (id)) FOR VALUES IN (false);
CREATE INDEX message_ready ON msgweb.message (destination, priority DESC, id) WHERE session IS NULL;
CREATE INDEX message_held ON msgweb.message (session) WHERE session IS NOT NULL;

-- Bodies stay in the row up to a page and are never compressed: compressing costs more than writing.
-- Vacuum comes by count, not by share: a busy queue's dead rows do not depend on how much waits.
ALTER TABLE msgweb.message_persistent ALTER body SET STORAGE EXTERNAL, ALTER headers SET STORAGE EXTERNAL;
ALTER TABLE msgweb.message_transient ALTER body SET STORAGE EXTERNAL, ALTER headers SET STORAGE EXTERNAL;
ALTER TABLE msgweb.message_persistent SET (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500000);
ALTER TABLE msgweb.message_transient SET (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500000);

-- Which batches of a session are committed: how a gateway that lost its connection in mid-commit learns the outcome.
CREATE TABLE msgweb.batch (
    session integer NOT NULL,
    number  bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session, number)
);

-- A topic's message that is too large for a notification (8,000 bytes); read by the other gateways, then swept.
CREATE UNLOGGED TABLE msgweb.topic_message (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    payload bytea NOT NULL
);

-- The first statement of every batch. Refuses a session that was buried (SQLSTATE MW001).
-- Locks: the session's row FOR KEY SHARE until the end of the transaction.
CREATE FUNCTION msgweb.enter_batch(of_session integer, batch_number bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM msgweb.session WHERE id = of_session FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'session % was taken for dead', of_session USING ERRCODE = 'MW001';
    END IF;
    INSERT INTO msgweb.batch (session, number) VALUES (of_session, batch_number);
END $$;

-- Find or make a destination. A reply queue ($reply.*) is only found: it ends with its owner.
-- Returns null for a reply queue that has ended. Raises MW404 for an unknown namespace.
CREATE FUNCTION msgweb.destination_id(of_namespace text, of_kind text, of_name text) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    known integer;
BEGIN
    SELECT id INTO known FROM msgweb.destination
    WHERE namespace = of_namespace AND kind = of_kind AND name = of_name;
    IF known IS NOT NULL OR (of_kind = 'queue' AND of_name LIKE '$reply.%') THEN
        RETURN known;
    END IF;
    PERFORM 1 FROM accounts_namespace WHERE name = of_namespace FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no namespace %', of_namespace USING ERRCODE = 'MW404';
    END IF;
    INSERT INTO msgweb.destination (namespace, kind, name) VALUES (of_namespace, of_kind, of_name)
    ON CONFLICT (namespace, kind, name) DO NOTHING RETURNING id INTO known;
    IF known IS NULL THEN
        SELECT id INTO known FROM msgweb.destination
        WHERE namespace = of_namespace AND kind = of_kind AND name = of_name;
    END IF;
    RETURN known;
END $$;

-- A header's name or value as STOMP 1.2 escapes it.
CREATE FUNCTION msgweb.escape_header(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT replace(replace(replace(replace($1, E'\\', E'\\\\'), E'\r', E'\\r'), E'\n', E'\\n'), ':', E'\\c')
$$;

-- A JSON object of headers as they are stored and sent: name:value LF each.
CREATE FUNCTION msgweb.encode_headers(headers jsonb) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT convert_to(coalesce(string_agg(
        msgweb.escape_header(key) || ':' || coalesce(msgweb.escape_header(value), '') || E'\n', ''), ''), 'UTF8')
    FROM jsonb_each_text(headers)
    WHERE key NOT IN ('', 'destination', 'message-id', 'subscription', 'ack', 'receipt', 'transaction', 'content-length')
$$;

-- One field of the format in which topic messages travel between processes: its length (4 bytes, big-endian), then itself.
CREATE FUNCTION msgweb.pack_field(bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT int4send(length($1)) || $1
$$;

-- Send from SQL, inside the caller's own transaction: nothing is seen before COMMIT, nothing remains after ROLLBACK.
--   destination  /queue/x, /topic/x, /reply-queue/x, or a bare x (a queue)
--   headers      a JSON object, such as {"content-type": "application/json"}
-- Returns the message's id; null for a topic (best effort) and for a reply queue that has ended (dropped).
-- Raises MW400 for a destination or priority that cannot be, MW404 for an unknown namespace.
CREATE FUNCTION msgweb.send(namespace text, destination text, body bytea, headers jsonb DEFAULT '{}',
                            persistent boolean DEFAULT true, priority integer DEFAULT 4) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    of_kind text := 'queue';
    of_name text := destination;
    target  integer;
    packed  bytea;
    row_id  bigint;
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
    target := msgweb.destination_id(namespace, of_kind, of_name);
    IF of_kind = 'topic' THEN
        packed := msgweb.pack_field(convert_to(namespace, 'UTF8')) || msgweb.pack_field(convert_to(of_name, 'UTF8'))
            || msgweb.pack_field(msgweb.encode_headers(headers)) || msgweb.pack_field(body);
        IF length(packed) <= 5900 THEN
            PERFORM pg_notify('msgweb_topic', '0 ' || translate(encode(packed, 'base64'), E'\n', ''));
        ELSE
            INSERT INTO msgweb.topic_message (payload) VALUES (packed) RETURNING id INTO row_id;
            PERFORM pg_notify('msgweb_topic', '0 @' || row_id);
        END IF;
        RETURN NULL;
    END IF;
    IF target IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO msgweb.message (destination, priority, persistent, headers, body)
    VALUES (target, priority, persistent, msgweb.encode_headers(headers), body) RETURNING id INTO row_id;
    PERFORM pg_notify('msgweb_ready', target::text);
    RETURN row_id;
END $$;

-- The same with a body of text, sent as UTF-8.
CREATE FUNCTION msgweb.send(namespace text, destination text, body text, headers jsonb DEFAULT '{}',
                            persistent boolean DEFAULT true, priority integer DEFAULT 4) RETURNS bigint
LANGUAGE sql AS $$
    SELECT msgweb.send(namespace, destination, convert_to(body, 'UTF8'), headers, persistent, priority)
$$;

-- End sessions: the given ones, and all whose lease is over. What they held is ready again, their reply queues go.
-- A restart of Postgres extends every lease by its own length: nobody could renew meanwhile.
-- by_force: first end the database connections of their processes. A process that froze within a transaction (SIGSTOP, a
-- paused machine, a cut network) would keep its locks for as long as it is frozen, and nobody could go on with its work.
-- Locks: session rows FOR UPDATE, skipping those that are writing at this moment.
-- Returns the sessions that were ended.
CREATE FUNCTION msgweb.bury_sessions(ids integer[], by_force boolean DEFAULT true) RETURNS SETOF integer LANGUAGE plpgsql
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
