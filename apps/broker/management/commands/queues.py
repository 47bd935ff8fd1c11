"""`manage.py queues`: look at queues, set them, and do things to them."""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.broker import catalogue, queue_actions, queue_settings, statistics
from msgweb.errors import MsgwebError


class Command(BaseCommand):
    help = (
        "Look at queues, set them, purge, pause and delete them, redrive dead letters, replay kept messages. "
        "`queues ACTION --help` says more."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, description: str, *, queue: bool = True) -> ArgumentParser:
            sub: ArgumentParser = actions.add_parser(name, help=description, description=description)
            sub.add_argument("namespace", help="such as taoshop.production")
            if queue:
                sub.add_argument("queue", help="its name, without /queue/")
            return sub

        action("list", "The queues of a namespace, with what waits in them.", queue=False)
        action("show", "A queue's settings.")
        stats = action("stats", "What happened at a queue: counts and gauges for each span of time.")
        stats.add_argument("--last", type=int, default=600, metavar="SECONDS", help="how far back (default 600)")
        stats.add_argument("--every", type=int, default=60, metavar="SECONDS", help="a line for each span (default 60)")
        setting = action("set", f"Change settings: {', '.join(queue_settings.NAMES)}. The queue is made if missing.")
        setting.add_argument("settings", nargs="+", metavar="NAME=VALUE", help="such as message_ttl=5m max_length=10k")
        unset = action("unset", "Set settings back to their defaults.")
        unset.add_argument("settings", nargs="+", metavar="NAME")
        action("pause", "Take messages, deliver none.")
        action("resume", "Deliver again.")
        action("purge", "Remove what waits; what a consumer holds stays.")
        delete = action("delete", "Remove a queue.")
        delete.add_argument("--force", action="store_true", help="although it has messages or consumers")
        redrive = action("redrive", "Send dead letters back to where they came from.")
        redrive.add_argument("--id", action="append", type=int, dest="ids", help="this one alone; may be repeated")
        redrive.add_argument("--reason", choices=["expired", "max-deliveries", "rejected", "overflow"])
        redrive.add_argument("--to", metavar="QUEUE", help="to this queue instead")
        redrive.add_argument("--most", type=int, metavar="N", help="at most so many")
        browse = action("browse", "Messages of a queue, without taking them.")
        browse.add_argument("--state", choices=["ready", "held", "parked", "delayed"], default="ready")
        browse.add_argument("--after", type=int, default=0, metavar="N", help="pass over so many")
        browse.add_argument("--limit", type=int, default=20, metavar="N")
        kept = action("kept", "Messages that were acked and are kept, the newest first.")
        kept.add_argument("--header", metavar="NAME=VALUE")
        kept.add_argument("--correlation-id", metavar="ID")
        kept.add_argument("--since", type=datetime.fromisoformat, metavar="TIME", help="ISO 8601: acked from then on")
        kept.add_argument("--until", type=datetime.fromisoformat, metavar="TIME")
        kept.add_argument("--before", type=int, metavar="ID", help="the next page")
        kept.add_argument("--limit", type=int, default=20, metavar="N")
        replay = action("replay", "Send kept messages again, as new ones.")
        replay.add_argument("ids", nargs="+", type=int, metavar="ID")
        replay.add_argument("--to", metavar="QUEUE", help="to this queue instead")

    def handle(self, *, action: str, **options: Any) -> None:
        run: Callable[..., Any] = getattr(self, f"_{action}")
        queue = [options["queue"]] if "queue" in options else []
        try:
            result = run(options, options["namespace"], *queue)
        except MsgwebError as error:
            raise CommandError(f"{error.code}: {error.message}") from error
        self._print(result, as_json=options["json"])

    def _list(self, options: dict[str, Any], namespace: str) -> Any:
        return [asdict(queue) for queue in catalogue.queues(namespace)]

    def _show(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return asdict(queue_settings.get(namespace, queue))

    def _stats(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        queue_settings.get(namespace, queue)  # says so if there is none
        last, every = options["last"], options["every"]
        if every < 10 or not every <= last <= 10_000 * every:
            raise CommandError("--every is 10 seconds or more, and --last one to 10,000 times that")
        until = timezone.now()
        points = statistics.series(namespace, queue, until - timedelta(seconds=last), until, resolution=every)
        return [asdict(point) for point in points]

    def _set(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        settings: dict[str, Any] = {}
        for text in options["settings"]:
            name, equals, value = text.partition("=")
            if not equals:
                raise CommandError(f"give NAME=VALUE, such as message_ttl=5m, not {text!r}")
            settings[name] = value
        return asdict(queue_settings.change(namespace, queue, settings))

    def _unset(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return asdict(queue_settings.change(namespace, queue, dict.fromkeys(options["settings"])))

    def _pause(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return asdict(queue_settings.change(namespace, queue, {"paused": True}))

    def _resume(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return asdict(queue_settings.change(namespace, queue, {"paused": False}))

    def _purge(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return {"removed": queue_actions.purge(namespace, queue)}

    def _delete(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return {"removed": queue_actions.delete(namespace, queue, force=options["force"])}

    def _redrive(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        moved = queue_actions.redrive(
            namespace, queue, ids=options["ids"], reason=options["reason"], to=options["to"], most=options["most"]
        )
        return {"moved": moved}

    def _browse(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        page = queue_actions.browse(
            namespace, queue, state=options["state"], after=options["after"], limit=options["limit"]
        )
        return [asdict(message) for message in page]

    def _kept(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        header = None
        if options["header"] is not None:
            name, _, value = options["header"].partition("=")
            header = (name, value)
        wanted = {name: options[name] for name in ("before", "since", "until", "correlation_id", "limit")}
        return [asdict(message) for message in queue_actions.kept(namespace, queue, header=header, **wanted)]

    def _replay(self, options: dict[str, Any], namespace: str, queue: str) -> Any:
        return {"sent": queue_actions.replay(namespace, queue, options["ids"], to=options["to"])}

    def _print(self, result: Any, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(result, default=_plain, indent=2))
        elif isinstance(result, list):
            for row in result:
                self.stdout.write("  ".join(f"{name}={_shown(value)}" for name, value in row.items()))
        else:
            for name, value in result.items():
                self.stdout.write(f"{name} = {_shown(value)}")


def _plain(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return repr(value[:80].decode(errors="replace"))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
