"""What must hold when all jobs have ended."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.jobs.kinds import KINDS, QUEUE

Query = Callable[..., list[tuple[Any, ...]]]

_JOBS = """
SELECT id::text, split_part(task, '.', 2), state, attempt, failures, result, error->>'code',
       (arguments->>'number')::int,
       (SELECT array_agg(outcome ORDER BY number) FROM jobs_attempt a WHERE a.job_id = j.id),
       (SELECT array_agg(error->>'code' ORDER BY number) FROM jobs_attempt a WHERE a.job_id = j.id),
       (SELECT array_agg(data->>'state' ORDER BY e.id) FROM msgweb.job_event e
        WHERE e.job_id = j.id AND e.kind = 'state')
FROM jobs_job j WHERE task LIKE 'chaos.%%'
"""
_LEFT = """
SELECT count(*), count(*) FILTER (WHERE m.session IS NOT NULL) FROM msgweb.message m
JOIN msgweb.destination d ON d.id = m.destination WHERE d.name = %s
"""
_REPLIES = """
SELECT convert_from(m.headers, 'UTF8') FROM msgweb.message m JOIN msgweb.destination d ON d.id = m.destination
WHERE d.name = 'answers'
"""


def runs(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """What each job wrote down of its runs: what, and in which attempt."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    try:
        text = (folder / "runs").read_text()
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        what, job, attempt, _ = line.split()
        found[job].append((what, int(attempt)))
    return found


def audit(query: Query, folder: Path, asked: int, cancelled: set[str]) -> Iterator[str]:
    """What is wrong; nothing, if all is well.

    Args:
        asked: how many jobs were asked for.
        cancelled: jobs that somebody cancelled.
    """
    wrote = runs(folder)
    rows = query(_JOBS)
    if len(rows) != asked:
        yield f"{asked} jobs were asked for, and there are {len(rows)}"
    for row in rows:
        for wrong in _audit_job(row, wrote.get(row[0], []), row[0] in cancelled):
            yield f"{row[1]} {row[0]}: {wrong} ({row[2:]})"
    ((left, held),) = query(_LEFT, QUEUE)
    if left:
        yield f"{left} messages are left, {held} of them held"
    replies = Counter(_job_of(headers) for (headers,) in query(_REPLIES))
    for row in rows:
        if replies[row[0]] != 1:
            yield f"{row[1]} {row[0]} got {replies[row[0]]} replies"
    ((taken,),) = query("SELECT count(*) FROM jobs_permit WHERE job IS NOT NULL")
    if taken:
        yield f"{taken} places of limits are still taken"


def _audit_job(row: tuple[Any, ...], wrote: list[tuple[str, int]], was_cancelled: bool) -> Iterator[str]:
    _, name, state, attempt, failures, result, code, number, outcomes, codes, states = row
    kind = KINDS[name]
    begun = [number for what, number in wrote if what == "begin"]
    ends = kind.ends | ({"cancelled"} if was_cancelled else set())
    deaths = set(codes or []) & kind.unless or {code} & kind.unless
    if state not in ends and not (state == "failed" and deaths):
        yield f"ended as {state}"
    if state == "succeeded" and result != number:
        yield f"its result is {result}, not {number}"
    if state == "succeeded" and not begun:
        yield "it has succeeded without having been begun"
    if kind.once and len(begun) > 1:
        yield f"it was begun {len(begun)} times"
    if len(outcomes or []) != attempt or "" in (outcomes or []):
        yield f"its attempts ended as {outcomes}"
    if Counter(outcomes or [])["failed"] != failures:
        yield f"{failures} failures are counted"
    if any(times > 1 for times in Counter(begun).values()):
        yield f"one attempt was begun twice: {begun}"
    if states[-1] != state or sum(one in ("succeeded", "failed", "cancelled", "expired") for one in states) != 1:
        yield f"its states were {states}"
    order = [("first", "second", "third").index(what) for what, _ in wrote if what != "begin"]
    if order != sorted(order):
        yield f"a finished step was done again: {order}"


def _job_of(headers: str) -> str:
    return next((line[7:] for line in headers.splitlines() if line.startswith("job-id:")), "")
