"""The pid files of the long-running processes: `<MSGWEB_HOME>/run/{web,stomp,worker,postgres}.pid`.

A recorded pid may be stale: after a crash it may belong to a stranger. Before a process is ended by its pid, ask
`msgweb.launcher.orphans`, which compares the command line and the owner.
"""

import os
from pathlib import Path

from msgweb.home import home

PROCESS_NAMES = ("web", "stomp", "worker", "postgres")


def run_dir() -> Path:
    """The folder of pid files and logs, made with mode 0700 when missing."""
    path = home() / "run"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def pid_path(name: str) -> Path:
    """Where the process `name` keeps its pid."""
    return run_dir() / f"{name}.pid"


def write_pid(name: str, pid: int | None = None) -> None:
    """Record this process (or `pid`) as `name`. Call it once ready to serve.

    The file is replaced as a whole, so that a reader never sees half a number.

    Raises:
        ValueError: not one of the fixed names, which scripts rely on.
    """
    if name not in PROCESS_NAMES:
        raise ValueError(f"no process of Msgweb is named {name!r}")
    path = pid_path(name)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(f"{pid or os.getpid()}\n")
    draft.replace(path)


def read_pid(name: str) -> int | None:
    """The recorded pid, or None when there is no file or no number in it. It may be stale."""
    try:
        return int(pid_path(name).read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
