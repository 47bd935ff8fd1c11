"""Long-running tasks that can be watched: the job, the task decorator, progress and log, the reply."""
