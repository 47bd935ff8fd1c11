"""The standard streams, which may be closed where a process starts: `<&-` in a shell, some supervisors."""

import os
import sys


def occupy_standard_streams() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed onto nothing. Else the next socket would take the place:
    what is printed would go to whoever is at its other end, and uvloop, which never closes one of these, would end the
    process. And where Python found them closed, give it streams that swallow what is printed."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
