"""The worker: supervisor, slot processes, drain. Knows the broker by its Engine protocol and jobs by apps.jobs."""
