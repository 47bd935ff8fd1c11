"""Processes that an earlier run left behind: found by what the system knows of them, never by a recorded pid alone.

A recorded pid may be a stranger's after a crash. On Linux `/proc` tells a process's environment and working folder;
elsewhere `ps` and `lsof` do not tell as much, and psutil (which comes with the wheel of the embedded Postgres) does.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

PROC = Path("/proc")
MARK = "MSGWEB_LAUNCHED_IN"  # in the environment of all that the launcher starts, slots and scripts included


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie, which only waits for its parent, does not."""
    try:
        status = (PROC / str(pid) / "stat").read_bytes()
    except FileNotFoundError:
        if PROC.joinpath("self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    except ProcessLookupError:
        return False
    return status.rpartition(b")")[2].split()[0] != b"Z"


def _linux(matches: Callable[[Path], bool]) -> list[int]:
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if matches(entry) and _alive(int(entry.name)):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended, or is not ours to look at
    return found


def _elsewhere(matches: "Callable[[psutil.Process], bool]") -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and matches(process):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def working_in(folder: Path, name: str) -> list[int]:
    """Processes of that program whose working folder is this one."""
    wanted = str(folder.resolve())
    if PROC.joinpath("self").exists():
        return _linux(
            lambda entry: (entry / "comm").read_text().strip() == name and os.readlink(entry / "cwd") == wanted
        )
    return _elsewhere(lambda process: process.name() == name and process.cwd() == wanted)


def launched_in(home: Path) -> list[int]:
    """Processes that a launcher started for this data folder, the supervisor among them; not this one's ancestors."""
    mark = f"{MARK}={home}".encode()
    own = _ancestors()

    def marked(entry: Path) -> bool:
        return int(entry.name) not in own and mark in (entry / "environ").read_bytes().split(b"\0")

    if PROC.joinpath("self").exists():
        return _linux(marked)
    return _elsewhere(lambda process: process.pid not in own and process.environ().get(MARK) == str(home))


def _ancestors() -> set[int]:
    own: set[int] = set()
    pid = os.getppid()
    while pid > 1 and pid not in own:
        own.add(pid)
        try:
            pid = int((PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            break
    return own


def end(pids: Iterable[int], how: signal.Signals, seconds: float) -> None:
    """Send a signal, wait until the processes are gone, kill those that are not by then."""
    left = [pid for pid in pids if _signalled(pid, how)]
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in left if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        _signalled(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signalled(pid: int, how: signal.Signals) -> bool:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True
