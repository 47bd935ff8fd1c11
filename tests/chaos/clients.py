"""A STOMP client on a bare socket that writes down all that it does and sees."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tests.chaos.history import (
    Closed,
    Delivered,
    Ending,
    Opened,
    Outcome,
    Recorder,
    Sending,
    Settling,
    Subscribing,
    Unsubscribing,
    Verb,
)
from tests.chaos.messages import body_of, message_of

if TYPE_CHECKING:
    from tests.chaos.world import World

LOGIN_SECONDS = 1.0  # a frozen gateway never answers: try the next

#: ERRORs of an operation that took no effect for certain. Others, such as `unavailable`, leave it open.
REFUSALS = frozenset({"session_lost", "not_found", "bad_message", "bad_header", "not_supported", "limit_exceeded"})
#: ERRORs that a client must reckon with when servers come and go. Any other one is a fault of somebody's.
EXPECTED = frozenset({"session_lost", "unavailable", "shutting_down"})

Message = tuple[int, bytes, str]  # tag, the id to ack, the message's name


class Client(asyncio.Protocol):
    """One connection, made by `connect`.

    Args:
        name: of the connection, unique in the history.
        queue_prefix: what the run's queues' names begin with.
        deliver: is called with each MESSAGE and its subscription.

    Attributes:
        live: it is connected, as far as it knows.
        changed: set whenever something came in.
        waiting: operations without an outcome yet, in order, with when they left.
        complaints: unexpected ERRORs.
    """

    def __init__(
        self, recorder: Recorder, name: str, queue_prefix: str, deliver: Callable[[str, Message], None] | None
    ) -> None:
        self.name = name
        self.live = False
        self.changed = asyncio.Event()
        self.waiting: dict[int, float] = {}
        self.complaints: list[str] = []
        self.heard = time.monotonic()
        self._recorder = recorder
        self._prefix = queue_prefix
        self._deliver = deliver
        self._transport = cast(asyncio.Transport, None)
        self._buffer = b""
        self._login: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._transactions = 0
        self._gone = False

    # -- connecting

    @classmethod
    async def connect(
        cls,
        world: "World",
        slot: str,
        recorder: Recorder,
        name: str,
        queue_prefix: str,
        deliver: Callable[[str, Message], None] | None = None,
    ) -> "Client | None":
        """A client that is logged in; None if that was not to be had."""
        server = world.server(slot)
        if server is None:
            return None
        client = cls(recorder, name, queue_prefix, deliver)
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", world.slots[slot].port)
                client.frame("CONNECT", f"accept-version:1.2\nhost:/\nlogin:{world.login}\npasscode:{world.passcode}\n")
                welcome = await client._login
        except (OSError, TimeoutError):
            welcome = False
        if welcome and world.server(slot) == server and not client._gone:
            client.live = True
            recorder.write(Opened, connection=name, server=server)
            return client
        client.abandon()
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a socket."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """The server closed it, or the server is dead."""
        self._over("server")

    def abandon(self) -> None:
        """Close the socket at once."""
        self._gone = True
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Break the connection: it is reset, without a word."""
        self._over("client")
        self.abandon()

    async def leave(self) -> None:
        """DISCONNECT, once all outcomes are there; the messages that are still held are released."""
        while self.waiting and self.live:
            await self.news()
        if self.live:
            self._recorder.write(Closed, connection=self.name, by="client")
            self.live = False
            self.frame("DISCONNECT", "")
            self._transport.close()
            self._gone = True

    def _over(self, by: str) -> None:
        if self.live:
            self._recorder.write(Closed, connection=self.name, by=by)
        self.live = False
        self._gone = True
        if not self._login.done():
            self._login.set_result(False)
        self.changed.set()

    async def news(self, seconds: float | None = None) -> bool:
        """Wait until something comes in, or for so long."""
        self.changed.clear()
        if not self.live:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), seconds)
            return True
        return False

    def pause(self) -> None:
        """Stop reading."""
        if self.live:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.live:
            self._transport.resume_reading()

    @property
    def backlog(self) -> int:
        """Bytes that the server has not taken yet."""
        return self._transport.get_write_buffer_size()

    # -- asking

    def frame(self, command: str, headers: str, body: bytes = b"") -> None:
        """Write a frame."""
        self._transport.write(f"{command}\n{headers}\n".encode() + body + b"\0")

    def send(
        self,
        message: str,
        producer: str,
        queue: str,
        lane: str,
        number: int,
        *,
        priority: int,
        persistent: bool,
        size: int,
        group: str | None = None,
        turn: int | None = None,
        transaction: str | None = None,
    ) -> int:
        """SEND; the operation's number."""
        op = self._recorder.number()
        headers = (
            f"destination:/queue/{self._prefix}{queue}\npriority:{priority}\npersistent:{str(persistent).lower()}\n"
        )
        if group is not None:
            headers += f"JMSXGroupID:{group}\n"
        if turn is not None:
            headers += f"turn:{turn}\n"
        if transaction is None:
            headers += f"receipt:{op}\n"
            self.waiting[op] = time.monotonic()
        else:
            headers += f"transaction:{transaction}\n"
        self._recorder.write(
            Sending,
            op=op,
            connection=self.name,
            message=message,
            producer=producer,
            queue=queue,
            lane=lane,
            number=number,
            persistent=persistent,
            group=group,
            transaction=transaction,
        )
        self.frame("SEND", headers, body_of(message, size))
        return op

    def subscribe(
        self,
        subscription: str,
        queue: str,
        credit: int,
        mode: str,
        *,
        patient: bool,
        priority: int = 0,
        selector: str | None = None,
    ) -> None:
        """SUBSCRIBE. `patient`: the queue lets wait what was refused."""
        self._recorder.write(
            Subscribing,
            subscription=subscription,
            connection=self.name,
            queue=queue,
            credit=credit,
            patient=patient,
        )
        headers = f"id:{subscription}\ndestination:/queue/{self._prefix}{queue}\nack:{mode}\nprefetch-count:{credit}\n"
        if priority:
            headers += f"x-priority:{priority}\n"
        if selector is not None:
            headers += f"selector:{selector}\n"
        self.frame("SUBSCRIBE", headers)

    def unsubscribe(self, subscription: str) -> None:
        """UNSUBSCRIBE."""
        self._recorder.write(Unsubscribing, subscription=subscription)
        self.frame("UNSUBSCRIBE", f"id:{subscription}\n")

    def settle(
        self, verb: Verb, messages: list[Message], *, confirmed: bool, transaction: str | None = None, delay: int = 0
    ) -> int:
        """ACK or NACK the last of these, and with it (in the mode `client`) the others.

        Args:
            delay: milliseconds, of a `nack-later` that names them; 0: the queue's setting does.
        """
        op = self._recorder.number()
        headers = f"id:{messages[-1][1].decode()}\n"
        if transaction is not None:
            headers += f"transaction:{transaction}\n"
        elif confirmed:
            headers += f"receipt:{op}\n"
            self.waiting[op] = time.monotonic()
        if delay:
            headers += f"x-delay:{delay}\n"
        self._recorder.write(
            Settling,
            op=op,
            connection=self.name,
            verb=verb,
            tags=tuple(tag for tag, _, _ in messages),
            transaction=transaction,
            asked=confirmed,
        )
        self.frame("ACK" if verb == "ack" else "NACK", headers)
        return op

    def begin(self) -> str:
        """BEGIN; the transaction's name."""
        self._transactions += 1
        name = f"{self.name}.t{self._transactions}"
        self.frame("BEGIN", f"transaction:{name}\n")
        return name

    def end(self, transaction: str, *, commit: bool) -> int:
        """COMMIT or ABORT."""
        op = self._recorder.number()
        self.waiting[op] = time.monotonic()
        self._recorder.write(Ending, op=op, connection=self.name, transaction=transaction, commit=commit)
        self.frame("COMMIT" if commit else "ABORT", f"transaction:{transaction}\nreceipt:{op}\n")
        return op

    # -- hearing

    def data_received(self, data: bytes) -> None:
        """Frames."""
        self.heard = time.monotonic()
        *frames, self._buffer = (self._buffer + data).split(b"\0\n") if self._buffer else data.split(b"\0\n")
        for frame in frames:
            if self._gone:
                break
            head, _, body = frame.partition(b"\n\n")
            command, *lines = head.split(b"\n")
            headers: dict[bytes, bytes] = {}
            for line in lines:
                name, _, value = line.partition(b":")
                headers.setdefault(name, value)
            self._hear(command, headers, body)
        self.changed.set()

    def _hear(self, command: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        if command == b"MESSAGE":
            self._message(headers, body)
        elif command == b"RECEIPT":
            op = int(headers[b"receipt-id"])
            del self.waiting[op]
            self._recorder.write(Outcome, op=op, result="done")
        elif command == b"CONNECTED":
            self._login.set_result(True)
        elif command == b"ERROR":
            self._error(headers, body)
        else:
            self.complaints.append(f"{command!r} {headers!r}")

    def _message(self, headers: dict[bytes, bytes], body: bytes) -> None:
        subscription = headers[b"subscription"].decode()
        tag = self._recorder.number()
        message = message_of(body)
        self._recorder.write(
            Delivered,
            tag=tag,
            subscription=subscription,
            message=message,
            queue=headers[b"destination"].decode().removeprefix(f"/queue/{self._prefix}"),
            count=int(headers.get(b"delivery-count", b"1")),
            redelivered=headers.get(b"redelivered") == b"true",
        )
        if self._deliver is not None:
            self._deliver(subscription, (tag, headers[b"ack"], message))

    def _error(self, headers: dict[bytes, bytes], body: bytes) -> None:
        code = headers.get(b"code", b"").decode()
        receipt = headers.get(b"receipt-id", b"")
        if receipt.isdigit() and int(receipt) in self.waiting:
            del self.waiting[int(receipt)]
            if code in REFUSALS:
                self._recorder.write(Outcome, op=int(receipt), result="refused")
        if code not in EXPECTED and self.live:
            self.complaints.append(f"ERROR {code} to {self.name}: {body.decode(errors='replace').strip()}")
        self._over("error")
        self.abandon()
