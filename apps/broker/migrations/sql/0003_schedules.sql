-- Messages that are sent again and again, or at times. See docs/reference/schedules.md.

-- paused: not sent until it is resumed.
-- seeking: next_at is no run: the first run is the cron expression's first from then on (whoever runs what is due looks
--   it up, so that no process's clock matters).
-- count, start_at: as they were asked for: what tells a schedule that is deployed again from one that was changed.
-- last_at, last_outcome: of the last run: sent; full (its queue refused it); failed; bad_schedule (cannot be understood).
ALTER TABLE msgweb.schedule
    ADD paused       boolean NOT NULL DEFAULT false,
    ADD seeking      boolean NOT NULL DEFAULT false,
    ADD count        bigint CHECK (count > 0),
    ADD start_at     timestamptz,
    ADD last_at      timestamptz,
    ADD last_outcome text,
    ADD CHECK ((cron IS NULL) <> (period IS NULL)),
    ADD CHECK (period < 'Infinity'),
    ADD CHECK (cron IS NOT NULL OR NOT seeking),
    ADD CHECK (next_at BETWEEN '2000-01-01 00:00:00Z' AND '9000-01-01 00:00:00Z'),
    ALTER body SET STORAGE EXTERNAL,
    ALTER headers SET STORAGE EXTERNAL;
DROP INDEX msgweb.schedule_next;
CREATE INDEX schedule_next ON msgweb.schedule (next_at) WHERE NOT paused;

-- Send a message again and again, or at times. The values are those of Message and Repeat; the caller checked them
-- (apps.broker.schedules.check): an expression that is none is found when it is due, and pauses the schedule.
--   next_at  the first run; null: after the delay, by this server's clock
--   delay    seconds; of a cron expression: the first run is its first from then on
-- Locks: the destination FOR KEY SHARE. Returns the schedule's id; null: the destination is gone.
CREATE FUNCTION msgweb.add_schedule(of_destination integer, next_at timestamptz, cron text, timezone text,
                                    period double precision, remaining bigint, priority integer, persistent boolean,
                                    ttl double precision, group_key text, headers bytea, body bytea,
                                    delay double precision DEFAULT 0) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    added bigint;
BEGIN
    PERFORM FROM msgweb.destination d WHERE d.id = of_destination FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO msgweb.schedule AS s (destination, next_at, seeking, cron, timezone, period, count, remaining, priority,
                                      persistent, ttl, group_key, headers, body)
    VALUES (of_destination, coalesce(next_at, clock_timestamp() + make_interval(secs => coalesce(delay, 0))),
            next_at IS NULL AND cron IS NOT NULL, cron, coalesce(timezone, 'UTC'), period, remaining, remaining,
            priority, persistent, ttl, group_key, headers, body)
    RETURNING s.id INTO added;
    PERFORM pg_notify('msgweb_session', 'due');
    RETURN added;
END $$;

-- Hand a message to the subscribers of a topic, and put it into the queues that are bound to it.
CREATE FUNCTION msgweb.publish(of_namespace text, topic text, headers bytea, body bytea, persistent boolean,
                               priority integer, ttl double precision, group_key text) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    packed bytea := msgweb.pack_field(convert_to(of_namespace, 'UTF8')) || msgweb.pack_field(convert_to(topic, 'UTF8'))
        || msgweb.pack_field(headers) || msgweb.pack_field(body);
    target integer;
    row_id bigint;
    sent   record;
BEGIN
    IF length(packed) <= 5900 THEN
        PERFORM pg_notify('msgweb_topic', '0 ' || translate(encode(packed, 'base64'), E'\n', ''));
    ELSE
        INSERT INTO msgweb.topic_message AS t (payload) VALUES (packed) RETURNING t.id INTO row_id;
        PERFORM pg_notify('msgweb_topic', '0 @' || row_id);
    END IF;
    FOR target IN SELECT msgweb.bound_queues(of_namespace, topic) LOOP
        SELECT e.id, e.outcome, e.ready INTO sent FROM msgweb.enqueue(target, body,
            convert_to('destination:' || msgweb.escape_header('/topic/' || topic) || E'\n', 'UTF8') || headers,
            persistent, priority, ttl, 0, group_key) AS e;
        PERFORM msgweb.announce(target, sent.id, sent.outcome, group_key, sent.ready);
    END LOOP;
