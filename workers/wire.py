"""The messages between a supervisor and a slot: sans-I/O, bytes in, messages out.

A frame is its length (4 bytes, big-endian) and a JSON array of messages, each an array: its name, then its fields in
order; of a job's end, mostly without those that say nothing. (As an object with names, made by `dataclasses.asdict`, a
message cost more than twice as much: 5.5 us instead of 2.5; several in one frame cost less than 1.5 each.)
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

_LENGTH = struct.Struct(">I")
FRAME_LIMIT = 64 * 1024 * 1024  # bytes; above the largest result and the largest arguments


class WireError(Exception):
    """Bytes that are no frame of ours: the other side is broken, and is ended."""


@dataclass(slots=True)
class RunJob:
    """To the slot: do this job, after those that it was given before. `arguments` is JSON.

    Attributes:
        failures: how often the job has failed.
        worker: the session's id.
        deferred: its start is not on record: ask for that (`Record`) before anything that relies on it.
    """

    job: str
    attempt: int
    namespace: str
    task: str
    arguments: str
    failures: int = 0
    worker: int = 0
    deferred: bool = False


@dataclass(slots=True)
class Recorded:
    """To the slot: the answer to `Record`."""

    job: str


@dataclass(slots=True)
class CancelJob:
    """To the slot: this attempt should stop: `cancelled`, or it took too long (`timeout`)."""

    job: str
    attempt: int
    why: str = "cancelled"


@dataclass(slots=True)
class Recall:
    """To the slot: give back what it has not begun, but for these first jobs of its queue."""

    keep: int = 0


@dataclass(slots=True)
class Stop:
    """To the slot: end when there are no more jobs."""


@dataclass(slots=True)
class Progress:
    """From the slot: how far a job is. `at` is Unix time in seconds."""

    job: str
    at: float
    done: int
    total: int
    text: str


@dataclass(slots=True)
class Log:
    """From the slot: a line of a job's log. `at` is Unix time in seconds."""

    job: str
    at: float
    level: str
    text: str


@dataclass(slots=True)
class Ended:
    """From the slot: a job has ended.

    Attributes:
        outcome: succeeded, failed or cancelled.
        seconds: how long it took.
        result: JSON, when it succeeded.
        error: {"code", "message", "traceback"}, when it failed.
        again: whether it makes sense to try a failed job again.
        pause: seconds until then; None: as usual.
    """

    job: str
    outcome: str
    seconds: float = 0.0
    result: str | None = None
    error: dict[str, str] | None = None
    again: bool = True
    pause: float | None = None


@dataclass(slots=True)
class Record:
    """From the slot: a job needs its start on record."""

    job: str


@dataclass(slots=True)
class Returned:
    """From the slot: the answer to `Recall`: these jobs were not begun, and will not be."""

    jobs: list[str]


@dataclass(slots=True)
class Health:
    """From the slot: how large it is, in bytes of resident memory. The first one says that it is there; then it comes
    now and then."""

    rss: int


Message = RunJob | CancelJob | Recall | Recorded | Stop | Progress | Log | Ended | Record | Returned | Health
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (RunJob, CancelJob, Recall, Recorded, Stop, Progress, Log, Ended, Record, Returned, Health)
}


def _reader(kind: type[Message]) -> Any:
    names = [field.name for field in fields(kind)]
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda message: (only(message),)
    return attrgetter(*names) if names else lambda _message: ()


_FIELDS = {kind: (name, _reader(kind)) for name, kind in _KINDS.items()}
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def encode(messages: Sequence[Message]) -> bytes:
    """The frame of some messages; several frames where they are too long for one.

    Raises:
        WireError: one of them is over 64 MiB.
    """
    told = []
    for message in messages:
        if type(message) is Ended and message.error is None and message.again and message.pause is None:
            told.append(("Ended", message.job, message.outcome, message.seconds, message.result))
            continue
        name, read = _FIELDS[type(message)]
        told.append((name, *read(message)))
    data = _encode(told).encode("utf-8", "surrogatepass")
    if len(data) <= FRAME_LIMIT:
        return _LENGTH.pack(len(data)) + data
    if len(messages) == 1:
        raise WireError(f"a frame has at most {FRAME_LIMIT} bytes, not {len(data)}")
    half = len(messages) // 2
    return encode(messages[:half]) + encode(messages[half:])


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
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > FRAME_LIMIT:
                raise WireError(f"a frame has at most {FRAME_LIMIT} bytes, not {length}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages += _decode(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return messages


def _decode(data: bytes) -> list[Message]:
    try:
        told = json.loads(data.decode("utf-8", "surrogatepass"))
        if not isinstance(told, list) or not told:
            raise ValueError("no list of messages")
        return [_KINDS[name](*values) for name, *values in told]
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"{data[:100]!r} is no frame of messages") from error
