"""`manage.py runstomp`: the STOMP gateway."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from apps.broker.postgres import PostgresEngine
from apps.jobs.stomp_port import JobsTaskPort
from apps.stomp.gateway.access import AccountAuthenticator
from apps.stomp.gateway.processes import Processes
from apps.stomp.gateway.server import Gateway
from msgweb.database import conninfo_of
from msgweb.errors import Unavailable
from msgweb.home import Listen, stomp_listen
from msgweb.pidfile import write_pid

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
# Garbage in cycles is rare here and every collection walks all connections: look seldom.
GC_THRESHOLDS = (50_000, 50, 100)


class Command(BaseCommand):
    """Serve STOMP clients until SIGTERM or SIGINT."""

    help = "Serve STOMP 1.0, 1.1 and 1.2 clients. SIGTERM drains: clients may finish, then the process ends with 0."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to listen and how."""
        parser.add_argument("--listen", help="host:port; default: MSGWEB_STOMP, else 127.0.0.1:61613")
        parser.add_argument("--processes", type=int, default=1, help="so many processes share the port (default 1)")
        parser.add_argument(
            "--drain-seconds",
            type=float,
            default=DRAIN_SECONDS,
            help=f"how long clients may take to finish at the end (default {DRAIN_SECONDS:g})",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run one process, or a parent and its children."""
        place = _place(options["listen"])
        drain = options["drain_seconds"]
        count = options["processes"]
        if count < 1 or drain < 0:
            raise CommandError("--processes must be at least 1 and --drain-seconds not negative")
        if count == 1:
            code = self._serve(place, drain, lambda port: self._announce(Listen(place.host, port)), shared=False)
        else:
            if not place.port:
                raise CommandError("several processes need a port to share, not 0")
            _check_free(place)
            connections.close_all()
            code = Processes(
                count,
                lambda ready, lifeline: self._serve(place, drain, lambda _: ready(), shared=True, lifeline=lifeline),
                lambda: self._announce(place),
            ).run()
        if code:
            raise SystemExit(code)

    def _serve(
        self, place: Listen, drain: float, ready: Callable[[int], None], *, shared: bool, lifeline: int | None = None
    ) -> int:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(place, drain, ready, shared=shared, lifeline=lifeline))
        except Unavailable as error:
            raise CommandError(error.message) from error
        except OSError as error:
            raise CommandError(_why_not(place, error)) from error
        return 0

    def _announce(self, place: Listen) -> None:
        write_pid("stomp")
        self.stdout.write(f"STOMP gateway: listening on {place}")
        self.stdout.flush()


async def _serve(
    place: Listen, drain: float, ready: Callable[[int], None], *, shared: bool, lifeline: int | None
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)
    engine = PostgresEngine(
        conninfo_of(settings.DATABASES["default"]),
        kind="gateway",
        lease_seconds=settings.MSGWEB_LEASE_SECONDS,
        details={"listen": str(place)},
    )
    authenticator = AccountAuthenticator()
    await engine.start()
    try:
        gateway = Gateway(engine, authenticator, JobsTaskPort())
        port = await gateway.listen(place.host, place.port, reuse_port=shared)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        ready(port)
        engine.serve()
        await stop.wait()
        logger.info("stopping: %d connections", len(gateway.connections))
        if lifeline is not None:
            loop.remove_reader(lifeline)
        await gateway.drain(drain)
    finally:
        await engine.close()
        authenticator.close()


def _place(text: str | None) -> Listen:
    if text is None:
        return stomp_listen()
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise CommandError(f"--listen must be host:port, such as 127.0.0.1:61613, not {text!r}")
    return Listen(host.strip("[]"), int(port))


def _check_free(place: Listen) -> None:
    """Sharing a port would let a second gateway in silently; so look before the children share it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise CommandError(_why_not(place, error)) from error


def _why_not(place: Listen, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{place} is taken: another gateway or another program listens there (move this one by MSGWEB_STOMP)"
    return f"cannot listen on {place}: {os.strerror(error.errno) if error.errno else error}"
