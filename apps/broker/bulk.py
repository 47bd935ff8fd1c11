"""Send many messages to one queue from Django code, by COPY, inside the caller's own transaction."""

import select
import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from django.db import connections
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter
from psycopg.generators import copy_end, copy_to
from psycopg.waiting import Ready, Wait

from apps.broker import outbox
from apps.broker.engine import parse_address
from apps.broker.headers import decode_headers
from apps.broker.sqlstates import translated
from msgweb.errors import BadDestination, BadMessage

#: What stands before and behind the rows of a COPY in binary, which takes the database a sixth less time than text.
BINARY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
BINARY_TAIL = b"\xff\xff"

PORTION = 5_000  # messages of a COPY
AT_ONCE = 100  # rows that are handed over together; much more than the socket holds would leave nothing to do meanwhile
_PLAIN = """
SELECT max_length IS NULL AND max_bytes IS NULL AND message_ttl IS NULL AND expires_after IS NULL
FROM msgweb.destination WHERE id = %s
"""
_COPY = "COPY msgweb.message_persistent (destination, priority, persistent, headers, body) FROM STDIN (FORMAT binary)"
BLOCK = 1 << 20  # bytes that libpq takes at once
_LENGTH = struct.Struct(">i")
_MASKS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}
_READY = {select.POLLIN: Ready.R, select.POLLOUT: Ready.W, select.POLLIN | select.POLLOUT: Ready.RW}


def field(value: bytes | None) -> bytes:
    """A column's value for a COPY in binary: its length, then itself; None is null."""
    return b"\xff\xff\xff\xff" if value is None else _LENGTH.pack(len(value)) + value


def copy(statement: str, rows: Iterable[bytes], meanwhile: Callable[[], bool], using: str = "default") -> None:
    """Run a COPY in binary.

    Args:
        rows: each with the number of its columns before them. The database writes those that it has while the next
            are made. What raises an error here undoes the statement.
        meanwhile: called again and again while the database has yet to take or to write some of them; says whether
            there is more to do.

    Raises:
        django.db.DatabaseError: one of them was refused.
    """
    with connections[using].cursor() as cursor:
        writer = _Overlapped(cursor, meanwhile)
        with cursor.copy(statement, writer=writer) as copying:
            copying.write(BINARY_HEAD)
            remaining = iter(rows)
            while portion := list(islice(remaining, AT_ONCE)):
                copying.write(b"".join(portion))
            copying.write(BINARY_TAIL)


class _Overlapped(LibpqWriter):
    """Has something done while it would wait for the database."""

    def __init__(self, cursor: Any, meanwhile: Callable[[], bool]) -> None:
        super().__init__(cursor.connection.cursor())
        self._meanwhile = meanwhile

    def write(self, data: Buffer) -> None:
        """`psycopg.copy.Writer`."""
        for at in range(0, len(data), BLOCK):
            self._drive(copy_to(self._pgconn, data[at : at + BLOCK], flush=True))

    def finish(self, exc: BaseException | None = None) -> None:
        """`psycopg.copy.Writer`."""
        if exc is not None:
            super().finish(exc)
        else:
            self._drive(copy_end(self._pgconn, None))

    def _drive(self, steps: Generator[Wait, Ready, Any]) -> None:
        """What `psycopg.waiting.wait` does; but it waits only when there is nothing else to do.

        An error in what is done meanwhile is raised when the database has been told all: the connection stays usable.
        """
        poll, descriptor = select.poll(), self._pgconn.socket
        failed: BaseException | None = None
        with suppress(StopIteration):
            wanted = next(steps)
            while True:
                poll.register(descriptor, _MASKS[wanted])
                more = failed is None
                while not (found := poll.poll(0 if more else None)):
                    try:
                        more = self._meanwhile()
                    except BaseException as error:  # noqa: BLE001  raised below
                        failed, more = error, False
                events = found[0][1]
                if events & ~select.POLLIN & ~select.POLLOUT:  # broken: libpq says how, when it is asked to go on
                    wanted = steps.send(Ready.RW)
                else:
                    wanted = steps.send(_READY[events])
        if failed is not None:
            raise failed