END $$;

-- Send a schedule's message now. The headers that say where it came from are put first: the first of repeated ones wins.
--   strict  raise MW413 if the queue is full, instead of returning `full`
-- outcome: as of msgweb.enqueue; id: null for a topic.
CREATE FUNCTION msgweb.send_scheduled(one msgweb.schedule, scheduled_for timestamptz, strict boolean,
                                      OUT id bigint, OUT outcome text) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    target msgweb.destination;
    sent   record;
    marked bytea := convert_to(
        'schedule-id:' || one.id || E'\n'
        || coalesce('schedule-name:' || msgweb.escape_header(one.name) || E'\n', '')
        || 'scheduled-for:'
        || msgweb.escape_header(to_char(scheduled_for AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
        || E'\n', 'UTF8') || one.headers;
BEGIN
    SELECT * INTO target FROM msgweb.destination d WHERE d.id = one.destination;
    IF target.kind = 'topic' THEN
        PERFORM msgweb.publish(target.namespace, target.name, marked, one.body, one.persistent, one.priority, one.ttl,
                               one.group_key);
        outcome := 'sent';
        RETURN;
    END IF;
    SELECT e.id, e.outcome, e.ready INTO sent FROM msgweb.enqueue(one.destination, one.body, marked, one.persistent,
        one.priority, one.ttl, 0, one.group_key, NULL, strict) AS e;
    PERFORM msgweb.announce(one.destination, sent.id, sent.outcome, one.group_key, sent.ready);
    id := sent.id;
    outcome := sent.outcome;
END $$;

-- Send what is due, once each, and say when each comes again; null: never, the schedule ends. The caller holds the
-- schedules' rows, in this transaction, and has looked up the times.
-- What a run does not send (its queue is full, or something is wrong with it) is skipped, not counted, and not made up.
--   outcome  as of msgweb.enqueue; failed: see detail; busy: another's open transaction holds what its queue needs: the
--            schedule was left as it is, due
--   before   the outcome of its run before
-- Locks: what msgweb.enqueue takes; never waits for it longer than 50 ms a queue.
CREATE FUNCTION msgweb.run_schedules(ids bigint[], following timestamptz[])
RETURNS TABLE (id bigint, destination integer, outcome text, before text, detail text) LANGUAGE plpgsql
SET lock_timeout = '50ms' AS $$
#variable_conflict use_variable
DECLARE
    one  msgweb.schedule;
    busy integer[] := '{}';
    left_over bigint;
BEGIN
    FOR place IN 1 .. cardinality(ids) LOOP
        SELECT * INTO one FROM msgweb.schedule s WHERE s.id = ids[place];
        CONTINUE WHEN one.id IS NULL;
        id := one.id;
        destination := one.destination;
        before := one.last_outcome;
        detail := NULL;
        outcome := 'busy';
        IF one.destination <> ALL (busy) THEN
            BEGIN
                SELECT x.outcome INTO outcome FROM msgweb.send_scheduled(one, one.next_at, false) AS x;
            EXCEPTION
                WHEN lock_not_available OR deadlock_detected THEN
                    busy := busy || one.destination;
                    outcome := 'busy';
                WHEN OTHERS THEN
                    -- What ails the server or the connection is not this schedule's: classes 08, 25, 40, 42, 53, 57, 58, XX.
                    IF left(SQLSTATE, 2) IN ('08', '25', '40', '42', '53', '57', '58', 'XX') THEN
                        RAISE;
                    END IF;
                    outcome := 'failed';
                    detail := SQLERRM;
            END;
        END IF;
        IF outcome <> 'busy' THEN
            left_over := one.remaining - (outcome = 'sent')::integer;
            IF left_over = 0 OR following[place] IS NULL THEN
                DELETE FROM msgweb.schedule s WHERE s.id = one.id;
            ELSE
                UPDATE msgweb.schedule s SET next_at = following[place], remaining = left_over,
                    last_at = clock_timestamp(), last_outcome = outcome
                WHERE s.id = one.id;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
