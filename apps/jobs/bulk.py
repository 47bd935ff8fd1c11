"""Ask for many jobs of a task at once, by COPY, inside the caller's own transaction."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from apps.broker.bulk import Sending, copy, field
from apps.jobs.asking import Ask, message_headers, request_of
from apps.jobs.ids import ids_from
from apps.jobs.registry import Task, to_json
from apps.jobs.submit import ask_for
from msgweb.errors import BadRequest

PORTION = 2_000  # jobs whose rows are written together, and beside which as many are in the making
FIRST = 200  # jobs that are made ready before the database has anything to write
STEP = 20  # jobs that are made ready between two looks at whether it takes more
_COLUMNS = (
    *(
        "id",
        "created_at",
        "arguments",
        "limits",
        "namespace",
        "task",
        "queue",
        "priority",
        "state",
        "attempt",
        "failures",
    ),
    *(
        "max_attempts",
        "delivery",
        "reply_to",
        "correlation_id",
        "wants_progress",
        "requested_by",
        "expires_at",
        "timeout",
    ),
    *("on_death", "batch_id", "born_ready"),
)
_JOBS = f"COPY jobs_job ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT binary)"
_JSONB = b"\1"  # the version of jsonb's binary form, which is text otherwise
_EPOCH = 946_684_800_000_000  # microseconds from 1970 to 2000, where Postgres begins to count
#: The number of columns, an id, a moment; the length of the arguments and the version of jsonb too.
_JOB_HEAD = struct.Struct(">hi16siqi1s")
_SHORT, _INTEGER, _LONG, _DOUBLE = (struct.Struct(code).pack for code in (">h", ">i", ">q", ">d"))
#: Of an Ask: what needs more than a row and a message.
_SLOW = ("reply_to", "correlation_id", "wants_progress", "delay", "run_at", "after", "hold")


def enqueue_many(
    task: Task[..., Any], namespace: str, arguments: Iterable[Mapping[str, Any]], ask: Ask | None = None
) -> list[UUID]:
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
        remaining = iter(arguments)
        first = list(islice(remaining, FIRST))
        if not first:
            return []
        # What all of them share is checked once.
        request = request_of(task, namespace, first[0], ask)
        with connection.cursor() as cursor:
            cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            rows = _Rows(task, request, cursor.fetchone()[0])
        sending = Sending(namespace, request["queue"], priority=request["priority"])
        rows.make(first)

        def more() -> bool:
            return len(rows.jobs) < PORTION and rows.make(islice(remaining, STEP))

        # Who waits for whom would take the sum of both times: so the next rows are made while these are written.
        # Where the database is quicker than this, nothing was made meanwhile.
        while rows.messages or rows.make(islice(remaining, FIRST)):
            jobs, messages = rows.take()
            copy(_JOBS, jobs, more)
            sending.send(messages, more)
        sending.finish()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify('msgweb_job', %s)", [str(rows.ids[-1])])
    return rows.ids


class _Rows:
    """Rows in the making, for COPY in binary.

    Args:
        request: of one of the jobs, for what they share.
        moment: of the first, in microseconds since 1970; the others follow a microsecond apart, so that lists and
            queues show them in their order.

    Attributes:
        ids: of all of them.
    """

    def __init__(self, task: Task[..., Any], request: Mapping[str, Any], moment: int) -> None:
        self._task = task
        self._request = request
        self._moment = moment
        self._new_ids: Iterator[UUID] = ids_from(moment)
        self._shared = b"".join(map(field, _shared(request, moment)))
        self.ids: list[UUID] = []
        self.jobs: list[bytes] = []
        self.messages: list[tuple[bytes, bytes]] = []

    def take(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """What was made, for the table of jobs and the queue."""
        taken = self.jobs, self.messages
        self.jobs, self.messages = [], []
        return taken

    def make(self, arguments: Iterable[Mapping[str, Any]]) -> bool:
        """Make the rows of these jobs. Says whether there were any.

        Raises:
            BadArguments, LimitExceeded: as `enqueue_many`.
        """
        task, shared, checked = self._task, self._shared, self._task.checked
        name, columns = task.name, len(_COLUMNS)
        first = moment = self._moment + len(self.ids) - _EPOCH
        limited = task.options.concurrency is not None or task.options.rate is not None
        limits = field(None)
        for one in arguments:
            job_id = next(self._new_ids)
            text = checked(one).encode()
            if limited:
                found = task.options.limits(self._request["namespace"], name, task.named(one))
                limits = field(_JSONB + to_json(found).encode())
            raw = job_id.bytes
            head = _JOB_HEAD.pack(columns, 16, raw, 8, moment, len(text) + 1, _JSONB)
            self.jobs.append(b"%b%b%b%b" % (head, text, limits, shared))
            self.messages.append((message_headers(name, str(job_id).encode()), text))
            self.ids.append(job_id)
            moment += 1
        return moment > first


def _shared(request: Mapping[str, Any], moment: int) -> list[bytes | None]:
    """The columns from `namespace` on, which are the same for all."""
    given = request.get
    expires, timeout, batch = given("expires"), given("timeout"), given("batch")
    return [
        *(request[name].encode() for name in ("namespace", "task", "queue")),
        *(_SHORT(request["priority"]), b"ready", _INTEGER(0), _INTEGER(0), _INTEGER(request["max_attempts"])),
        *(_INTEGER(0), b"", b"", b"\0", given("requested_by", "").encode()),
        None if expires is None else _LONG(moment - _EPOCH + round(expires * 1_000_000)),
        None if timeout is None else _DOUBLE(timeout),
        given("on_death", "resume").encode(),
        batch and UUID(batch).bytes,
        b"\1",
    ]
