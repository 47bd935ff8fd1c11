"""Ask for many jobs of a task at once, by COPY, inside the caller's own transaction."""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from apps.broker.bulk import Sending, copy, field
from apps.jobs.asking import Ask, message_headers, request_of
from apps.jobs.ids import id_of, raw_ids_from, text_of
from apps.jobs.registry import Task, to_json
from apps.jobs.submit import ask_for
from msgweb.errors import BadRequest

PORTION = 10_000  # jobs of a COPY, and those beside it that are in the making: each COPY costs as much as some 50 jobs
BYTES = 8 << 20  # of jobs of a COPY, and of those in the making
STEP = 20  # jobs that are made ready between two looks at whether the database takes more
_JSONB = b"\1"  # the version of jsonb's binary form, which is text otherwise
_EPOCH = 946_684_800_000_000  # microseconds from 1970 to 2000, where Postgres begins to count
#: What each job has of its own; the number of columns is before them.
_OWN = ("id", "created_at", "arguments", "limits")
#: The number of columns, an id, a moment; the length of the arguments and the version of jsonb too.
_JOB_HEAD = struct.Struct(">hi16siqi1s").pack
_SHORT, _INTEGER, _LONG, _DOUBLE = (struct.Struct(code).pack for code in (">h", ">i", ">q", ">d"))
#: Of a request: what a job has unless it is said, by the defaults of the table's columns.
_USUAL = {"priority": 4, "max_attempts": 1, "requested_by": "", "on_death": "resume"}
#: Of an Ask: what needs more than a row and a message.
_SLOW = ("reply_to", "correlation_id", "wants_progress", "delay", "run_at", "after", "hold")


