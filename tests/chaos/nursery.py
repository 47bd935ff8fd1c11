"""Starts the processes of a chaos run, and ends them all when the run ends, however it ends.

`python -m tests.chaos.nursery` has Django and the gateway imported already and forks: a gateway serves a fifth of a
second after it was asked for, where `manage.py runstomp` takes one. What runs is the same command.

It reads one JSON object a line and answers with one a line:
    {"start": [...], "log": path}   -> {"pid": 123}
        the arguments of manage.py; those of a program, by its path; `hand` and its plan (see tests/chaos/hand.py)
and, whenever a process has ended, {"ended": 123, "code": -9}. At the end of its input it kills what is left.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Import, then fork on demand."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")
    import django

    django.setup()
    from apps.broker.postgres import sessions
    from apps.stomp.management.commands import runstomp  # noqa: F401
    from tests.chaos import hand  # noqa: F401

    grace = os.environ.get("CHAOS_LOCK_GRACE")
    if grace:
        assert hasattr(sessions, "LOCK_GRACE"), "the grace of a session without its lock has another name now"
        sessions.LOCK_GRACE = float(grace)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for who started us
    children: set[int] = set()
    answer({"ready": True})
    requests = b""
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if reading in ready:
            os.read(reading, 1000)
            bury(children)
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            requests += data
            *lines, requests = requests.split(b"\n")
            for line in lines:
                children.add(start(json.loads(line), (reading, writing)))
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def answer(what: dict[str, Any]) -> None:
    """One line for who started us."""
    os.write(1, json.dumps(what).encode() + b"\n")


def bury(children: set[int]) -> None:
    """Report those that have ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        answer({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def start(request: dict[str, Any], ours: tuple[int, ...]) -> int:
    """Fork; in the child run what was asked for, in a process group of its own."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        answer({"pid": pid})
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in ours:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
            os.close(source) if source != log else None
        arguments = request["start"]
        if "/" in arguments[0]:
            os.execv(arguments[0], arguments)
        code = run(arguments)
    except Exception:  # noqa: BLE001 -- whatever it is, the log has it and the code says so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(arguments: list[str]) -> int:
    """A management command, as manage.py runs it; its exit code."""
    from django.core.management import execute_from_command_line

    from tests.chaos import hand

    try:
        if arguments[0] == "hand":
            hand.run(arguments[1])
            return 0
        execute_from_command_line(["manage.py", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
