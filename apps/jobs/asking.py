"""What a request for a job says: checked against its task, and put into the one statement that asks. No I/O."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.broker.headers import escape_header
from apps.jobs import replies
from apps.jobs.ids import new_id
from apps.jobs.registry import Task, to_json
from msgweb.errors import BadArguments, BadMessage, BadRequest

CORRELATION_LIMIT = 255
LONGEST = 3e9  # seconds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Of a request: what makes it more than a row, an event and a message that is ready.
SPECIAL = frozenset(
    {
        *(
            "reply_to",
            "correlation_id",
            "wants_progress",
            "delay",
            "run_at",
            "chain_argument",
            "after_any",
            "after",
            "hold",
        ),
        "unique_key",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How a job is asked for, beside its task and its arguments.

    Attributes:
        job_id: the asker's own id: to ask twice with it is to ask once.
        reply_to: where the one reply goes when the job has ended: `/queue/x`, `/topic/x`, `/reply-queue/x`.
        correlation_id: comes back with each reply.
        wants_progress: tell `reply_to` of the acceptance and of progress too.
        requested_by: who asks, for people.
        priority: 0 to 9, higher first; None: the task's.
        queue: another queue than the task's.
        delay, run_at: it begins not before so many seconds, or that moment.
        expires: seconds, from when it may begin, after which it is given up; None: the task's.
        after: jobs (or batches) that must have succeeded before it begins.
        after_any: whatever became of them.
        result_as: the argument that is given the result of what it follows.
        batch: the batch that it belongs to.
        hold: it does not begin until it is released.
    """

    job_id: uuid.UUID | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    wants_progress: bool = False
    requested_by: str = ""
    priority: int | None = None
    queue: str | None = None
    delay: float | None = None
    run_at: datetime | None = None
    expires: float | None = None
    after: Sequence[uuid.UUID] = ()
    after_any: bool = False
    result_as: str | None = None
    batch: uuid.UUID | None = None
    hold: bool = False

    def __post_init__(self) -> None:
        if self.reply_to:
            replies.check_reply_to(self.reply_to)
        if self.correlation_id and (len(self.correlation_id) > CORRELATION_LIMIT or "\0" in self.correlation_id):
            raise BadRequest(f"a correlation-id has at most {CORRELATION_LIMIT} characters, and no NUL")
        if self.priority is not None and not 0 <= self.priority <= 9:
            raise BadMessage(f"a priority is 0 to 9, not {self.priority}")
        if self.delay is not None and self.run_at is not None:
            raise BadRequest("give a delay or a moment, not both")
        for name, seconds in (("delay", self.delay), ("expires", self.expires)):
            if seconds is not None and not 0 <= seconds <= LONGEST:
                raise BadRequest(f"{name} is a number of seconds, 0 to {LONGEST:.0f}, not {seconds:g}")
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise BadRequest("run_at has no time zone")
        if self.result_as and not self.after:
            raise BadRequest("result_as names the argument for the result of what the job follows: say what that is")


def request_of(task: Task[..., Any], namespace: str, arguments: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """What `msgweb.enqueue_job` is given.

    Raises:
        BadArguments: they do not fit the task.
        LimitExceeded: they take more than 1 MiB.
    """
    checked = {**arguments, ask.result_as: None} if ask.result_as else arguments
    task.check(checked)
    options = task.options
    # Of a Django Task they take as long to tell as all else here.
    keyed = options.unique or options.concurrency or options.rate
    named = task.named(arguments) if keyed is not None else arguments
    request: dict[str, Any] = {
        "id": None if ask.job_id is None else str(ask.job_id),
        "namespace": namespace,
        "task": task.name,
        "queue": ask.queue or task.queue,
        "arguments": arguments,
        "priority": options.priority if ask.priority is None else ask.priority,
        "max_attempts": options.max_attempts,
    }
    optional = {
        "reply_to": ask.reply_to,
        "correlation_id": ask.correlation_id,
        "wants_progress": ask.wants_progress,
        "requested_by": ask.requested_by[:200].replace("\0", ""),
        "delay": ask.delay,
        "run_at": ask.run_at and ask.run_at.isoformat(),
        "expires": options.expires if ask.expires is None else ask.expires,
        "timeout": options.timeout,
        "on_death": options.on_worker_death if options.on_worker_death != "resume" else None,
        "limits": keyed and options.limits(namespace, task.name, named),
        "chain_argument": ask.result_as,
        "after_any": ask.after_any,
        "after": [str(one) for one in ask.after],
        "batch": ask.batch and str(ask.batch),
        "hold": ask.hold,
    }
    request.update((name, value) for name, value in optional.items() if value)
    if options.unique is not None:
        request["unique_key"] = options.unique.key(task.name, named)
        request["unique_states"] = sorted(options.unique.states)
        request["unique_window"] = options.unique.window
    return request


def encoded(request: Mapping[str, Any]) -> str:
    """A request as JSON.

    Raises:
        BadArguments: it is no JSON that can be kept.
    """
    try:
        return to_json(request)
    except ValueError as error:
        raise BadArguments(f"the request is no JSON: {error}") from error


def plain_values(request: Mapping[str, Any]) -> list[bytes | None] | None:
    """The same for the statement `enqueue_plain`; None: this one is not so plain.

    Raises:
        BadArguments: as `encoded`.
    """
    given = request.get
    names = [request["namespace"], request["task"], request["queue"]]
    if not SPECIAL.isdisjoint(request) or any("\0" in name for name in names):
        return None
    job = (given("id") or str(new_id())).encode()
    limits, batch = given("limits"), given("batch")
    try:
        return [
            job,
            *(name.encode() for name in names),
            to_json(request["arguments"]).encode(),
            b"\\x%b" % message_headers(request["task"], job).hex().encode(),
            b"%d" % request["priority"],
            b"%d" % request["max_attempts"],
            given("requested_by", "").encode(),
            _number(given("expires")),
            _number(given("timeout")),
            given("on_death", "resume").encode(),
            limits and to_json(limits).encode(),
            batch and batch.encode(),
        ]
    except ValueError as error:
        raise BadArguments(f"the request is no JSON: {error}") from error


#: What became of a request where there is a job now that there was not: `plain` tells its first event from its row.
NEW = frozenset({"new", "plain"})


def made(values: Sequence[bytes | None], microseconds: int | None) -> tuple[uuid.UUID, str, datetime] | None:
    """What `enqueue_plain` answered: the job's id, `plain`, and when it was made; None: it was not so plain."""
    job_id = values[0]
    if microseconds is None or job_id is None:
        return None
    return uuid.UUID(job_id.decode()), "plain", EPOCH + timedelta(microseconds=microseconds)


def _number(value: float | None) -> bytes | None:
    return None if value is None else repr(value).encode()


def message_headers(task: str, job: bytes) -> bytes:
    """The headers of a job's first message, as they are stored. `job` is its id."""
    return b"task:%b\njob-id:%b\nreply-to:/job/%b\ncontent-type:application/json\n" % (escape_header(task), job, job)


def with_id(ask: Ask) -> Ask:
    """The same, with an id of its own."""
    return ask if ask.job_id is not None else replace(ask, job_id=new_id())
