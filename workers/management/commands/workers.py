"""`manage.py workers`: which there are, and what they are told."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from msgweb.errors import MsgwebError
from workers import orders


class Command(BaseCommand):
    help = "List the workers that are alive, or tell one or all of them what to do."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("list", help="those that are alive")
        for name, description in (
            ("pause", "take no more jobs; those at work go on"),
            ("resume", "take jobs again"),
            ("resize", "have so many slots: more at once, fewer as their jobs end"),
            ("stop", "take no more jobs, and end when those at work are done"),
        ):
            sub = actions.add_parser(name, help=description, description=description)
            sub.add_argument("worker", help="its number, as `list` shows it; or all")
            if name == "resize":
                sub.add_argument("slots", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        alive = orders.workers()
        if options["action"] == "list":
            for worker in alive:
                self.stdout.write(f"{worker.session}\t{worker.host}\tpid {worker.pid}\t{_described(worker.details)}")
            return
        by = getpass.getuser()
        try:
            chosen = [w.session for w in alive] if options["worker"] == "all" else [int(options["worker"])]
            for session in chosen:
                match options["action"]:
                    case "resize":
                        orders.give(session, by, slots=options["slots"])
                    case "stop":
                        orders.give(session, by, stop=True)
                    case action:
                        orders.give(session, by, paused=action == "pause")
        except ValueError as error:
            raise CommandError(f"{options['worker']!r} is no worker's number") from error
        except MsgwebError as error:
            raise CommandError(error.message) from error


def _described(details: dict[str, Any]) -> str:
    state = "draining" if details.get("draining") else "paused" if details.get("paused") else "at work"
    queues = ", ".join(details.get("queues") or [])
    return f"{state}, {details.get('slots')} slots, queues {queues}"
