-- Settings and names are known by heart in each process: what makes that knowledge stale counts as a change.
CREATE TRIGGER catalogue_changed AFTER UPDATE OF message_ttl, on_expiry, max_deliveries, retry_delay, retry_delay_max,
    dead_letter_queue, max_length, max_bytes, overflow, paused, exclusive, expires_after, deduplication, keep_for,
    keep_messages ON msgweb.destination
    FOR EACH STATEMENT EXECUTE FUNCTION msgweb.catalogue_changed();
CREATE TRIGGER catalogue_changed_delete AFTER DELETE ON msgweb.destination
    FOR EACH ROW WHEN (OLD.owner IS NULL) EXECUTE FUNCTION msgweb.catalogue_changed();
