"""A line to Postgres that can be cut: what is on it stays there, and nobody is told. Or muffled: what Postgres notifies
of does not come through."""

import contextlib
import socket
import threading
from collections.abc import Callable

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Cable:
    """A TCP port that leads to Postgres's Unix socket, until it is cut: then nothing passes, and nothing says so."""

    def __init__(self, conninfo: str) -> None:
        parts = conninfo_to_dict(conninfo)
        host, port = str(parts["host"]), parts.get("port") or 5432
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.conninfo = make_conninfo(
            conninfo, host="127.0.0.1", port=self.port, sslmode="disable", gssencmode="disable"
        )
        self._target = f"{host}/.s.PGSQL.{port}"
        self._whole = threading.Event()
        self._whole.set()
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes any more, in either direction."""
        self._whole.clear()

    def mend(self) -> None:
        """It passes again, what was on its way too."""
        self._whole.set()

    def close(self) -> None:
        """Unplug it."""
        self.mend()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._sockets += [near, far]
            for source, sink, passed in ((near, far, bytes), (far, near, self._ear())):
                threading.Thread(target=self._carry, args=(source, sink, passed), daemon=True).start()

    def _ear(self) -> Callable[[bytes], bytes]:
        """What a connection lets through of what the server sends on it, as that comes."""
        return bytes

    def _carry(self, source: socket.socket, sink: socket.socket, passed: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(passed(data))
        self._whole.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Muffled(Cable):
    """A cable on which notifications get lost while it is muffled; all else passes."""

    def __init__(self, conninfo: str, *, muffled: bool = True) -> None:
        self.muffled = muffled
        super().__init__(conninfo)

    def _ear(self) -> Callable[[bytes], bytes]:
        rest = b""

        def passed(data: bytes) -> bytes:
            nonlocal rest
            data = rest + data
            start, kept = 0, []
            # Each message: its kind, and the length of itself and what follows. Before them nothing else is sent to
            # one who asks neither for TLS nor for GSS.
            while len(data) - start >= 5 and len(data) - start > (size := int.from_bytes(data[start + 1 : start + 5])):
                if not (self.muffled and data[start : start + 1] == b"A"):
                    kept.append(data[start : start + 1 + size])
                start += 1 + size
            rest = data[start:]
            return b"".join(kept)

        return passed
