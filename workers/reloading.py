"""In development: a worker starts again when the code has changed."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from django.utils import autoreload

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
AGAIN = 75  # the exit status by which the supervisor asks the main process to start again


def _times() -> dict[Path, float]:
    """When each file of the modules that are loaded was changed last."""
    found = {}
    for path in autoreload.iter_all_python_module_files():
        try:
            found[path] = path.stat().st_mtime
        except OSError:  # it is being replaced
            continue
    return found


async def wait_for_change() -> None:
    """Until a file of a module that is loaded changes."""
    before = await asyncio.to_thread(_times)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(_times)
        changed = [path for path, time in now.items() if before.get(path, time) != time]
        if changed:
            log.info("%s has changed: the worker starts again", changed[0])
            return
        before = now


def start_again() -> NoReturn:
    """Replace this process, which is the main one and has no child any more, by a new one of the same command."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
