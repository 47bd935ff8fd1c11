"""A STOMP server that follows a script: for tests of what a client does when the server does not behave."""

import socket
import threading
from collections.abc import Callable

Frame = tuple[str, dict[str, str], bytes]


class Peer:
    """One connection of the scripted server."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def read(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        command = b"\n"
        while command == b"\n":
            command = self._file.readline()
        if not command:
            return None
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\n", b""):
            name, _, value = line[:-1].decode().partition(":")
            headers[name] = value.replace("\\c", ":")
        body = self._file.read(int(headers.get("content-length", 0)))
        self._file.read(1)
        return command.decode().strip(), headers, body

    def write(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        head = "".join(f"{name}:{value}\n" for name, value in headers.items())
        self._socket.sendall(f"{command}\n{head}content-length:{len(body)}\n\n".encode() + body + b"\0\n")

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Server:
    """Accepts connections, answers CONNECT, and and DISCONNECT, and hands every other frame to `script`."""

    def __init__(self) -> None:
        self.script: Callable[[Peer, Frame], None] = confirm
        self.on_connect: Callable[[Peer, Frame], None] = welcome
        self.frames: list[Frame] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(connection)
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            while (frame := peer.read()) is not None:
                self.frames.append(frame)
                if frame[0] in ("CONNECT", "STOMP"):
                    self.on_connect(peer, frame)
                elif frame[0] == "DISCONNECT":
                    confirm(peer, frame)
                else:
                    self.script(peer, frame)
        except OSError:
            pass  # the script or the client has hung up
        finally:
            peer.close()

    def sent(self, command: str) -> list[Frame]:
        return [frame for frame in self.frames if frame[0] == command]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            try:
                peer.hang_up()
            except OSError:
                pass  # over already
        for thread in self._threads:
            thread.join(10)


def welcome(peer: Peer, frame: Frame) -> None:
    """The log-in is accepted."""
    peer.write("CONNECTED", {"version": "1.2", "session": "s"})


def confirm(peer: Peer, frame: Frame) -> None:
    """The receipt that the frame asks for, if it asks."""
    if "receipt" in frame[1]:
        peer.write("RECEIPT", {"receipt-id": frame[1]["receipt"]})


def answer(peer: Peer, frame: Frame, event: str, body: bytes) -> None:
    """A reply to a request, of that `job-event`."""
    peer.write(
        "MESSAGE",
        {
            "subscription": "/temp-queue/replies",
            "message-id": "1",
            "destination": "/reply-queue/r",
            "content-type": "application/json",
            "correlation-id": frame[1]["correlation-id"],
            "job-event": event,
        },
        body,
    )


def deliver(peer: Peer, frame: Frame, *ids: str, kind: str = "queue") -> None:
    """Messages to the subscription that the frame opened; the body of each is its id."""
    for number in ids:
        peer.write(
            "MESSAGE",
            {
                "subscription": frame[1]["id"],
                "message-id": number,
                "ack": f"ack-{number}",
                "destination": f"/{kind}/work",
                "content-type": "text/plain",
            },
            number.encode(),
        )
