"""`manage.py jobs`: look at jobs, and do something with one or all that match."""

import json
import uuid
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_datetime

from apps.jobs import control
from apps.jobs.models import Job
from apps.jobs.selection import ACTIONS, EDIT, Selection, apply
from msgweb.errors import MsgwebError

BY = "manage.py jobs"


class Command(BaseCommand):
    help = (
        "List jobs, or do something with one or all that match, such as: "
        "manage.py jobs retry --task shop.mail --state failed"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["list", *ACTIONS, EDIT])
        parser.add_argument("ids", nargs="*", type=uuid.UUID, metavar="ID")
        parser.add_argument("--state", choices=Job.State.values)
        parser.add_argument("--task")
        parser.add_argument("--queue")
        parser.add_argument("--namespace")
        parser.add_argument("--batch", type=uuid.UUID)
        parser.add_argument("--error", metavar="CODE", help="whose latest error has this code")
        parser.add_argument("--held", action="store_true", default=None, help="that are held back")
        parser.add_argument("--before", metavar="MOMENT", help="asked for before, such as 2026-11-26T12:00:00Z")
        parser.add_argument("--after", metavar="MOMENT", help="asked for at or after")
        parser.add_argument("--all", action="store_true", help="without ids or conditions: yes, all of them")
        parser.add_argument("--limit", type=int, help="no more than so many (list: 20)")
        parser.add_argument("--arguments", metavar="JSON", help="with edit or rerun, of one job: instead of its own")
        parser.add_argument("--priority", type=int, help="with edit: from now on, 0 to 9")
        parser.add_argument("--to-queue", metavar="QUEUE", help="with edit: move to this queue")
        parser.add_argument("--run-at", metavar="MOMENT", help="with edit: not before, such as 2026-11-26T12:00:00Z")

    def handle(self, *args: Any, action: str, ids: list[uuid.UUID], **options: Any) -> None:
        try:
            if options["arguments"] is not None:
                self._one(action, ids, options)
                return
            names = ("state", "task", "queue", "namespace", "batch", "error", "held")
            given = {name: options[name] for name in names if options[name] is not None}
            given |= {name: _moment(options[name]) for name in ("before", "after") if options[name]}
            selection = Selection(ids=ids or None, **given)
            if action == "list":
                self._list(selection, options["limit"] or 20)
                return
            if not ids and not given and not options["all"]:
                raise CommandError("name jobs or conditions; --all if you mean all of them")
            answer = apply(action, selection, BY, changes=_changes(options), most=options["limit"])
        except MsgwebError as error:
            raise CommandError(f"{error.code}: {error.message}") from error
        self.stdout.write(f"{action}: {answer.done:,} done, {answer.refused:,} refused")
        for reason in answer.reasons:
            self.stderr.write(reason)
        if ids and answer.done == 0:
            raise CommandError("nothing was done")

    def _one(self, action: str, ids: list[uuid.UUID], options: dict[str, Any]) -> None:
        if len(ids) != 1 or action not in (EDIT, "rerun"):
            raise CommandError("arguments can be given with edit and rerun, of one job")
        try:
            arguments = json.loads(options["arguments"])
        except ValueError as error:
            raise CommandError(f"the arguments are no JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise CommandError("the arguments are a JSON object")
        if action == EDIT:
            job = control.edit(ids[0], BY, _changes(options), arguments=arguments)
        else:
            job = control.rerun(ids[0], BY, arguments=arguments)
        self.stdout.write(f"{job.id} {job.state}")

    def _list(self, selection: Selection, limit: int) -> None:
        for job in selection.newest(limit):
            error = f"  {job.error['code']}: {job.error['message'][:60]}" if job.error else ""
            held = " held" if job.held_at else ""
            self.stdout.write(f"{job.id}  {job.created_at:%Y-%m-%d %H:%M:%S}  {job.state}{held:5}  {job.task}{error}")


def _changes(options: dict[str, Any]) -> control.Changes | None:
    run_at = _moment(options["run_at"]) if options["run_at"] else None
    changes = control.Changes(priority=options["priority"], queue=options["to_queue"], run_at=run_at)
    return None if changes == control.Changes() else changes


def _moment(text: str) -> Any:
    moment = parse_datetime(text)
    if moment is None or moment.tzinfo is None:
        raise CommandError(f"{text!r} is no moment with a time zone, such as 2026-11-26T12:00:00Z")
    return moment