def enqueue_many(
    task: Task[..., Any], namespace: str, arguments: Iterable[Mapping[str, Any]], ask: Ask | None = None
) -> list[UUID]:
    """Ask for a job with each of these arguments, in their order. Nobody sees one before COMMIT.

    Jobs of a unique task, those with a reply and those that begin later are asked for one by one, which is slower.

    Args:
        arguments: quickest as a list: rows are made while those before are written. What makes them one by one may
            use the same connection, so it is asked between the statements that write.
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
        first = list(islice(remaining, 1))
        if not first:
            return []
        # What all of them share is checked once.
        request = request_of(task, namespace, first[0], ask)
        with connection.cursor() as cursor:
            cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            moment = cursor.fetchone()[0]
        sending = Sending(namespace, request["queue"], priority=request["priority"])
        rows = _Rows(task, request, moment, sending, chain(first, remaining))
        at_hand = isinstance(arguments, Sequence)

        def more() -> bool:
            return (at_hand and rows.make_ahead()) or rows.name()

        # Who waits for whom would take the sum of both times: so the next rows are made while these are written.
        while rows.jobs or rows.make():
            while not at_hand and rows.make_ahead():
                pass
            copy(rows.statement, rows.portion(at_hand=at_hand), more)
            rows.send(more)
        sending.finish()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify('msgweb_job', %s)", [rows.last_id])
    while rows.name():
        pass
    return rows.ids


class _Rows:
    """Rows in the making, for COPY in binary.

    Args:
        request: of one of the jobs, for what they share.
        moment: of the first, in microseconds since 1970; the others follow a microsecond apart, so that lists and
            queues show them in their order.

    Attributes:
        ids: of those that were named.
        jobs: those that no COPY has taken yet.
        ahead: bytes of jobs since the last COPY ended, of those that it took, too.
    """

    def __init__(
        self,
        task: Task[..., Any],
        request: Mapping[str, Any],
        moment: int,
        sending: Sending,
        arguments: Iterator[Mapping[str, Any]],
    ) -> None:
        self._task = task
        self._namespace = request["namespace"]
        self._moment = moment - _EPOCH
        self._new_ids = raw_ids_from(moment)
        self._sending = sending
        self._arguments = arguments
        self._limited = task.options.concurrency is not None or task.options.rate is not None
        self._message = _message_rows(sending, task.name) if sending.plain else partial(_message, task.name)
        shared = _shared(request, moment)
        columns = [*_OWN[: 4 if self._limited else 3], *shared]
        self._columns = len(columns)
        self._shared = b"".join(map(field, shared.values()))
        self.statement = f"COPY jobs_job ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
        self.ids: list[UUID] = []
        self._raw_ids: list[bytes] = []
        self.jobs: deque[bytes] = deque()
        self.ahead = 0
        self._messages: deque[Any] = deque()
        self._due: list[Any] = []

    def make_ahead(self) -> bool:
        """Make the rows of a few jobs, unless there are enough for a COPY. Says whether there were any."""
        return self.ahead < BYTES and len(self.jobs) < PORTION and self.make()

    def portion(self, *, at_hand: bool) -> Iterator[bytes]:
        """The jobs of a COPY: those that are there, then more as they are made, if the arguments are at hand."""
        jobs, messages, due, size = self.jobs, self._messages, self._due, 0
        while len(due) < PORTION and size < BYTES and (jobs or (at_hand and self.make())):
            row = jobs.popleft()
            due.append(messages.popleft())
            size += len(row)
            yield row
        self.ahead -= size

    def name(self) -> bool:
        """Make the ids of a few jobs for the caller, which may be done last. Says whether there were any."""
        before = len(self.ids)
        self.ids += map(id_of, self._raw_ids[before : before + STEP])
        return len(self.ids) > before

    @property
    def last_id(self) -> str:
        """Of the last job."""
        return str(id_of(self._raw_ids[-1]))

    def send(self, meanwhile: Callable[[], bool]) -> None:
        """Send the messages of the jobs that were written.

        Raises:
            QueueFull: as `Sending.send`.
        """
        due, self._due = self._due, []
        (self._sending.send_rows if self._sending.plain else self._sending.send)(due, meanwhile)

    def make(self) -> bool:
        """Make the rows of a few jobs. Says whether there were any.

        Raises:
            BadArguments, LimitExceeded: as `enqueue_many`.
        """
        task, checked, shared, columns = self._task, self._task.checked, self._shared, self._columns
        add_id, add_job, add_message = self._raw_ids.append, self.jobs.append, self._messages.append
        first = moment = self._moment + len(self._raw_ids)
        message = self._message
        limits = b""
        for one in islice(self._arguments, STEP):
            text = checked(one).encode()
            if self._limited:
                found = task.options.limits(self._namespace, task.name, task.named(one))
                limits = field(_JSONB + to_json(found).encode())
            raw = next(self._new_ids)
            head = _JOB_HEAD(columns, 16, raw, 8, moment, len(text) + 1, _JSONB)
            row = b"%b%b%b%b" % (head, text, limits, shared)
            add_job(row)
            add_message(message(text_of(raw), text))
            add_id(raw)
            self.ahead += len(row)
            moment += 1
        return moment > first


def _message(task: str, job: bytes, body: bytes) -> tuple[bytes, bytes]:
    """A job's first message, for `Sending.send`."""
    return message_headers(task, job), body


def _message_rows(sending: Sending, task: str) -> Callable[[bytes, bytes], bytes]:
    """What makes the rows of such messages, from a job's id and the body, for `Sending.send_rows`."""
    nobody = bytes(36)
    before, between, behind = message_headers(task, nobody).split(nobody)
    begin = sending.row_until_headers + _INTEGER(len(before + between + behind) + 2 * len(nobody)) + before

    def row(job: bytes, body: bytes) -> bytes:
        return b"%b%b%b%b%b%b%b" % (begin, job, between, job, behind, _INTEGER(len(body)), body)

    return row


def _shared(request: Mapping[str, Any], moment: int) -> dict[str, bytes]:
    """The columns that are the same for all, and not as usual."""
    given = {name: request[name] for name, usual in _USUAL.items() if request.get(name, usual) != usual}
    encoders = {"priority": _SHORT, "max_attempts": _INTEGER, "requested_by": str.encode, "on_death": str.encode}
    shared = {name: request[name].encode() for name in ("namespace", "task", "queue")}
    shared.update((name, encoders[name](value)) for name, value in given.items())
    if (expires := request.get("expires")) is not None:
        shared["expires_at"] = _LONG(moment - _EPOCH + round(expires * 1_000_000))
    if (timeout := request.get("timeout")) is not None:
        shared["timeout"] = _DOUBLE(timeout)
    if batch := request.get("batch"):
        shared["batch_id"] = UUID(batch).bytes
    return {**shared, "born_ready": b"\1"}
