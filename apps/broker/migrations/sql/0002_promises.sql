-- What a queue may promise beyond order and competing consumers: tables and columns. Their functions are in 0002_functions.sql.

-- A queue's settings; null is the default. Changing one is a change of the catalogue (see below).
ALTER TABLE msgweb.destination
    ADD message_ttl        double precision CHECK (message_ttl > 0),            -- seconds
    ADD on_expiry          text CHECK (on_expiry IN ('drop', 'dead-letter')),   -- default: drop
    ADD max_deliveries     integer CHECK (max_deliveries > 0),                  -- failed deliveries; default: no limit
    ADD retry_delay        double precision CHECK (retry_delay >= 0),           -- seconds after the first failure, doubled
    ADD retry_delay_max    double precision CHECK (retry_delay_max >= 0),       -- by each further one up to this; 1 hour
    ADD dead_letter_queue  text CHECK (length(dead_letter_queue) BETWEEN 1 AND 255),  -- default: DLQ.<name>
    ADD max_length         bigint CHECK (max_length > 0),                       -- waiting messages
    ADD max_bytes          bigint CHECK (max_bytes > 0),                        -- of waiting messages' headers and bodies
    ADD overflow           text CHECK (overflow IN ('refuse', 'drop-head')),    -- default: refuse
    ADD paused             boolean NOT NULL DEFAULT false,                      -- takes messages, delivers none
    ADD exclusive          boolean NOT NULL DEFAULT false,                      -- one consumer at a time
    ADD expires_after      double precision CHECK (expires_after > 0),          -- seconds unused until the queue goes
    ADD deduplication      double precision CHECK (deduplication > 0),          -- seconds; default: 10 minutes
    ADD keep_for           double precision CHECK (keep_for > 0),               -- seconds that acked messages are kept
    ADD keep_messages      bigint CHECK (keep_messages > 0),                    -- how many acked messages are kept
    ADD grouped            boolean NOT NULL DEFAULT false,                      -- messages of groups were sent to it
    ADD used_at            timestamptz NOT NULL DEFAULT clock_timestamp();      -- of a queue with expires_after

-- The number of the catalogue's state. Processes keep settings and ids in memory; every batch says which state it knows,
-- and is refused (MW002) when that is not the present one. Creating a destination is no change.
CREATE TABLE msgweb.catalogue (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL
);
INSERT INTO msgweb.catalogue (version) VALUES (1);
CREATE FUNCTION msgweb.catalogue_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE msgweb.catalogue SET version = version + 1;
    PERFORM pg_notify('msgweb_session', 'catalogue');
    RETURN NULL;
END $$;

-- session: null ready, above 0 held; 0 parked: an earlier message of its group is not done; -1 waits for available_at.
-- failures: of the deliveries those that the consumer refused or died over. origin: the queue that dead-lettered it.
ALTER TABLE msgweb.message
    ADD expires_at   timestamptz,
    ADD available_at timestamptz,
    ADD failures     integer NOT NULL DEFAULT 0,
    ADD origin       integer,
    ADD group_key    text;
CREATE INDEX message_expiring ON msgweb.message (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX message_delayed ON msgweb.message (available_at) WHERE session = -1;
CREATE INDEX message_grouped ON msgweb.message (destination, group_key, session, id) WHERE group_key IS NOT NULL;

-- Ids come 4,096 at a time: a process that hands a message over before it is written gives it the next of its own run
-- (see docs/adr/0005). The order of ids is the order of messages, as before.
ALTER SEQUENCE msgweb.message_id INCREMENT BY 4096;

-- How many more messages and bytes a limited queue certainly takes. Counting anew (by who finds it used up) raises it.
-- count_after: not before that, where counting took long.
CREATE TABLE msgweb.allowance (
    destination integer PRIMARY KEY,
    messages    bigint NOT NULL,
    bytes       bigint NOT NULL,
    count_after timestamptz
) WITH (fillfactor = 50);

-- Keys of messages that were sent to a queue, until its window is over.
CREATE TABLE msgweb.deduplication (
    destination integer NOT NULL,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (destination, key)
);
CREATE INDEX deduplication_expires ON msgweb.deduplication (expires_at);

-- Who consumes an exclusive queue. Goes with its session.
CREATE TABLE msgweb.exclusive_consumer (
    destination integer PRIMARY KEY,
    session     integer NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was acked in a queue that keeps messages.
CREATE TABLE msgweb.kept_message (
    id             bigint NOT NULL,
    destination    integer NOT NULL,
    enqueued_at    timestamptz NOT NULL,
    acked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    deliveries     integer NOT NULL,
    priority       smallint NOT NULL,
    persistent     boolean NOT NULL,
    correlation_id text,
    headers        bytea NOT NULL,
    body           bytea NOT NULL,
    PRIMARY KEY (destination, id)
);
CREATE INDEX kept_message_acked ON msgweb.kept_message (destination, acked_at);
CREATE INDEX kept_message_correlation ON msgweb.kept_message (destination, correlation_id)
    WHERE correlation_id IS NOT NULL;
ALTER TABLE msgweb.kept_message ALTER body SET STORAGE EXTERNAL, ALTER headers SET STORAGE EXTERNAL;
ALTER TABLE msgweb.kept_message SET (toast_tuple_target = 8160);

-- A queue that gets what is sent to a topic: durable subscriptions and virtual topics' consumers.
-- pattern: as subscribers write it, words between dots, * one word, # or > the rest (also none).
CREATE TABLE msgweb.binding (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace   varchar(127) NOT NULL,
    pattern     text NOT NULL CHECK (length(pattern) BETWEEN 1 AND 255),
    destination integer NOT NULL REFERENCES msgweb.destination ON DELETE CASCADE,
    selector    text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (destination, pattern)
);
CREATE TRIGGER catalogue_changed AFTER INSERT OR UPDATE OR DELETE ON msgweb.binding
    FOR EACH STATEMENT EXECUTE FUNCTION msgweb.catalogue_changed();

-- Messages that are sent again and again, or at times. Each run sends one message and sets next_at to the following.
CREATE TABLE msgweb.schedule (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination integer NOT NULL REFERENCES msgweb.destination ON DELETE CASCADE,
    name        text CHECK (length(name) BETWEEN 1 AND 255),
    next_at     timestamptz NOT NULL,
    cron        text,
    timezone    text NOT NULL DEFAULT 'UTC',
    period      double precision CHECK (period > 0),           -- seconds, where there is no cron
    remaining   bigint CHECK (remaining > 0),                  -- runs left; null: without end
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    priority    smallint NOT NULL DEFAULT 4 CHECK (priority BETWEEN 0 AND 9),
    persistent  boolean NOT NULL DEFAULT true,
    ttl         double precision CHECK (ttl > 0),
    group_key   text,
    headers     bytea NOT NULL,
    body        bytea NOT NULL,
    UNIQUE (destination, name)
);
CREATE INDEX schedule_next ON msgweb.schedule (next_at);
