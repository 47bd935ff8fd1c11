-- Every change of who may do what leaves an entry in the audit log, and wakes the gateways.

-- Row trigger. Arguments: what the table holds, then the columns that matter; one with `!` before it is a secret, of
-- which only the fact of a change is kept. Sends NOTIFY msgweb_access, once a transaction.
-- Finds its tables whatever the search_path of whoever makes the change.
CREATE FUNCTION accounts_note_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    before jsonb := '{}';
    after jsonb := '{}';
    row jsonb;
    changes jsonb := '{}';
    name text;
    subject text;
BEGIN
    IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
    IF TG_OP <> 'DELETE' THEN after := to_jsonb(NEW); END IF;
    row := CASE WHEN TG_OP = 'DELETE' THEN before ELSE after END;
    FOR i IN 1 .. TG_NARGS - 1 LOOP
        name := ltrim(TG_ARGV[i], '!');
        IF before->name IS NOT DISTINCT FROM after->name THEN
            CONTINUE;
        ELSIF left(TG_ARGV[i], 1) = '!' THEN
            changes := changes || jsonb_build_object(name, '***');
        ELSIF TG_OP = 'UPDATE' THEN
            changes := changes || jsonb_build_object(name, jsonb_build_object('from', before->name, 'to', after->name));
        ELSIF row->name NOT IN ('null', 'false', '""') THEN
            changes := changes || jsonb_build_object(name, row->name);
        END IF;
    END LOOP;
    IF TG_OP = 'UPDATE' AND changes = '{}' THEN
        RETURN NULL;
    END IF;
    -- Whom it concerns. A holder that goes in the same statement may be gone already: then its id has to do.
    subject := coalesce(
        (SELECT k.title || ' (' || k.login || ')' FROM accounts_accesskey k
         WHERE k.id = CASE WHEN TG_TABLE_NAME = 'accounts_accesskey' THEN (row->>'id')::bigint
                           ELSE coalesce(row->>'key_id', row->>'accesskey_id')::bigint END),
        (SELECT u.username FROM auth_user u
         WHERE u.id = CASE WHEN TG_TABLE_NAME = 'auth_user' THEN (row->>'id')::bigint
                           ELSE (row->>'user_id')::bigint END),
        (SELECT 'group ' || g.name FROM auth_group g WHERE g.id = (row->>'group_id')::bigint),
        row->>'title', row->>'username', row->>'name', row->>'id');
    INSERT INTO accounts_auditentry (actor, action, kind, subject, changes) VALUES (
        coalesce(nullif(current_setting('msgweb.actor', true), ''), 'database role ' || session_user),
        CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'deleted' END,
        TG_ARGV[0], subject, changes);
    PERFORM pg_notify('msgweb_access', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON accounts_namespace FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('namespace', 'name');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON accounts_accesskey FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('access key', 'title', 'default_namespace_id', 'restricted',
        'max_connections', 'max_subscriptions', 'max_sends_per_second', 'max_unacked', 'expires_at', 'revoked_at',
        '!passcode_hash');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON accounts_accesskey_namespaces FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('namespace of a key', 'namespace_id');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON accounts_permission FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('permission', 'namespace_id', 'pattern', 'send', 'receive', 'manage');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON accounts_clientcertificate FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('certificate', 'name');
-- `UPDATE OF`: a log-in to the console writes `last_login`, and is no change of access.
CREATE TRIGGER accounts_note_change
    AFTER INSERT OR DELETE OR UPDATE OF username, password, is_active, is_staff, is_superuser ON auth_user FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('user', 'username', 'is_active', 'is_staff', 'is_superuser', '!password');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON auth_user_groups FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('group of a user', 'group_id');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON auth_user_user_permissions FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('console permission', 'permission_id');
CREATE TRIGGER accounts_note_change AFTER INSERT OR UPDATE OR DELETE ON auth_group_permissions FOR EACH ROW
    EXECUTE FUNCTION accounts_note_change('console permission', 'permission_id');
