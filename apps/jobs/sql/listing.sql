-- The newest jobs of a list, or those older than one; parts that `apps.jobs.listing` puts together. What is null does not
-- count; it is told in the text of the statement, so that the planner knows it.
--   namespace, task, state, but text (any state but that), moment timestamptz, job uuid (of the one before), most int

-- name: newest_by_task
-- Of those that are ready (`{compared}` is `=`), or of the others (`<>`), of a namespace or a task or both. Task by task, each
-- the newest: the ready ones have entries in the index of tasks alone, and of the others that of time would lead past all
-- younger jobs of other tasks.
WITH RECURSIVE kinds AS (
    (SELECT namespace, task FROM jobs_job
     WHERE state {compared} 'ready' AND (%(namespace)s IS NULL OR namespace = %(namespace)s)
     ORDER BY namespace, task LIMIT 1)
    UNION ALL
    SELECT next.namespace, next.task FROM kinds k CROSS JOIN LATERAL (
        SELECT j.namespace, j.task FROM jobs_job j
        WHERE j.state {compared} 'ready' AND (j.namespace, j.task) > (k.namespace, k.task)
          AND (%(namespace)s IS NULL OR j.namespace = %(namespace)s)
        ORDER BY j.namespace, j.task LIMIT 1) next
)
SELECT newest.id, newest.created_at FROM kinds k CROSS JOIN LATERAL (
    SELECT j.id, j.created_at FROM jobs_job j
    WHERE j.state {compared} 'ready' AND j.namespace = k.namespace AND j.task = k.task
      AND j.created_at <= coalesce(%(moment)s::timestamptz, 'infinity')
      AND (%(job)s::uuid IS NULL OR (j.created_at, j.id) < (%(moment)s::timestamptz, %(job)s::uuid))
    ORDER BY j.created_at DESC, j.id DESC LIMIT %(most)s) newest
WHERE %(task)s IS NULL OR k.task = %(task)s

-- name: newest_of_state
-- Of the others, in a state or in any.
SELECT j.id, j.created_at FROM jobs_job j
WHERE j.state <> 'ready' AND (%(state)s IS NULL OR j.state = %(state)s) AND (%(but)s IS NULL OR j.state <> %(but)s)
  AND (%(namespace)s IS NULL OR j.namespace = %(namespace)s) AND (%(task)s IS NULL OR j.task = %(task)s)
  AND j.created_at <= coalesce(%(moment)s::timestamptz, 'infinity')
  AND (%(job)s::uuid IS NULL OR (j.created_at, j.id) < (%(moment)s::timestamptz, %(job)s::uuid))
ORDER BY j.created_at DESC, j.id DESC LIMIT %(most)s
