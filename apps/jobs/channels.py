"""The NOTIFY channels of jobs. All of them only wake: what happened is read from the tables."""

#: New events of jobs were committed; the payload is their ids, with a space between.
EVENTS = "msgweb_job"

#: Somebody wants something of a running job (cancel); the payload is the job's id. For workers.
CONTROL = "msgweb_control"

#: The list of namespaces changed. For workers.
NAMESPACES = "msgweb_namespaces"
