"""`manage.py runstomp`: the STOMP gateway."""

import asyncio
import errno
import gc
import logging
import os
import signal
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvloop
from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from apps.broker.postgres import PostgresEngine
from apps.jobs.checks import CHECKED
from apps.jobs.stomp_port import JobsTaskPort
from apps.stomp.gateway.acceptors import bind
from apps.stomp.gateway.access import AccountAuthenticator
from apps.stomp.gateway.access_watch import AccessWatch
from apps.stomp.gateway.listeners import BadListener, Listener, parse_listener
from apps.stomp.gateway.processes import Processes
from apps.stomp.gateway.queue_port import Queues
from apps.stomp.gateway.server import Gateway
from msgweb.database import conninfo_of
from msgweb.errors import PooledDatabase, Unavailable
from msgweb.home import Listen, parse_listen, stomp_listen
from msgweb.pidfile import write_pid
from workers.outside import OutsideDesk

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
STATUS_SECONDS = 0.25  # between attempts to have the port of health and figures
# Garbage in cycles is rare here and every collection walks all connections: look seldom.
GC_THRESHOLDS = (50_000, 50, 100)


class Command(BaseCommand):
    """Serve STOMP clients until SIGTERM or SIGINT."""

    help = (
        "Serve STOMP 1.0, 1.1 and 1.2 clients. SIGTERM drains: clients may finish, then the process ends with 0. "
        "SIGHUP reads certificates again."
    )

    #: Those of the environment and of jobs: the rest read every page and form of the web into this process's memory.
    requires_system_checks = [Tags.security, CHECKED]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to listen and how."""
        parser.add_argument(
            "--listen",
            action="append",
            metavar="URL",
            help="host:port, or stomp://, stomps://, ws://, wss:// with settings such as ?dialect=activemq; may be "
            "said several times; default: MSGWEB_STOMP, else 127.0.0.1:61613, and what MSGWEB_STOMP_LISTENERS says",
        )
        parser.add_argument(
            "--status",
            metavar="HOST:PORT",
            help="answer /healthz, /readyz and /metrics there; each further process of --processes one port above; "
            "default: MSGWEB_STOMP_STATUS, else nowhere",
        )
        parser.add_argument("--processes", type=int, default=1, help="so many processes share the port (default 1)")
        parser.add_argument(
            "--drain-seconds",
            type=float,
            default=DRAIN_SECONDS,
            help=f"how long clients may take to finish at the end (default {DRAIN_SECONDS:g})",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run one process, or a parent and its children."""
        try:
            listeners = _listeners(options["listen"])
            status = _status(options["status"])
        except (BadListener, ValueError) as error:
            raise CommandError(str(error)) from error
        drain = options["drain_seconds"]
        count = options["processes"]
        if count < 1 or drain < 0:
            raise CommandError("--processes must be at least 1 and --drain-seconds not negative")
        if count == 1:
            code = self._serve(listeners, status, drain, self._announce, shared=False)
        else:
            if not all(listener.place.port for listener in listeners):
                raise CommandError("several processes need a port to share, not 0")
            for listener in listeners:
                _check_free(listener)
            connections.close_all()
            code = Processes(
                count,
                lambda ready, lifeline, number: self._serve(
                    listeners,
                    status and status._replace(port=status.port + number),
                    drain,
                    lambda _: ready(),
                    shared=True,
                    lifeline=lifeline,
                ),
                lambda: self._announce(listeners),
            ).run()
        if code:
            raise SystemExit(code)

    def _serve(
        self,
        listeners: list[Listener],
        status: Listen | None,
        drain: float,
        ready: Callable[[list[Listener]], None],
        *,
        shared: bool,
        lifeline: int | None = None,
    ) -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(listeners, status, drain, ready, shared=shared, lifeline=lifeline))
        except PooledDatabase as error:
            self.stderr.write(f"{error.code}: {error.message}")
            return os.EX_CONFIG
        except (Unavailable, BadListener) as error:
            raise CommandError(error.message) from error
        return 0

    def _announce(self, listeners: list[Listener]) -> None:
        write_pid("stomp")
        for listener in listeners:
            shown = str(listener.place) if listener.scheme == "stomp" else str(listener)
            self.stdout.write(f"STOMP gateway: listening on {shown}")
        self.stdout.flush()


