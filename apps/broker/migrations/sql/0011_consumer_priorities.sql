-- Consumer priorities across processes (docs/adr/0016): each process says of a queue which priorities its consumers have.
-- highest: of those without a selector (of an exclusive queue: of all); -2147483648: there is none. lowest: of all.
ALTER TABLE msgweb.consumer ADD highest integer NOT NULL DEFAULT 0, ADD lowest integer NOT NULL DEFAULT 0;

-- Tell those who consume the queue to look again who else does, where that makes a difference to them.
CREATE FUNCTION msgweb.announce_ranks(of_destination integer, of_session integer, my_highest integer, my_lowest integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session
               AND (c.lowest < my_highest OR c.highest > my_lowest)) THEN
        PERFORM pg_notify('msgweb_session', 'ranks:' || of_destination);
    END IF;
END $$;

-- Begin to consume a queue, or ask once more.
--   by_force  do not wait for the one that is alone: it was asked and does not answer
-- Returns `alone`, `shared`, or `wait`: another one is alone and was asked to share; it says so by a wake-up for the queue.
-- Locks: the queue's consumers, by an advisory lock.
DROP FUNCTION msgweb.join_queue(integer, integer, boolean);
CREATE FUNCTION msgweb.join_queue(of_destination integer, of_session integer, by_force boolean,
                                  my_highest integer DEFAULT 0, my_lowest integer DEFAULT 0) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1297568603, of_destination);
    INSERT INTO msgweb.consumer AS c (destination, session, highest, lowest)
    VALUES (of_destination, of_session, my_highest, my_lowest)
    ON CONFLICT (destination, session) DO UPDATE SET highest = excluded.highest, lowest = excluded.lowest
    WHERE (c.highest, c.lowest) <> (excluded.highest, excluded.lowest);
    IF NOT EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session) THEN
        UPDATE msgweb.consumer c SET alone = true WHERE c.destination = of_destination AND c.session = of_session;
        RETURN 'alone';
    END IF;
    PERFORM msgweb.announce_ranks(of_destination, of_session, my_highest, my_lowest);
    IF by_force THEN
        UPDATE msgweb.consumer c SET alone = false WHERE c.destination = of_destination AND c.alone;
    ELSIF EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session AND c.alone) THEN
        PERFORM pg_notify('msgweb_session', 'share:' || of_destination);
        RETURN 'wait';
    END IF;
    RETURN 'shared';
END $$;

-- The priorities of a process's consumers at a queue, after they changed, or to hear from the others again.
CREATE FUNCTION msgweb.set_rank(of_destination integer, of_session integer, my_highest integer, my_lowest integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE msgweb.consumer c SET highest = my_highest, lowest = my_lowest
    WHERE c.destination = of_destination AND c.session = of_session AND (c.highest, c.lowest) <> (my_highest, my_lowest);
    IF EXISTS (SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session) THEN
        PERFORM pg_notify('msgweb_session', 'ranks:' || of_destination);
    END IF;
END $$;

-- Queues that a process consumes no longer.
CREATE FUNCTION msgweb.part_queues(destinations integer[], of_session integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone msgweb.consumer;
BEGIN
    FOR gone IN DELETE FROM msgweb.consumer c WHERE c.destination = ANY (destinations) AND c.session = of_session RETURNING c.*
    LOOP
        PERFORM msgweb.announce_ranks(gone.destination, of_session, gone.highest, gone.lowest);
    END LOOP;
END $$;

-- Consume an exclusive queue. Returns whether the session is its consumer now: it is free, and nobody of a higher priority
-- waits for it.
CREATE OR REPLACE FUNCTION msgweb.take_exclusive(of_destination integer, of_session integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM msgweb.consumer c WHERE c.destination = of_destination AND c.session <> of_session
        AND c.highest > coalesce((SELECT o.highest FROM msgweb.consumer o
                                  WHERE o.destination = of_destination AND o.session = of_session), 0))
    THEN
        INSERT INTO msgweb.exclusive_consumer (destination, session) VALUES (of_destination, of_session)
        ON CONFLICT (destination) DO NOTHING;
    END IF;
    RETURN EXISTS (SELECT FROM msgweb.exclusive_consumer e WHERE e.destination = of_destination AND e.session = of_session);
END $$;
