"""The messages between a supervisor and a slot: sans-I/O, bytes in, messages out.

A frame is its length (4 bytes, big-endian) and a JSON object whose `kind` names the message.
"""

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

_LENGTH = struct.Struct(">I")
FRAME_LIMIT = 64 * 1024 * 1024  # bytes; above the largest result and the largest arguments


class WireError(Exception):
    """Bytes that are no frame of ours: the other side is broken, and is ended."""


@dataclass(frozen=True, slots=True)
class RunJob:
    """To the slot: do this job, which has failed so many times. `arguments` is JSON, `worker` the session's id."""

    job: str
    attempt: int
    namespace: str
    task: str
    arguments: str
    failures: int = 0
    worker: int = 0


@dataclass(frozen=True, slots=True)
class CancelJob:
    """To the slot: this attempt should stop: `cancelled`, or it took too long (`timeout`)."""

    job: str
    attempt: int
    why: str = "cancelled"


@dataclass(frozen=True, slots=True)
class Stop:
    """To the slot: end, there are no more jobs."""


@dataclass(frozen=True, slots=True)
class Progress:
    """From the slot: how far its job is. `at` is Unix time in seconds."""

    at: float
    done: int
    total: int
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """From the slot: a line of its job's log. `at` is Unix time in seconds."""

    at: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """From the slot: its job has ended.

    Attributes:
        outcome: succeeded, failed or cancelled.
        result: JSON, when it succeeded.
        error: {"code", "message", "traceback"}, when it failed.
        again: whether it makes sense to try a failed job again.
        pause: seconds until then; None: as usual.
    """

    outcome: str
    result: str | None = None
    error: dict[str, str] | None = None
    again: bool = True
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """From the slot: it is free, after so many jobs. `rss` is its resident memory in bytes."""

    jobs: int
    rss: int


Message = RunJob | CancelJob | Stop | Progress | Log | Ended | Idle
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (RunJob, CancelJob, Stop, Progress, Log, Ended, Idle)
}


def encode(message: Message) -> bytes:
    """The frame of a message.

    Raises:
        WireError: it is over 64 MiB.
    """
    data = json.dumps({"kind": type(message).__name__, **asdict(message)}).encode()
    if len(data) > FRAME_LIMIT:
        raise WireError(f"a frame has at most {FRAME_LIMIT} bytes, not {len(data)}")
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Turns the bytes of one direction into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete, in order.

        Raises:
            WireError: the bytes are no frame; the decoder is of no more use.
        """
        self._buffer += data
        messages = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > FRAME_LIMIT:
                raise WireError(f"a frame has at most {FRAME_LIMIT} bytes, not {length}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_decode(bytes(self._buffer[start + _LENGTH.size : end])))
            start = end
        del self._buffer[:start]
        return messages


def _decode(data: bytes) -> Message:
    try:
        fields: dict[str, Any] = json.loads(data)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"{data[:100]!r} is no message") from error
