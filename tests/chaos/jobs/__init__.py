"""A day's worth of jobs of all kinds in minutes, while workers, slots and Postgres are killed; and whether the sums are
right at the end.

    kinds      the tasks, and what may become of a job of each
    campaign   asks for jobs, strikes, waits until all have ended
    audit      what must hold then
"""
