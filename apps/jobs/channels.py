"""The NOTIFY channels of jobs. All of them only wake: what happened is read from the tables."""

#: New events of a job were committed; the payload is the job's id.
EVENTS = "msgweb_job"

#: Somebody wants something of a running job (cancel); the payload is the job's id. For workers.
CONTROL = "msgweb_control"

#: The list of namespaces changed. For workers.
NAMESPACES = "msgweb_namespaces"
