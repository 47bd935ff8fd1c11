"""Ask for many jobs of a task at once, by COPY, inside the caller's own transaction."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.db import connection, transaction

from apps.broker.bulk import send_many
from apps.broker.headers import escape_header
from apps.jobs.asking import Ask, request_of
from apps.jobs.registry import Task, to_json
from apps.jobs.submit import ask_for

PORTION = 5_000  # jobs whose rows are in memory at once
_JOBS = (
    "COPY jobs_job (id, arguments, limits, created_at, namespace, task, queue, priority, state, attempt, failures,"
    " max_attempts, delivery, reply_to, correlation_id, wants_progress, requested_by, expires_at, timeout, on_death,"
    " batch_id) FROM STDIN"
)
_EVENTS = "COPY jobs_event (job_id, at, kind, data) FROM STDIN"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SLOW = ("reply_to", "delay", "run_at", "after", "hold")  # of an Ask: what needs more than a row and a message


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
        NotFound: there is no such namespace.
        LimitExceeded: the queue is full.
    """
    ask = ask or Ask()
    with transaction.atomic():
        if task.options.unique is not None or any(getattr(ask, name) for name in _SLOW):
            return [ask_for(task, namespace, one, replace(ask, job_id=None)).id for one in arguments]
        ids: list[uuid.UUID] = []
        remaining = iter(arguments)
        while portion := list(islice(remaining, PORTION)):
            ids += _copy(task, namespace, portion, ask)
    return ids


def _copy(task: Task[..., Any], namespace: str, portion: list[Mapping[str, Any]], ask: Ask) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        ids = list(_ids(len(portion), now))
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
        for number, (job_id, one) in enumerate(zip(ids, portion, strict=True)):
            text = task.checked(one)
            limits = None
            if options.concurrency is not None or options.rate is not None:
                limits = to_json(options.limits(namespace, task.name, task.named(one)))
            # A microsecond apart, so that lists and queues show them in their order.
            created = now + timedelta(microseconds=number)
            rows.append(
                f"{job_id}\t{text.translate(_ESCAPES) if chr(92) in text else text}\t"
                f"{chr(92) + 'N' if limits is None else limits.translate(_ESCAPES)}\t{created.isoformat()}\t{shared}"
            )
            events.append(f"{job_id}{happened}")
            texts.append(text)
        for statement, lines in ((_JOBS, rows), (_EVENTS, events)):
            with cursor.copy(statement) as copy:
                copy.write("".join(lines))
        name = escape_header(task.name)
        messages = (
            (
                b"task:%b\njob-id:%b\nreply-to:/job/%b\ncontent-type:application/json\n"
                % (name, (key := str(job_id).encode()), key),
                text.encode(),
            )
            for job_id, text in zip(ids, texts, strict=True)
        )
        send_many(namespace, request["queue"], messages, priority=request["priority"])
        cursor.execute("SELECT pg_notify('msgweb_job', %s)", [str(ids[-1])])
    return ids


def _line(*values: object) -> str:
    """The end of a row for COPY."""
    fields = [
        "\\N" if value is None else value.isoformat() if isinstance(value, datetime) else str(value).translate(_ESCAPES)
        for value in values
    ]
    return "\t".join(fields) + "\n"


def _ids(count: int, now: datetime) -> Iterator[uuid.UUID]:
    """Ids in the order of time (RFC 9562, version 7): neighbours in the index, where random ones touch a page each."""
    milliseconds = int(now.timestamp() * 1000) << 80
    noise = os.urandom(8 * count)
    for number in range(count):
        low = int.from_bytes(noise[8 * number : 8 * number + 8], "big") & (1 << 62) - 1
        yield uuid.UUID(int=milliseconds | 7 << 76 | (number & 0xFFF) << 64 | 2 << 62 | low)
