"""What a worker outside says about the job that it works on: any STOMP consumer of a task's queue, such as PHP.

A gateway begins an attempt when it hands the job's message out (`workers.outside`), and names the attempt with each
word of that consumer: the fence. What is said of an attempt that is not the job's any more is dropped.

Who has the job's message from elsewhere takes the job by the first thing that it says, within the job's limits. Its
word counts while the job runs; what comes after the end (a repeat, a late line) is dropped.

Words that waited for each other are recorded together: one lock of the job's row, one statement for all events, and one
COMMIT. Of progress that nothing was shown after, the latest is kept; of the log, what `apps.jobs.log_limit` admits.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from apps.broker import outbox
from apps.jobs import registry, replies
from apps.jobs.channels import EVENTS
from apps.jobs.ending import finish, locked, notify
from apps.jobs.errors import UnknownJob
from apps.jobs.log_limit import COUNTED, LogLimiter
from apps.jobs.models import Attempt, Event, Job
from apps.jobs.queries import query
from apps.jobs.recorder import uuid_array
from apps.jobs.words import Ending, Lines, Mark, Meaning
from msgweb.errors import Conflict, MsgwebError

log = logging.getLogger(__name__)

TIMEOUT = {"code": "timeout", "message": "it took too long", "traceback": ""}


class Said(NamedTuple):
    """A word.

    Attributes:
        at: when it came.
        event: its `job-event`.
        meaning: or what is wrong with it.
    """

    at: datetime
    event: str
    meaning: Meaning | MsgwebError


class Heard(NamedTuple):
    """What became of a word.

    Attributes:
        counted: it was recorded; else it was dropped, since the job has ended, or the attempt is not its any more.
        state: the job's, then.
    """

    counted: bool
    state: str


def hear(
    namespace: str,
    job_id: uuid.UUID,
    words: Sequence[Said],
    said_by: str,
    limiter: LogLimiter,
    *,
    attempt: int | None = None,
    ending: str | None = None,
    last: bool = False,
) -> list[Heard | MsgwebError]:
    """Record what a worker outside says, all of it or, where this raises, nothing.

    Args:
        namespace: where the speaker is; the job must be of the same.
        words: about one attempt, in their order.
        said_by: the login of the speaker.
        limiter: of the log of that attempt.
        attempt: of which it is said; None: the speaker does not know.
        ending: why the speaker was asked to stop: `cancelled`, `timeout`, or None.
        last: it says nothing more of that attempt, so the log is told what was left out of it. So it is by an end.

    Returns:
        What became of each word. An error: that one means nothing; or a worker of ours has the job, or it may not begin
        now (Conflict). The others count all the same.

    Raises:
        UnknownJob: there is none of that id here.
    """
    with transaction.atomic():
        job = locked(job_id)
        if job.namespace != namespace:
            raise UnknownJob(f"there is no job {job_id}")
        hearing = _Hearing(job, said_by, limiter, attempt, ending)
        answers = [hearing.hear(word) for word in words]
        if last and hearing.concerns("log"):
            hearing.close_log()
        hearing.record()
    return answers


class _Hearing:
    """The words of one transaction. The job's row is locked."""

    def __init__(self, job: Job, said_by: str, limiter: LogLimiter, attempt: int | None, ending: str | None) -> None:
        self._job = job
        self._said_by = said_by
        self._limiter = limiter
        self._attempt = attempt
        self._ending = ending
        self._rows: list[tuple[datetime, Event.Kind, dict[str, Any]]] = []  # events that are yet to be written
        self._mark: tuple[datetime, Mark] | None = None  # the latest progress, if nothing was shown after it
        self._shown: tuple[datetime, Mark] | None = None  # the latest that is among the rows
        self._refusal: MsgwebError | None = None  # why the job may not begin
        self._outside: bool | None = None  # whether the attempt at work is a worker's outside; None: not looked at yet

    def hear(self, word: Said) -> Heard | MsgwebError:
        """What becomes of a word."""
        job = self._job
        if not self.concerns(word.event):
            log.debug("job %s is %s: %s by %s is dropped", job.id, job.state, word.event, self._said_by)
            return Heard(False, job.state)
        at, _, meaning = word
        if isinstance(meaning, MsgwebError):
            return meaning
        if job.state == Job.State.RUNNING:
            if self._attempt is None and job.worker is not None and not self._is_outside():
                return Conflict(f"job {job.id} is at work elsewhere")
        elif self._refusal is None:
            self._refusal = self._take()
        if self._refusal is not None:
            return self._refusal
        if job.state != Job.State.RUNNING:  # it has expired
            return Heard(False, job.state)
        if isinstance(meaning, Mark):
            self._mark = at, meaning
        elif isinstance(meaning, Lines):
            self._add(at, meaning)
        else:
            self.close_log()
            self.record()
            self._end(meaning)
        return Heard(True, job.state)

    def concerns(self, event: str) -> bool:
        """Whether such a word counts: the attempt is at work; or its worker was lost, nobody has taken the job up
        since, and here is its end all the same."""
        job, attempt = self._job, self._attempt
        if job.is_final:
            return False
        if attempt is None:
            return True
        if job.attempt != attempt:
            return False
        if job.state == Job.State.RUNNING:
            return self._is_outside()
        if event not in ("result", "error"):
            return False
        outcome = Attempt.objects.filter(job=job, number=attempt).values_list("outcome", flat=True).first()
        return outcome == Attempt.Outcome.INTERRUPTED

    def close_log(self) -> None:
        """It gets no more lines: what was left out is told."""
        if self._limiter.left_out:
            self._show_mark()
            self._show_notice(timezone.now(), self._limiter.left_out)

    def record(self) -> None:
        """Write what there is to be shown."""
        self._show_mark()
        if not self._rows:
            return
        job = self._job
        events: dict[str, Any] = {
            "ids": uuid_array([job.id] * len(self._rows)),
            "ats": [at for at, _, _ in self._rows],
            "kinds": [kind.value for _, kind, _ in self._rows],
            "data": [json.dumps(data, ensure_ascii=False) for _, _, data in self._rows],
        }
        self._rows.clear()
        with connection.cursor() as cursor:
            cursor.execute(query("append_events"), events)
            if self._shown is not None:
                at, mark = self._shown
                progress: dict[str, Any] = {
                    "ids": [job.id],
                    "ats": [at],
                    "dones": [mark.done],
                    "totals": [mark.total],
                    "texts": [mark.text],
                }
                cursor.execute(query("set_progress"), progress)
        if self._shown is not None and job.reply_to and job.wants_progress:
            self._tell_asker(self._shown[1])
        self._shown = None
        notify(EVENTS, job.id)

    def _is_outside(self) -> bool:
        if self._outside is None:
            job = self._job
            self._outside = Attempt.objects.filter(job=job, number=job.attempt, pid=None).exists()
        return self._outside

    def _add(self, at: datetime, lines: Lines) -> None:
        left_out = self._limiter.left_out
        if self._limiter.uncounted >= COUNTED:  # the worker may have spoken over another connection before
            self._limiter.count(self._recorded_lines())
        kept = self._limiter.admit(len(lines))
        if kept:
            self._show_mark()  # it keeps its place before the line
            self._show_notice(at, left_out)
            for text in lines.first(kept):
                self._rows.append((at, Event.Kind.LOG, {"level": lines.level, "text": text}))

    def _recorded_lines(self) -> int:
        """Of this attempt's log, those that are to be written by this transaction included."""
        with connection.cursor() as cursor:
            cursor.execute(query("lines_of_attempt"), {"id": self._job.id})
            recorded: int = cursor.fetchone()[0]
        return recorded + sum(kind == Event.Kind.LOG for _, kind, _ in self._rows)

    def _show_mark(self) -> None:
        if self._mark is not None:
            self._rows.append((self._mark[0], Event.Kind.PROGRESS, _data(self._mark[1])))
            self._shown, self._mark = self._mark, None

    def _show_notice(self, at: datetime, count: int) -> None:
        notice = self._limiter.notice(count)
        if notice is not None:
            self._rows.append((at, Event.Kind.LOG, {"level": "warning", "text": notice}))

    def _tell_asker(self, mark: Mark) -> None:
        """Of a transaction's progress, the latest: the lines between are not for the asker."""
        job = self._job
        headers = replies.reply_headers(job.id, job.correlation_id, "progress")
        body = json.dumps(_data(mark), ensure_ascii=False)
        try:
            with transaction.atomic():  # a savepoint: what was said matters more
                outbox.send(job.namespace, job.reply_to, body, headers=headers, persistent=False)
        except MsgwebError as error:
            log.debug("job %s: its asker is not told of its progress: %s", job.id, error)

    def _end(self, meaning: Ending) -> None:
        job = self._job
        if meaning.outcome != "succeeded" and self._ending == "timeout":
            meaning = Ending("failed", error=TIMEOUT)
        if meaning.outcome == "succeeded":
            finish(job, "succeeded", result=meaning.result)
        elif meaning.outcome == "cancelled":
            finish(job, "cancelled", text="its worker stopped")
        else:
            pause = registry.pause_after(job.task, job.failures + 1)
            finish(job, "failed", error=meaning.error, again=meaning.again, pause=pause)

    def _take(self) -> MsgwebError | None:
        """Begin an attempt by one's word alone. The job is running then, or has expired, or this is why it may not
        begin."""
        job = self._job
        self._outside = None
        if job.held_at is not None or job.waits_for.exists():
            return Conflict(f"job {job.id} is held back, or waits for others: leave it")
        if job.attempt == 0 and job.expires_at is not None and job.expires_at <= timezone.now():
            finish(job, "expired")
            return None
        with connection.cursor() as cursor:
            if job.limits is not None:
                cursor.execute(query("admit"), {"ids": [job.id]})
                if cursor.fetchone()[1] != "go":
                    job.refresh_from_db()
                    return Conflict(f"job {job.id} waits for its turn at a limit: leave it")
            cursor.execute(
                query("start"),
                {
                    "ids": [job.id],
                    "deliveries": [job.delivery],
                    "again": [job.id],
                    "worker": None,
                    "host": self._said_by[:255],
                    "pid": None,
                },
            )
        job.refresh_from_db()
        return None


def _data(mark: Mark) -> dict[str, Any]:
    return {"done": mark.done, "total": mark.total, "text": mark.text}
