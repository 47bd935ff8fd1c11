"""One STOMP 1.2 connection over stomp.py: opened once, used until it is lost, never reopened.

stomp.py runs a thread that reads; it completes receipts and hands messages over, and runs no caller's code. A second
thread of stomp.py sends the heart-beats, so a handler that takes an hour costs nobody the connection.
"""

import logging
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import stomp
from stomp.exception import StompException
from stomp.utils import Frame

from apps.messaging.credentials import Credentials
from apps.messaging.errors import ConnectionFailed, OutcomeUnknown, Refused
from apps.messaging.message import Told

logger = logging.getLogger(__name__)

BEAT_MS = 10_000
#: How long a write may stall before the connection counts as lost, in seconds: a gateway slows senders by not reading.
WRITE_STALL = 30
CLOSE_SECONDS = 5.0


class NotSent(Exception):
    """The connection was lost before a frame had left as a whole, so it cannot have had any effect."""


def refusal(frame: Frame) -> Refused:
    """The error that an ERROR frame tells."""
    text = frame.headers.get("message") or frame.body.decode(errors="replace") or "the server refused without a reason"
    return Refused(text, frame.headers.get("code"))


class Connection(stomp.ConnectionListener):
    """A connection to the gateway.

    Args:
        on_message: called with each MESSAGE, in the reading thread: it must not block.
        on_lost: called once, when the connection is over for whatever reason.

    Attributes:
        listens_to_jobs: whether it has subscribed to what becomes of the jobs that it works on.
        told: what the server has told of them, by job.
    """

    def __init__(
        self,
        credentials: Credentials,
        on_message: Callable[["Connection", dict[str, str], bytes], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._credentials = credentials
        self._on_message = on_message
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._receipts: dict[str, Future[None]] = {}
        self._connected: Future[None] = Future()
        self._over = threading.Event()
        self.listens_to_jobs = False
        self.told: dict[str, Told] = {}
        self._stomp: stomp.Connection12 | None = None

    @property
    def alive(self) -> bool:
        """Whether frames can be sent; a server that has died in silence is noticed by its missing heart-beats."""
        return self._stomp is not None and self._connected.done() and not self._over.is_set()

    def open(self, deadline: float) -> None:
        """Connect and log in before `deadline` (`time.monotonic()`).

        Raises:
            ConnectionFailed: nobody answers.
            Refused: the server does not let us in.
        """
        credentials = self._credentials
        where = f"{credentials.host}:{credentials.port}"
        remaining = max(0.001, deadline - time.monotonic())
        connection = stomp.Connection12(
            [(credentials.host, credentials.port)],
            prefer_localhost=False,
            try_loopback_connect=False,
            reconnect_attempts_max=1,  # the back-off is ours: it knows the caller's deadline
            reconnect_sleep_initial=0,
            timeout=remaining,
            heartbeats=(BEAT_MS, BEAT_MS),
            vhost=credentials.namespace,
            auto_decode=False,
        )
        connection.set_listener("msgweb", self)
        try:
            connection.transport.start()
        except (StompException, OSError) as error:
            raise ConnectionFailed(f"nobody answers at {where}") from error
        self._stomp = connection
        try:
            raw = connection.transport.socket
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", WRITE_STALL, 0))
            # Not connect(wait=True): it waits for ever for a server that accepts and says nothing.
            stomp.protocol.Protocol12.connect(
                connection, credentials.login, credentials.passcode, with_connect_command=True
            )
            self._connected.result(max(0.001, deadline - time.monotonic()))
        except (TimeoutError, StompException, OSError, AttributeError) as error:
            # AttributeError: stomp.py's reading thread sets its socket to None when the server hangs up at once.
            self._abandon()
            raise ConnectionFailed(f"{where} accepts connections but does not speak STOMP") from error
        except Refused:
            self._abandon()
            raise

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Write one frame; does not wait for its effect.

        Raises:
            NotSent: the connection is over.
        """
        headers = dict(headers)
        if body:
            headers["content-length"] = str(len(body))
        try:
            if self._stomp is None or self._over.is_set():
                raise NotSent
            self._stomp.send_frame(command, headers, body)
        except (StompException, OSError, AttributeError) as error:
            # A frame ends with its NUL, which did not leave: the server cannot have acted on it.
            self._abandon()
            raise NotSent from error

    def send_confirmed(self, command: str, headers: Mapping[str, str], body: bytes, deadline: float) -> None:
        """Write one frame and wait for its receipt: it took effect.

        Raises:
            NotSent: the connection was lost before the frame had left.
            Refused: the server's ERROR.
            OutcomeUnknown: no receipt before `deadline`, or before the connection was lost.
        """
        receipt = uuid.uuid4().hex
        done: Future[None] = Future()
        with self._lock:
            self._receipts[receipt] = done
        try:
            self.send(command, {**headers, "receipt": receipt}, body)
            done.result(max(0.001, deadline - time.monotonic()))
        except TimeoutError as error:
            raise OutcomeUnknown("no receipt came in time: the server may have taken the message or not") from error
        finally:
            with self._lock:
                self._receipts.pop(receipt, None)

    def close(self) -> None:
        """Say goodbye and wait until the server has dealt with all that was sent, some seconds at most."""
        if self._stomp is None:
            return
        if self.alive:
            try:
                # Without a receipt of ours: with one, stomp.py waits for the server without a limit.
                self._stomp.disconnect()
            except (StompException, OSError, AttributeError):
                logger.debug("the connection was lost while closing", exc_info=True)
        if not self._over.wait(CLOSE_SECONDS if self.alive else 0):
            self._abandon()

    def _abandon(self) -> None:
        if self._stomp is not None:
            self._stomp.transport.disconnect_socket()
        self.on_disconnected()

    # What stomp.py calls, in its reading thread. An exception here would end that thread.

    def on_connected(self, frame: Frame) -> None:
        """CONNECTED came."""
        if not self._connected.done():
            self._connected.set_result(None)

    def on_message(self, frame: Frame) -> None:
        """A MESSAGE came."""
        self._on_message(self, frame.headers, frame.body or b"")

    def on_receipt(self, frame: Frame) -> None:
        """A RECEIPT came."""
        with self._lock:
            done = self._receipts.pop(frame.headers.get("receipt-id", ""), None)
        if done is not None:
            done.set_result(None)

    def on_error(self, frame: Frame) -> None:
        """An ERROR came: it names the frame that it refuses, or concerns the connection as a whole."""
        error = refusal(frame)
        if not self._connected.done():
            self._connected.set_exception(error)
            return
        with self._lock:
            done = self._receipts.pop(frame.headers.get("receipt-id", ""), None)
        if done is not None:
            done.set_exception(error)
        else:
            logger.warning("the server reports %s: %s", error.code, error.message)

    def on_disconnected(self) -> None:
        """The connection is over."""
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
            pending, self._receipts = list(self._receipts.values()), {}
        if not self._connected.done():
            self._connected.set_exception(ConnectionFailed("the server hung up before the log-in was over"))
        for done in pending:
            done.set_exception(
                OutcomeUnknown("the connection was lost before the receipt: the message may have been taken or not")
            )
        self._on_lost(self)