class Sending:
    """Messages on their way to a queue. `finish` when the last has been sent, in the same transaction.

    A queue with limits or a time to live takes them one by one, as those need it.

    Args:
        priority: 0 to 9, of all of them.

    Attributes:
        plain: there are no limits, and messages may be sent as rows, too.

    Raises:
        BadDestination, BadMessage: they cannot be sent like that.
        NotFound: there is no such namespace.
    """

    def __init__(self, namespace: str, queue: str, *, priority: int = 4, using: str = "default") -> None:
        if parse_address(namespace, queue).name != queue:
            raise BadDestination(f"give the bare name of a queue, not {queue!r}")
        if not 0 <= priority <= 9:
            raise BadMessage(f"a priority is 0 to 9, not {priority}")
        self._namespace, self._queue, self._priority, self._using = namespace, queue, priority, using
        self.count = self._bytes = 0
        with translated(), connections[using].cursor() as cursor:
            cursor.execute("SELECT msgweb.destination_id(%s, 'queue', %s)", [namespace, queue])
            (self._target,) = cursor.fetchone()
            cursor.execute(_PLAIN, [self._target])
            (self.plain,) = cursor.fetchone()
            cursor.execute("SELECT nextval('msgweb.message_id')")
            (self._before,) = cursor.fetchone()
        columns = (_LENGTH.pack(self._target), struct.pack(">h", priority), b"\1")
        self._head = struct.pack(">h", 5) + b"".join(map(field, columns))

    def send(self, messages: Sequence[tuple[bytes, bytes]], meanwhile: Callable[[], bool] = lambda: False) -> None:
        """Send persistent messages, in their order.

        Args:
            messages: headers as `apps.broker.headers.encode_headers` makes them, and bodies.
            meanwhile: called while the database writes them.

        Raises:
            QueueFull: the queue's limit refuses one; then none is sent, if the caller's transaction ends there.
        """
        if not self.plain:
            self.count += len(messages)
            for headers, body in messages:
                named = decode_headers(headers)
                outbox.send(
                    self._namespace, self._queue, body, headers=named, priority=self._priority, using=self._using
                )
            return
        begin, pack = self.row_until_headers, _LENGTH.pack
        rows = [b"%b%b%b%b%b" % (begin, pack(len(h)), h, pack(len(body)), body) for h, body in messages]
        self.send_rows(rows, meanwhile)

    @property
    def row_until_headers(self) -> bytes:
        """What stands in a message's row before the headers, which follow as a `field`, and then the body."""
        return self._head

    def send_rows(self, rows: Sequence[bytes], meanwhile: Callable[[], bool] = lambda: False) -> None:
        """Send messages, as `send` does, whose rows were made by the caller; to a queue that is `plain`."""
        self.count += len(rows)
        self._bytes += sum(map(len, rows)) - len(rows) * (len(self._head) + 2 * _LENGTH.size)
        with translated():
            copy(_COPY, rows, meanwhile, self._using)

    def finish(self) -> None:
        """Tell the queue's consumers, once the transaction has taken effect."""
        if not self.plain or not self.count:
            return
        with connections[self._using].cursor() as cursor:
            told = [self._target, self._before, self._priority]
            counted = [self._target, self.count, self._bytes]
            cursor.execute(
                "SELECT msgweb.announce(%s, %s, 'sent', NULL, '{}', %s),"
                " msgweb.count(%s, sent => %s, sent_bytes => %s)",
                told + counted,
            )


def send_many(
    namespace: str, queue: str, messages: Iterable[tuple[bytes, bytes]], *, priority: int = 4, using: str = "default"
) -> int:
    """Send persistent messages to a queue, in their order: see `Sending`.

    Returns:
        How many there were.

    Raises:
        BadDestination, BadMessage, NotFound, QueueFull: as `Sending` and its `send`.
    """
    sending = Sending(namespace, queue, priority=priority, using=using)
    remaining = iter(messages)
    while portion := list(islice(remaining, PORTION)):
        sending.send(portion)
    sending.finish()
    return sending.count
