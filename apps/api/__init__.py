"""The REST API: send, submit a job, poll it, read its log."""
