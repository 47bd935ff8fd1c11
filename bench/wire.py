"""A STOMP client that watches: it writes what it is told and sums up whatever comes back. For `bench.probe`."""

import socket
import time
from typing import NamedTuple

QUIET = 0.6  # seconds without a byte that count as "nothing more comes"
PATIENCE = 10.0


class Frame(NamedTuple):
    """A frame from a broker."""

    command: str
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection.

    Attributes:
        ended: the broker has closed it.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._data = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        """Bytes as they are; that the other side has gone is no error."""
        try:
            self._socket.sendall(data)
        except OSError:
            self.ended = True

    def send(self, command: str, body: bytes = b"", /, **headers: object) -> None:
        """A frame; underscores in lower-case names become hyphens."""
        lines = "".join(
            f"{name.replace('_', '-') if name.islower() else name}:{value}\n" for name, value in headers.items()
        )
        self.write(f"{command}\n{lines}\n".encode() + body + b"\0")

    def read(self, count: int = 1, seconds: float = PATIENCE) -> list[Frame]:
        """So many frames, or those that come until the end, or within the time."""
        frames: list[Frame] = []
        deadline = time.monotonic() + seconds
        while len(frames) < count:
            frame = self._take()
            if frame is not None:
                frames.append(frame)
            elif not self._fill(deadline):
                break
        return frames

    def rest(self, seconds: float = QUIET) -> list[Frame]:
        """All frames until nothing comes for so long, or the broker closes."""
        frames: list[Frame] = []
        while True:
            frame = self._take()
            if frame is not None:
                frames.append(frame)
            elif not self._fill(time.monotonic() + seconds):
                return frames

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _fill(self, deadline: float) -> bool:
        if self.ended:
            return False
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        self.ended = not data
        self._data += data
        return bool(data)

    def _take(self) -> Frame | None:
        data = self._data.lstrip(b"\r\n")
        head, found, rest = data.partition(b"\n\n")
        if not found:
            return None
        command, *lines = head.decode(errors="replace").split("\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip(), value.strip())
        if "content-length" in headers and headers["content-length"].isdigit():
            size = int(headers["content-length"])
            if len(rest) <= size:
                return None
        else:
            size = rest.find(b"\0")
            if size < 0:
                return None
        self._data = rest[size + 1 :]
        return Frame(command, headers, rest[:size])
