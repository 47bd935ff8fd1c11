"""Ask for many jobs of a task at once, by COPY, inside the caller's own transaction."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.db import connection, transaction

from apps.broker.bulk import send_many
from apps.broker.headers import escape_header
from apps.jobs.asking import Ask, request_of
from apps.jobs.registry import Task, to_json
from apps.jobs.submit import ask_for
from msgweb.errors import BadRequest

PORTION = 5_000  # jobs whose rows are in memory at once
_JOBS = (
    "COPY jobs_job (id, arguments, limits, created_at, namespace, task, queue, priority, state, attempt, failures,"
    " max_attempts, delivery, reply_to, correlation_id, wants_progress, requested_by, expires_at, timeout, on_death,"
    " batch_id) FROM STDIN"
)
_EVENTS = "COPY jobs_event (job_id, at, kind, data) FROM STDIN"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
#: Of an Ask: what needs more than a row and a message.
_SLOW = ("reply_to", "correlation_id", "wants_progress", "delay", "run_at", "after", "hold")


def enqueue_many(
    task: Task[..., Any], namespace: str, arguments: Iterable[Mapping[str, Any]], ask: Ask | None = None
) -> list[uuid.UUID]:
    """Ask for a job with each of these arguments, in their order. Nobody sees one before COMMIT.

    Jobs of a unique task, those with a reply and those that begin later are asked for one by one, which is slower.

    Args:
        ask: how, for all of them.

    Returns:
        The ids, in the order of the arguments.

    Raises:
        BadArguments: they do not fit the task; then there is none of the jobs.
        BadRequest: they cannot all have one id.
        NotFound: there is no such namespace.
        LimitExceeded: the queue is full.
    """
    ask = ask or Ask()
    if ask.job_id is not None:
        raise BadRequest("several jobs cannot have one id")
    with transaction.atomic():
        if task.options.unique is not None or any(getattr(ask, name) for name in _SLOW):
            return [ask_for(task, namespace, one, ask).id for one in arguments]
        ids: list[uuid.UUID] = []
        remaining = iter(arguments)
        while portion := list(islice(remaining, PORTION)):
            ids += _copy(task, namespace, portion, ask)
    return ids


def _copy(task: Task[..., Any], namespace: str, portion: list[Mapping[str, Any]], ask: Ask) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        ids = _ids(len(portion), now)
        texts, rows, events = [], [], []
        options = task.options
        # What all of them share is checked, and written, once.
        request = request_of(task, namespace, portion[0], ask)
        expires = request.get("expires")
        shared = _line(
            *(namespace, task.name, request["queue"], request["priority"], "ready", 0, 0, request["max_attempts"], 0),
            *("", "", "f", request.get("requested_by", "")),
            None if expires is None else now + timedelta(seconds=expires),
            *(options.timeout, options.on_worker_death, ask.batch),
        )
        happened = f"\t{now.isoformat()}\tstate\t" + '{"state": "ready", "attempt": 0}\n'
        limited = options.concurrency is not None or options.rate is not None
        for job_id, created, one in zip(ids, _moments(now, len(portion)), portion, strict=True):
            text = task.checked(one)
            limits = "\\N"
            if limited:
                limits = to_json(options.limits(namespace, task.name, task.named(one))).translate(_ESCAPES)
            # Of control characters JSON holds none but as escapes.
            kept = text.replace("\\", "\\\\") if "\\" in text else text
            rows.append(f"{job_id}\t{kept}\t{limits}\t{created}\t{shared}")
            events.append(f"{job_id}{happened}")
            texts.append(text)
        for statement, lines in ((_JOBS, rows), (_EVENTS, events)):
            with cursor.copy(statement) as copy:
                copy.write("".join(lines))
        name = escape_header(task.name)
        messages = (
            (
                b"task:%b\njob-id:%b\nreply-to:/job/%b\ncontent-type:application/json\n"
                % (name, (key := job_id.encode()), key),
                text.encode(),
            )
            for job_id, text in zip(ids, texts, strict=True)
        )
        send_many(namespace, request["queue"], messages, priority=request["priority"])
        cursor.execute("SELECT pg_notify('msgweb_job', %s)", [ids[-1]])
    return list(map(uuid.UUID, ids))


def _line(*values: object) -> str:
    """The end of a row for COPY."""
    fields = [
        "\\N" if value is None else value.isoformat() if isinstance(value, datetime) else str(value).translate(_ESCAPES)
        for value in values
    ]
    return "\t".join(fields) + "\n"


def _moments(start: datetime, count: int) -> Iterator[str]:
    """Moments a microsecond apart, so that lists and queues show jobs in their order."""
    moment = start
    while count:
        here = min(count, 1_000_000 - moment.microsecond)
        second = moment.replace(microsecond=0, tzinfo=None).isoformat()
        zone = moment.isoformat()[-6:]
        for microsecond in range(moment.microsecond, moment.microsecond + here):
            yield f"{second}.{microsecond:06}{zone}"
        moment += timedelta(microseconds=here)
        count -= here


def _ids(count: int, now: datetime) -> list[str]:
    """Ids in the order of time (RFC 9562, version 7): neighbours in the index, where random ones touch a page each."""
    time = f"{int(now.timestamp() * 1000):012x}"
    head = f"{time[:8]}-{time[8:]}-7"
    noise = os.urandom(8 * count).hex()
    return [
        f"{head}{number & 0xFFF:03x}-{'89ab'[number & 3]}{noise[at : at + 3]}-{noise[at + 4 : at + 16]}"
        for number, at in zip(range(count), range(0, 16 * count, 16), strict=True)
    ]
