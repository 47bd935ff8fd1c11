"""How soon the kernel lets this process run once it has something to do."""

import ctypes
import os
import platform
import sys

SLICE = 100_000  # nanoseconds, the least that Linux allows; its own is 3 ms or so

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # no C library has it everywhere


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of Linux (`sched_setattr(2)`), in its first version."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def run_soon() -> bool:
    """Have this process run soon after it was woken, for a short time each; it gets no larger share of the processor.

    Its slices are short from now on, and those of the processes that it starts (since Linux 6.12 whose slice would end
    first runs first). Needs no privilege. Where the kernel cannot do it, all stays as it is.

    Returns:
        Whether the kernel took it; an older one may take it and do nothing.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, nice, 0, SLICE, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0) == 0)
