"""The web console, the status page for the person who waits, and the event stream."""
