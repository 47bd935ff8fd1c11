"""`manage.py runworker`: one worker."""

import asyncio
import gc
import os
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.broker.postgres import PostgresEngine, new_process_name
from apps.jobs import registry
from msgweb.database import conninfo_of
from msgweb.errors import PooledDatabase
from msgweb.pidfile import write_pid
from workers import reloading, slot
from workers.forkserver import ForkServer
from workers.intake import parse_choices
from workers.options import Options
from workers.process import Forks
from workers.supervisor import Supervisor


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text} is not a whole number from 1")
    return number


def _names(texts: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in texts or [] for name in text.split(",") if name))


#: When the supervisor looks for garbage that refers to itself: it makes little, and has thousands of other objects.
COLLECTED = 20_000, 20, 50


class Command(BaseCommand):
    help = (
        "Do jobs. SIGTERM or Ctrl-C: take no more and wait for those at work, as long as it takes; "
        "a second time: end them and hand them back, which costs them no attempt. "
        "SIGUSR1: pause, SIGUSR2: resume; SIGTTIN, SIGTTOU: one slot more, one less."
    )
    # A worker starts before the database answers, and waits for it; whoever deploys migrates.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queue",
            action="append",
            metavar="Q[=WEIGHT][,Q]",
            help="serve these queues: names, or patterns such as 'mail.*' of the queues of tasks; in proportion to "
            "their weights (default: those of all tasks, alike)",
        )
        parser.add_argument(
            "--strict", action="store_true", help="in the order given: nothing of a queue while an earlier one has work"
        )
        parser.add_argument(
            "--namespace", action="append", metavar="N[,N]", help="in these namespaces (default: all, new ones too)"
        )
        parser.add_argument(
            "--slots", type=_positive, default=2, help="how many processes for jobs (default: %(default)s)"
        )
        parser.add_argument(
            "--threads",
            type=_positive,
            default=1,
            help="how many jobs at a time in each: plain functions in threads, coroutines in one event loop "
            "(default: %(default)s)",
        )
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
            default=10_000,
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

        parser.add_argument(
            "--reload",
            action="store_true",
            help="for development: start again when the code has changed; jobs at work are handed back",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            queues = parse_choices(options["queue"] or registry.queues())
        except ValueError as error:
            raise CommandError(str(error)) from error
        if not queues:
            raise CommandError("no app declares a task, so there is no queue to serve: name one with --queue")
        chosen = Options(
            queues=queues,
            strict=options["strict"],
            namespaces=_names(options["namespace"]) or None,
            slots=options["slots"],
            threads=options["threads"],
            cancel_grace=options["cancel_grace"],
            slot_jobs=options["slot_jobs"],
            slot_rss=options["slot_rss"] * 1024 * 1024,
            drain_limit=options["drain_limit"],
        )
        # Every connection of this worker and of its slots carries the process's name: where the worker is taken for
        # dead, they are ended, so that none of them keeps a job's row locked while it is frozen.
        process = new_process_name()
        os.environ["PGAPPNAME"] = f"msgweb worker {process}"
        main = os.getpid()

        def supervise(connection: socket.socket) -> int:
            gc.set_threshold(*COLLECTED)
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    again = runner.run(self._supervise(chosen, process, main, connection, reload=options["reload"]))
            except PooledDatabase as error:
                self.stderr.write(f"{error.code}: {error.message}")
                return os.EX_CONFIG
            return reloading.AGAIN if again else 0

        status = ForkServer(supervise, slot.run).run()
        if status == reloading.AGAIN and options["reload"]:
            reloading.start_again()
        sys.exit(status)

    async def _supervise(
        self, options: Options, process: str, main: int, connection: socket.socket, *, reload: bool
    ) -> bool:
        """Serve; returns whether the code has changed."""
        conninfo = conninfo_of(settings.DATABASES["default"])
        engine = PostgresEngine(
            conninfo,
            kind="worker",
            lease_seconds=settings.MSGWEB_LEASE_SECONDS,
            horizon_seconds=settings.MSGWEB_HORIZON_SECONDS,
            process=process,
            details={},
        )
        forks = Forks(connection, lambda number: _obey(supervisor, number))

        def changed(details: dict[str, Any]) -> None:
            engine.details.update(details)
            engine.tell()

        supervisor = Supervisor(engine, conninfo, options, main, forks, changed)
        engine.details.update(supervisor.details())
        forks.start()
        loop = asyncio.get_running_loop()
        serving = loop.create_task(supervisor.run())
        ready = loop.create_task(supervisor.ready.wait())
        change = loop.create_task(_watch(supervisor)) if reload else None
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            write_pid("worker", main)
            engine.serve()
            queues = ", ".join(choice.pattern for choice in options.queues)
            self.stderr.write(f"worker {main} ready: {options.slots} slots, queues {queues}")
        else:
            ready.cancel()
        await serving
        forks.close()
        if change is None:
            return False
        again = change.done()
        change.cancel()
        return again


async def _watch(supervisor: Supervisor) -> None:
    await reloading.wait_for_change()
    supervisor.stop()
    supervisor.stop()


def _obey(supervisor: Supervisor, number: int) -> None:
    """Do what a signal to the main process asks for."""
    if number in (signal.SIGTERM, signal.SIGINT):
        supervisor.stop()
    elif number == signal.SIGHUP:  # the terminal was closed: that asks once, however often it comes
        supervisor.drain()
    elif number in (signal.SIGUSR1, signal.SIGUSR2):
        supervisor.pause(number == signal.SIGUSR1)
    elif number in (signal.SIGTTIN, signal.SIGTTOU):
        supervisor.resize(max(0, supervisor.slots + (1 if number == signal.SIGTTIN else -1)))
