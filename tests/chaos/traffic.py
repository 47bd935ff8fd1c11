"""Traffic for tests that kill things: producers that note what was receipted, consumers that note what came and how."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

FRAME = re.compile(rb"\n*([A-Z]+)\n(.*?)\n\n([^\0]*)\0", re.DOTALL)


class Traffic:
    """Producers and consumers of one queue over plain sockets, reconnecting whenever the gateway is away.

    Every body is sent once: what was not receipted when a connection broke is not sent again, its outcome is open.

    Attributes:
        receipted: bodies whose RECEIPT came.
        seen: for each body, the `redelivered` flags of its deliveries, in order.
    """

    def __init__(self, host: str, port: int, login: str, passcode: str, queue: str, total: int) -> None:
        self._where = (host, port)
        self._connect_frame = f"CONNECT\naccept-version:1.2\nhost:/\nlogin:{login}\npasscode:{passcode}\n\n\0".encode()
        self._queue = queue.encode()
        self._next = 0
        self._total = total
        self.receipted: set[int] = set()
        self.seen: dict[int, list[bool]] = {}
        self._changed = asyncio.Event()

    async def run(self, fault: Callable[["Traffic"], object], fault_at: int, seconds: float = 90) -> None:
        """Two producers, two consumers; the fault strikes once so many receipts have come. Ends when every receipted
        body has been delivered."""
        producers = [asyncio.create_task(self._produce()) for _ in range(2)]
        consumers = [asyncio.create_task(self._consume()) for _ in range(2)]
        try:
            async with asyncio.timeout(seconds):
                await self._until(lambda: len(self.receipted) >= fault_at)
                await asyncio.to_thread(fault, self)
                await asyncio.gather(*producers)
                await self._until(lambda: self.receipted <= self.seen.keys())
        finally:
            for task in [*producers, *consumers]:
                task.cancel()
            await asyncio.gather(*producers, *consumers, return_exceptions=True)

    def unmarked_repeats(self) -> list[int]:
        """Bodies that came again without `redelivered:true`."""
        return [body for body, flags in self.seen.items() if not all(flags[1:])]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that is logged in, as soon as there can be one; that it breaks is no error."""
        writer: asyncio.StreamWriter | None = None
        try:
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection(*self._where)
                    writer.write(self._connect_frame)
                    if (await reader.readuntil(b"\0")).lstrip(b"\n").startswith(b"CONNECTED"):
                        break
                if writer is not None:
                    writer.close()
                await asyncio.sleep(0.05)  # the gateway is away; nothing tells us when it is back
            yield reader, writer
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _produce(self) -> None:
        while self._next < self._total:
            async with self._connection() as (reader, writer):
                open_receipts = 0
                buffer = b""
                while self._next < self._total or open_receipts:
                    while open_receipts < 200 and self._next < self._total:
                        number, self._next = self._next, self._next + 1
                        open_receipts += 1
                        writer.write(
                            b"SEND\ndestination:%b\npersistent:true\nreceipt:%d\n\n%d\0" % (self._queue, number, number)
                        )
                    await writer.drain()
                    frames, buffer = await self._read(reader, buffer)
                    for command, headers, _ in frames:
                        assert command == b"RECEIPT", (command, headers)
                        self.receipted.add(int(re.search(rb"^receipt-id:(\d+)", headers, re.MULTILINE)[1]))  # type: ignore[index]
                        open_receipts -= 1
                    self._changed.set()

    async def _consume(self) -> None:
        while True:
            async with self._connection() as (reader, writer):
                writer.write(
                    b"SUBSCRIBE\nid:1\ndestination:%b\nack:client-individual\nprefetch-count:100\n\n\0" % self._queue
                )
                buffer = b""
                while True:
                    frames, buffer = await self._read(reader, buffer)
                    for command, headers, body in frames:
                        assert command == b"MESSAGE", (command, headers)
                        self.seen.setdefault(int(body), []).append(b"redelivered:true" in headers.split(b"\n"))
                        ack = re.search(rb"^ack:(.*)$", headers, re.MULTILINE)[1]  # type: ignore[index]
                        writer.write(b"ACK\nid:%b\n\n\0" % ack)
                    await writer.drain()
                    self._changed.set()

    @staticmethod
    async def _read(reader: asyncio.StreamReader, buffer: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
        data = await reader.read(1 << 16)
        if not data:
            raise asyncio.IncompleteReadError(buffer, None)
        buffer += data
        frames = [(match[1], match[2], match[3]) for match in FRAME.finditer(buffer)]
        return frames, buffer[buffer.rfind(b"\0") + 1 :]
