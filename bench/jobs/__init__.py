"""Job queues side by side: `make bench ARGS="--scenario jobs-burn jobs-paced"`.

jobbench       the harness: one peer, one scenario, a JSON object a run; in the peer's own virtual environment
*_app          one for each tool: how it enqueues, how its workers start, how finished jobs are counted
tasks          what Msgweb's jobs do
side_by_side   a Postgres for all of them, their environments, and the table
"""
