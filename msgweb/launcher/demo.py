"""`make demo`: the main job without a person. A temporary installation, a brand cloned over STOMP, everything gone."""

import os
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from apps.messaging import Accepted, Messaging, MessagingError, Progress
from msgweb.launcher.errors import CannotStart
from msgweb.launcher.launch import running

BRAND = "ember-oak"  # the one that the sample seeds
SECONDS = 120.0


def run() -> None:
    """Start an installation beside whatever runs already, clone its sample brand, show progress and result, stop.

    Raises:
        CannotStart: it does not start, or the clone failed.
    """
    began = time.monotonic()
    # In /tmp itself: as root the embedded server runs as somebody else, who must be able to enter.
    home = Path(tempfile.mkdtemp(prefix="msgweb-demo-")).resolve()
    http, stomp = _free_ports(2)
    os.environ.update(MSGWEB_HOME=str(home), MSGWEB_HTTP=f"127.0.0.1:{http}", MSGWEB_STOMP=f"127.0.0.1:{stomp}")
    os.environ.pop("DATABASE_URL", None)  # a demonstration leaves nothing behind, so it brings its own database
    print(f"Starting a temporary installation in {home} ...", flush=True)
    try:
        with running(home) as installation:
            print(f"Ready after {time.monotonic() - began:.1f} s at {installation.url}", flush=True)
            _clone(home)
            print("Stopping ...", flush=True)
    finally:
        place = (home / "postgres").resolve()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
    print(f"Done in {time.monotonic() - began:.1f} s; nothing is left behind.", flush=True)


def _clone(home: Path) -> None:
    arguments = {"brand": BRAND, "name": "Demo & Sons", "domain": "demo-and-sons.example"}
    print(f"Asking for firebrand.clone_brand over STOMP: {arguments}", flush=True)
    try:
        with Messaging.from_credentials(home / "credentials.json") as messaging:
            reply = messaging.request(
                "firebrand.clone_brand", arguments, timeout=SECONDS, on_accepted=_accepted, on_progress=_progress
            )
    except MessagingError as error:
        raise CannotStart(f"The clone failed: {error}") from error
    print(f"Result of job {reply.job_id}:", flush=True)
    for name, value in (reply.body if isinstance(reply.body, dict) else {"result": reply.body}).items():
        print(f"  {name}: {value}", flush=True)


def _accepted(accepted: Accepted) -> None:
    print(f"Accepted; whoever waits may watch {accepted.status_url}", flush=True)


def _progress(progress: Progress) -> None:
    print(f"  {progress.done}/{progress.total} {progress.text}", flush=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
