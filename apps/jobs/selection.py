"""Jobs that match a filter, and what is done with all of them."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from django.db.models import QuerySet

from apps.jobs import control
from apps.jobs.listing import newest
from apps.jobs.models import Job
from msgweb.errors import BadRequest, Conflict, NotFound

PORTION = 500

#: What can be done with many jobs, beside editing them.
ACTIONS: dict[str, Callable[[uuid.UUID, str], Job]] = {
    "cancel": control.cancel,
    "retry": control.retry,
    "hold": control.hold,
    "release": control.release,
    "rerun": control.rerun,
}
EDIT = "edit"  # which needs changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which jobs; every field that is given must fit.

    Attributes:
        namespaces: those that the asker may enter; None: all.
        error: the code of the latest error.
    """

    ids: Sequence[uuid.UUID] | None = None
    state: str | None = None
    task: str | None = None
    queue: str | None = None
    namespace: str | None = None
    namespaces: Sequence[str] | None = None
    batch: uuid.UUID | None = None
    error: str | None = None
    held: bool | None = None
    before: datetime | None = None
    after: datetime | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in Job.State.values:
            raise BadRequest(f"a state is one of {', '.join(Job.State.values)}, not {self.state!r}")

    def jobs(self) -> "QuerySet[Job]":
        """The jobs."""
        conditions = {
            "id__in": self.ids,
            "state": self.state,
            "task": self.task,
            "queue": self.queue,
            "namespace": self.namespace,
            "namespace__in": self.namespaces,
            "batch_id": self.batch,
            "error__code": self.error,
            "created_at__lt": self.before,
            "created_at__gte": self.after,
        }
        found = Job.objects.filter(**{name: value for name, value in conditions.items() if value is not None})
        return found if self.held is None else found.filter(held_at__isnull=not self.held)

    def newest(self, most: int) -> "QuerySet[Job]":
        """The newest of them, the newest first. If more than state, namespace and task is asked for, all are sorted."""
        if self != Selection(state=self.state, namespace=self.namespace, task=self.task):
            return self.jobs()[:most]
        return Job.objects.filter(id__in=newest(most, state=self.state, namespace=self.namespace, task=self.task))


@dataclass(slots=True)
class Done:
    """What became of them.

    Attributes:
        done: how many it was done with.
        refused: how many of them could not, as they are.
        reasons: why, of the first of those.
        last: where to go on: the id of the last job looked at, when there are more.
    """

    done: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    last: uuid.UUID | None = None


def apply(
    action: str,
    selection: Selection,
    by: str,
    *,
    changes: control.Changes | None = None,
    most: int | None = None,
    beyond: uuid.UUID | None = None,
    may: Callable[[Job], bool] | None = None,
) -> Done:
    """Do something with all jobs of a selection: a transaction for each, so that what one refuses stops none.

    Args:
        action: one of ACTIONS, or `edit`.
        by: who wants it, for people.
        changes: what `edit` changes.
        most: look at no more than so many; the answer says where to go on.
        beyond: go on after that job.
        may: whether the asker may do it with a job; others are passed over.

    Raises:
        BadRequest: there is no such action; changes without `edit`, or none with it.
    """
    if action not in (*ACTIONS, EDIT):
        raise BadRequest(f"an action is one of {', '.join((*ACTIONS, EDIT))}, not {action!r}")
    if (action == EDIT) != (changes is not None and changes != control.Changes()):
        raise BadRequest(
            "say what to change: priority, queue or run_at" if action == EDIT else "only edit changes jobs"
        )
    act = partial(control.edit, changes=changes) if action == EDIT else ACTIONS[action]
    answer = Done()
    looked_at = 0
    # Those that the action itself makes, or puts into the selection, are not looked at.
    jobs = selection.jobs().filter(created_at__lte=_now())
    while most is None or looked_at < most:
        portion = PORTION if most is None else min(PORTION, most - looked_at)
        rows = jobs.order_by("id") if beyond is None else jobs.filter(id__gt=beyond).order_by("id")
        found = list(rows.only("id", "namespace", "task", "requested_by")[:portion])
        if not found:
            return answer
        for job in found:
            if may is not None and not may(job):
                continue
            try:
                act(job.id, by)
                answer.done += 1
            except (Conflict, NotFound, BadRequest) as error:
                answer.refused += 1
                if len(answer.reasons) < 10:
                    answer.reasons.append(error.message)
        looked_at += len(found)
        beyond = found[-1].id
    answer.last = beyond
    return answer


def _now() -> datetime:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment
