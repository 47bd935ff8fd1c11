-- Which processes consume a queue, and whether one of them is alone. Who is alone may claim more than its consumers have
-- credit for (see docs/adr/0007); whoever comes asks it to stop first, so that nothing overtakes what lies there.
CREATE TABLE msgweb.consumer (
    destination integer NOT NULL,
    session     integer NOT NULL,
    alone       boolean NOT NULL DEFAULT false,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (destination, session)
);
CREATE INDEX consumer_session ON msgweb.consumer (session);

-- Begin to consume a queue, or ask once more.
--   by_force  do not wait for the one that is alone: it was asked and does not answer
-- Returns `alone`, `shared`, or `wait`: another one is alone and was asked to share; it says so by a wake-up for the queue.
-- Locks: the queue's consumers, by an advisory lock.
CREATE FUNCTION msgweb.join_queue(of_destination integer, of_session integer, by_force boolean) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1297568603, of_destination);
    INSERT INTO msgweb.consumer (destination, session) VALUES (of_destination, of_session) ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session) THEN
        UPDATE msgweb.consumer c SET alone = true WHERE c.destination = of_destination AND c.session = of_session;
        RETURN 'alone';
    END IF;
    IF by_force THEN
        UPDATE msgweb.consumer c SET alone = false WHERE c.destination = of_destination AND c.alone;
    ELSIF EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session AND c.alone) THEN
        PERFORM pg_notify('msgweb_session', 'share:' || of_destination);
        RETURN 'wait';
    END IF;
    RETURN 'shared';
END $$;

-- Be alone no longer: what lay beyond the credit was given back before this.
CREATE FUNCTION msgweb.share_queue(of_destination integer, of_session integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE msgweb.consumer c SET alone = false WHERE c.destination = of_destination AND c.session = of_session;
    PERFORM msgweb.wake(ARRAY[of_destination]);
END $$;

-- A session or a queue takes its rows along.
CREATE FUNCTION msgweb.forget_consumers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'session' THEN
        DELETE FROM msgweb.consumer c WHERE c.session = OLD.id;
    ELSE
        DELETE FROM msgweb.consumer c WHERE c.destination = OLD.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_consumers AFTER DELETE ON msgweb.session FOR EACH ROW EXECUTE FUNCTION msgweb.forget_consumers();
CREATE TRIGGER forget_consumers AFTER DELETE ON msgweb.destination
    FOR EACH ROW WHEN (OLD.owner IS NULL AND OLD.kind = 'queue') EXECUTE FUNCTION msgweb.forget_consumers();
