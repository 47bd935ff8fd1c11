-- What goes along with a claim asks here what was claimed.

-- The messages that a session has claimed in this transaction. One plain SELECT, so that the planner takes it apart.
CREATE FUNCTION msgweb.claimed(of_session integer) RETURNS TABLE (id bigint, deliveries integer, headers bytea)
LANGUAGE sql STABLE AS $$
    SELECT m.id, m.deliveries, m.headers FROM msgweb.message m
    WHERE m.session = of_session AND m.xmin = pg_current_xact_id()::xid
$$;
