"""The worker: a supervisor process that holds messages, and slot processes that do the jobs, one at a time each.

    supervisor   takes messages as slots are free, drives each job to its end, drains
    ledger       gathers what is to be recorded and writes it in batches, across outages of the database
    control      hears what people want of running jobs
    process      a slot as the supervisor sees it
    slot         the slot's own process: `python -m workers.slot`
    output       what a task prints and logs
    wire         the messages between supervisor and slot
    limits       what bounds a job's log

Knows the broker by its Engine protocol and jobs by `apps.jobs`; nothing imports it.
"""
