"""The REST API under /api/v1/: send, submit jobs, wait for them. Imported by `msgweb.urls` alone."""