async def _serve(
    listeners: list[Listener],
    status: Listen | None,
    drain: float,
    ready: Callable[[list[Listener]], None],
    *,
    shared: bool,
    lifeline: int | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)
    conninfo = conninfo_of(settings.DATABASES["default"])
    engine = PostgresEngine(
        conninfo,
        kind="gateway",
        lease_seconds=settings.MSGWEB_LEASE_SECONDS,
        horizon_seconds=settings.MSGWEB_HORIZON_SECONDS,
        details={"listen": " ".join(map(str, listeners))},
    )
    authenticator = AccountAuthenticator()
    queues = Queues()
    desk = OutsideDesk(conninfo)
    await engine.start()
    try:
        gateway = Gateway(engine, authenticator, JobsTaskPort(), queues, work=desk)
        bound = []
        for listener in listeners:
            try:
                port = await gateway.listen(listener, reuse_port=shared)
            except OSError as error:
                raise CommandError(_why_not(listener.place, error)) from error
            bound.append(replace(listener, place=Listen(listener.place.host, port)))
        if status is not None:
            try:
                await gateway.show_status(status)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise CommandError(_why_not(status, error)) from error
                gateway.start_task(_show_status_later(gateway, status))
        gateway.supervision.start()
        gateway.sharing.start()

        def report() -> None:
            if authenticator.failures.failed:
                engine.details["failed log-ins"] = authenticator.failures.failed

        watch = AccessWatch(conninfo, authenticator, gateway, looked=report)
        watch.start()
        loop.add_signal_handler(signal.SIGHUP, lambda: gateway.start_task(gateway.reload()))
        _log_lightly()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        ready(bound)
        engine.serve()
        await stop.wait()
        logger.info("stopping: %d connections", len(gateway.connections))
        if lifeline is not None:
            loop.remove_reader(lifeline)
        await gateway.drain(drain)
        await watch.close()
    finally:
        await desk.close()  # before the engine lets the messages go
        await engine.close()
        authenticator.close()
        queues.close()


async def _show_status_later(gateway: Gateway, place: Listen) -> None:
    """The gateway that this one takes over from still says there that it takes nobody; it is not to be waited for."""
    logger.warning("%s is taken; health and figures are shown there once it is free", place)
    while True:
        await asyncio.sleep(STATUS_SECONDS)
        try:
            await gateway.show_status(place)
        except OSError:
            continue
        logger.info("health and figures are shown at %s now", place)
        return


def _log_lightly() -> None:
    """Leave out of log records what no format of ours shows ("Optimization" in the documentation of `logging`): a page
    of PHP is a connection, and a connection is a line."""
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _listeners(urls: list[str] | None) -> list[Listener]:
    """Raises BadListener, and ValueError for a MSGWEB_STOMP that cannot be."""
    if urls is None:
        urls = [str(stomp_listen()), *os.environ.get("MSGWEB_STOMP_LISTENERS", "").split()]
    return [parse_listener(url) for url in urls]


def _status(option: str | None) -> Listen | None:
    """Raises ValueError."""
    text = option or os.environ.get("MSGWEB_STOMP_STATUS")
    return parse_listen(text, "--status" if option else "MSGWEB_STOMP_STATUS", "127.0.0.1:9100") if text else None


def _check_free(listener: Listener) -> None:
    """Sharing a port would let a second gateway in silently; so look before the children share it."""
    try:
        bind(listener).close()
    except OSError as error:
        raise CommandError(_why_not(listener.place, error)) from error


def _why_not(place: Listen, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{place} is taken: another gateway or another program listens there (move this one by MSGWEB_STOMP)"
    return f"cannot listen on {place}: {os.strerror(error.errno) if error.errno else error}"
