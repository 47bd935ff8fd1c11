-- Topics that reach queues. What a pattern matches is said once more in apps/broker/patterns.py.

-- Whether a topic's name is one of a pattern's: words between dots, * one word, # or > any number of words, also none.
CREATE FUNCTION msgweb.topic_matches(pattern text, name text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    said    text[] := CASE WHEN pattern = '' THEN ARRAY[''] ELSE string_to_array(pattern, '.') END;
    words   text[] := CASE WHEN name = '' THEN ARRAY[''] ELSE string_to_array(name, '.') END;
    reached boolean[];  -- reached[j + 1]: the words of the pattern so far match the first j words of the name
    before  boolean[];
BEGIN
    reached := array_fill(false, ARRAY[cardinality(words) + 1]);
    reached[1] := true;
    FOR i IN 1 .. cardinality(said) LOOP
        before := reached;
        FOR j IN 0 .. cardinality(words) LOOP
            IF said[i] IN ('#', '>') THEN
                reached[j + 1] := before[j + 1] OR (j > 0 AND reached[j]);
            ELSE
                reached[j + 1] := j > 0 AND before[j] AND (said[i] = '*' OR said[i] = words[j]);
            END IF;
        END LOOP;
    END LOOP;
    RETURN reached[cardinality(words) + 1];
END $$;

-- The queues that get what is sent to a topic.
CREATE FUNCTION msgweb.bound_queues(of_namespace text, topic text) RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    SELECT DISTINCT b.destination FROM msgweb.binding b
    WHERE b.namespace = of_namespace AND msgweb.topic_matches(b.pattern, topic)
$$;

-- From now on a queue (made if it is missing) gets what is sent to the topics of a pattern. Once, however often it is said.
CREATE FUNCTION msgweb.bind(of_namespace text, of_pattern text, queue_name text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    target integer := msgweb.destination_id(of_namespace, 'queue', queue_name);
BEGIN
    IF NOT EXISTS (SELECT FROM msgweb.binding b WHERE b.destination = target AND b.pattern = of_pattern) THEN
        INSERT INTO msgweb.binding (namespace, pattern, destination) VALUES (of_namespace, of_pattern, target)
        ON CONFLICT (destination, pattern) DO NOTHING;
    END IF;
    RETURN target;
END $$;

-- A durable subscription ends: the queue gets nothing more, and goes with what waits in it.
CREATE FUNCTION msgweb.unsubscribe_durable(of_namespace text, queue_name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    target integer;
BEGIN
    SELECT d.id INTO target FROM msgweb.destination d
    WHERE d.namespace = of_namespace AND d.kind = 'queue' AND d.name = queue_name;
    DELETE FROM msgweb.destination WHERE id = target;
    DELETE FROM msgweb.message m WHERE m.destination = target AND m.session IS NULL;
END $$;
