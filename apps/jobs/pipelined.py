"""Named statements on a psycopg connection, several in one round trip, without psycopg's own pipeline.

That one costs some 0.7 ms of processor time a transaction in asyncio (a task switch and timers for each wait); here the
statements go out as one write, and one callback collects the results: a tenth of it. Parameters and rows are psycopg's.
"""

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

from apps.jobs.queries import query
from msgweb.hangups import hung_up

Row = tuple[Any, ...]
Step = tuple[str, Mapping[str, Any]]

#: Statements that need no file.
PLAIN = {
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "savepoint": "SAVEPOINT part",
    "release": "RELEASE SAVEPOINT part",
    "undo": "ROLLBACK TO SAVEPOINT part",
}
_PARAMETER = re.compile(r"%\((\w+)\)s")


@cache
def _numbered(name: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with `$1` in the place of `%(name)s`, and the names in their order."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found[1], len(names) + 1)}"

    text = _PARAMETER.sub(number, PLAIN.get(name) or query(name)).replace("%%", "%")
    return text.encode(), tuple(names)


class Pipelined:
    """Runs lists of statements on a connection in autocommit mode, one list at a time. It has the connection to itself,
    from the first list on; `close` before the connection is closed."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._pg = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._writing = False
        self._done: asyncio.Future[None] | None = None
        self._results: list[pq.abc.PGresult] = []

    def close(self) -> None:
        """Watch the connection no more; a list under way fails."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
            if self._writing:
                self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
        self._loop = None
        self._finish(psycopg.OperationalError("the connection was closed"))

    async def run(self, steps: Sequence[Step]) -> list[list[Row]]:
        """Run statements; the rows of each. Outside a transaction they are one of their own.

        Raises:
            psycopg.OperationalError: the connection broke.
            psycopg.DatabaseError: a statement was refused, and those behind it were not run.
        """
        if self._pg.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the connection is closed")
        if self._loop is None:
            self._watch()
        assert self._loop is not None
        self._results = []
        self._done = self._loop.create_future()
        fresh = self._send(steps)
        self._pg.pipeline_sync()
        self._guarded(self._flush)
        await self._done
        results = self._results
        failure = next((result for result in results if result.status == pq.ExecStatus.FATAL_ERROR), None)
        if failure is not None:
            raise error_from_result(failure)
        self._prepared.update(fresh)
        rows = []
        for result in results:
            if result.status == pq.ExecStatus.TUPLES_OK:
                self._transformer.set_pgresult(result)
                rows.append(self._transformer.load_rows(0, result.ntuples, tuple))
            else:
                rows.append([])
        return rows

    def _send(self, steps: Sequence[Step]) -> dict[tuple[str, tuple[int, ...]], bytes]:
        """Put the statements on the way; those that were prepared for it."""
        fresh: dict[tuple[str, tuple[int, ...]], bytes] = {}
        for name, parameters in steps:
            text, names = _numbered(name)
            values = self._transformer.dump_sequence([parameters[one] for one in names], [PyFormat.AUTO] * len(names))
            types = tuple(self._transformer.types or ())
            prepared = self._prepared.get((name, types)) or fresh.get((name, types))
            if prepared is None:
                self._count += 1
                prepared = fresh[name, types] = b"%b_%d" % (name.encode(), self._count)
                self._pg.send_prepare(prepared, text, types)
            self._pg.send_query_prepared(prepared, values, self._transformer.formats, result_format=1)
        return fresh

    def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A descriptor of our own: libpq closes its one when the connection breaks, while the loop still watches it.
        self._descriptor = os.dup(self._pg.socket)
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._descriptor, self._guarded, self._read)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except psycopg.Error as error:
            self._finish(error)

    def _finish(self, error: Exception | None = None) -> None:
        if self._done is not None and not self._done.done():
            if error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(error)

    def _flush(self) -> None:
        """Write what the socket takes now, the rest when it is writable."""
        left = bool(self._pg.flush())
        assert self._loop is not None
        if left and not self._writing:
            self._loop.add_writer(self._descriptor, self._guarded, self._flush)
        elif self._writing and not left:
            self._loop.remove_writer(self._descriptor)
        self._writing = left

    def _read(self) -> None:
        """Take what there is to be read. Of a connection that broke all of it: nobody calls again."""
        self._take()
        while self._done is not None and not self._done.done() and hung_up(self._descriptor):
            self._take()

    def _take(self) -> None:
        """Collect a result a statement, up to the first that failed; those of the preparations are left out."""
        pg = self._pg
        try:
            pg.consume_input()
        finally:
            if pg.status != pq.ConnStatus.OK and self._loop is not None:
                self._loop.remove_reader(self._descriptor)  # it would be readable for ever
        while self._done is not None and not self._done.done() and not pg.is_busy():
            result = pg.get_result()
            if result is None:
                if pg.status != pq.ConnStatus.OK:
                    raise psycopg.OperationalError("the server closed the connection")
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                self._finish()
            elif result.status != pq.ExecStatus.PIPELINE_ABORTED and not _is_preparation(result):
                self._results.append(result)


def _is_preparation(result: pq.abc.PGresult) -> bool:
    """Whether it answers a preparation: no command was run for it."""
    return result.status == pq.ExecStatus.COMMAND_OK and not result.command_status
