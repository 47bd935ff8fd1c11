"""The worker: a main process that forks, a supervisor that holds messages, and slots that do the jobs.

    forkserver   the main process: it has loaded the project, and forks the others from itself
    supervisor   the life of the process that sees to it all
    options      what a worker is told when it starts
    dispatch     the way of each message, from the queue to the job's end
    intake       which queues are served, in what order
    roster       the slots: how many, which may take a job, who is replaced
    claims       a message that is held, on its way
    durations    how long jobs take: only quick ones are prefetched
    admissions   lets short jobs begin whose start is recorded later
    ledger       gathers what is to be recorded and writes it in batches, across outages of the database
    control      hears what people want of running jobs
    process      a slot as the supervisor sees it
    slot         the slot's own process
    running      a job in a slot, from its task's name to its outcome
    coroutines   jobs that share a slot
    transport    how a job in a slot reaches the supervisor
    output       what a task prints and logs
    wire         the messages between supervisor and slot
    reloading    in development: a worker starts again when the code has changed

    models       what people want of workers; `orders` is how they say it

Knows the broker by its Engine protocol and jobs by `apps.jobs`; of it the console imports `orders`, and nobody anything
else.
"""
