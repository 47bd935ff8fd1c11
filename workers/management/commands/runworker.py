"""`manage.py runworker`: one worker."""

import asyncio
import os
import signal
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.broker.postgres import PostgresEngine, new_process_name
from apps.jobs import registry
from msgweb.database import conninfo_of
from msgweb.pidfile import write_pid
from workers.supervisor import Options, Supervisor


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text} is not a whole number from 1")
    return number


def _names(texts: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in texts or [] for name in text.split(",") if name))


class Command(BaseCommand):
    help = (
        "Do jobs. SIGTERM or Ctrl-C: take no more and wait for those at work, as long as it takes; "
        "a second time: end them and hand them back, which costs them no attempt."
    )
    # A worker starts before the database answers, and waits for it; whoever deploys migrates.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queue", action="append", metavar="Q[,Q]", help="serve these queues (default: those of all tasks)"
        )
        parser.add_argument(
            "--namespace", action="append", metavar="N[,N]", help="in these namespaces (default: all, new ones too)"
        )
        parser.add_argument("--slots", type=_positive, default=2, help="how many jobs at a time (default: %(default)s)")
        parser.add_argument(
            "--cancel-grace",
            type=float,
            default=10.0,
            metavar="SECONDS",
            help="between asking a job to stop and ending its process (default: %(default)s)",
        )
        parser.add_argument(
            "--drain-limit",
            type=float,
            metavar="SECONDS",
            help="hand back what still runs so long after SIGTERM (default: never)",
        )
        parser.add_argument(
            "--slot-jobs",
            type=_positive,
            default=1000,
            metavar="N",
            help="replace a slot's process after so many jobs (default: %(default)s)",
        )
        parser.add_argument(
            "--slot-rss",
            type=_positive,
            default=512,
            metavar="MIB",
            help="or when it holds so much memory after a job (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        queues = _names(options["queue"]) or tuple(registry.queues())
        if not queues:
            raise CommandError("no app declares a task, so there is no queue to serve: name one with --queue")
        chosen = Options(
            queues=queues,
            namespaces=_names(options["namespace"]) or None,
            slots=options["slots"],
            cancel_grace=options["cancel_grace"],
            slot_jobs=options["slot_jobs"],
            slot_rss=options["slot_rss"] * 1024 * 1024,
            drain_limit=options["drain_limit"],
        )
        asyncio.run(self._serve(chosen))

    async def _serve(self, options: Options) -> None:
        # Every connection of this worker and of its slots carries the process's name: where the worker is taken for
        # dead, they are ended, so that none of them keeps a job's row locked while it is frozen.
        process = new_process_name()
        os.environ["PGAPPNAME"] = f"msgweb worker {process}"
        conninfo = conninfo_of(settings.DATABASES["default"])
        engine = PostgresEngine(
            conninfo,
            kind="worker",
            lease_seconds=settings.MSGWEB_LEASE_SECONDS,
            process=process,
            details={
                "slots": options.slots,
                "queues": list(options.queues),
                "namespaces": list(options.namespaces) if options.namespaces is not None else None,
            },
        )
        supervisor = Supervisor(engine, conninfo, options, os.getpid())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        serving = loop.create_task(supervisor.run())
        ready = loop.create_task(supervisor.ready.wait())
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            write_pid("worker")
            engine.serve()
            self.stderr.write(f"worker {os.getpid()} ready: {options.slots} slots, queues {', '.join(options.queues)}")
        else:
            ready.cancel()
        await serving
