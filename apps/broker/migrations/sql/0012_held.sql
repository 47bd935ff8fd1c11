-- What those ask who change what a worker may be at.

-- Which of these sessions live.
-- Locks: their rows FOR KEY SHARE: they are not buried before the end of the transaction.
CREATE FUNCTION msgweb.living_sessions(ids integer[]) RETURNS SETOF integer LANGUAGE sql AS $$
    SELECT id FROM msgweb.session WHERE id = ANY (ids) FOR KEY SHARE
$$;

-- Whether a worker that lives holds a message of a queue whose headers have this line (with its line feed). Looks at each
-- message that workers hold of it: some hundreds a worker.
CREATE FUNCTION msgweb.is_held(of_namespace text, of_queue text, line bytea) RETURNS boolean LANGUAGE sql STABLE
SET enable_seqscan = off AS $$
    SELECT EXISTS (
        SELECT FROM msgweb.session s
        JOIN msgweb.message m ON m.session = s.id
        JOIN msgweb.destination d ON d.id = m.destination
        WHERE s.kind = 'worker' AND d.namespace = of_namespace AND d.kind = 'queue' AND d.name = of_queue
          AND position(line IN m.headers) > 0)
$$;
