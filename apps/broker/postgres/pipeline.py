"""One connection in libpq's pipeline mode: a list of prepared statements goes out as one write and is one transaction.

psycopg's own asynchronous pipeline costs a task switch and a generator a statement; here the reader's callback
collects the results and calls on, so a batch costs one wake-up.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from msgweb.hangups import hung_up

#: The statements' plans do not depend on how much waits: index scans and nested loops, planned once. Without these a
#: plan made while the tables were empty would scan them when they are not, and planning would cost more than running.
#: A batch relies on each of its statements seeing what was committed before that statement.
PLANNING = (
    "SET default_transaction_isolation = 'read committed'; SET plan_cache_mode = force_generic_plan;"
    " SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
    " SET enable_sort = off; SET jit = off"
)

#: What holds unless the caller's connection string says otherwise. A peer that vanished without a word (a cut network,
#: a firewall that forgot) is noticed within some 15 s, on either side; without these TCP takes hours. On a Unix socket
#: they do nothing.
CLIENT_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "target_session_attrs": "read-write",  # what cannot write is as good as away; of several hosts the one that can
}
SERVER_TIMEOUTS = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3;"
    " SET tcp_user_timeout = 15000"
)

OLDEST_SERVER = 150000  # what the tests run on begins here

#: What Postgres says of a named statement where the session that prepared it is not the one that is asked: unknown, or
#: there already.
POOLED = ("26000", "42P05")
POOLED_TEXT = (
    "the connections of this process share sessions of Postgres: a pooler lends them out for a transaction each;"
    " connect to Postgres itself, or through a pooler in session mode (PgBouncer: pool_mode = session)"
)

Step = tuple[str, Sequence[bytes | None]]


class Connection(psycopg.AsyncConnection[Any]):
    """A connection of the engine's.

    Attributes:
        server_pid: the process id of the server's side. Unlike what the handshake said it is true behind a pooler too.
    """

    server_pid = 0


async def dial(conninfo: str, name: str) -> Connection:
    """A connection in autocommit whose session of the server is left as it came.

    Raises:
        psycopg.Error: the database does not answer.
    """
    given = conninfo_to_dict(conninfo)
    defaults = {key: value for key, value in CLIENT_DEFAULTS.items() if key not in given}
    return await Connection.connect(make_conninfo(conninfo, application_name=name, **defaults), autocommit=True)


async def connect(conninfo: str, name: str) -> Connection:
    """A connection of the engine's: autocommit, fixed plans, timeouts.

    Raises:
        psycopg.Error: the database does not answer.
    """
    connection = await dial(conninfo, name)
    try:
        version = connection.info.server_version
        if version < OLDEST_SERVER:
            raise psycopg.NotSupportedError(
                f"PostgreSQL {OLDEST_SERVER // 10000} or newer is needed, not {version // 10000}"
            )
        cursor = await connection.execute(f"{PLANNING}; {SERVER_TIMEOUTS}; SELECT pg_backend_pid()")
        while cursor.nextset():
            pass
        connection.server_pid = (await cursor.fetchone() or (0,))[0]
    except BaseException:
        await connection.close()
        raise
    return connection


def first_line(error: Exception) -> str:
    """What an error says, without libpq's advice below it."""
    return str(error).strip().partition("\n")[0]


def watchable(pgconn: pq.abc.PGconn) -> int:
    """A descriptor of the connection's socket for an event loop to watch; whoever asks closes it.

    libpq closes its own at once when the connection breaks. The next client that is accepted gets that number then,
    while the loop still watches it for us.
    """
    return os.dup(pgconn.socket)


class StatementFailed(Exception):
    """Postgres refused a statement; the whole pipeline was rolled back.

    Attributes:
        sqlstate: five characters.
    """

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ConnectionLost(Exception):
    """The connection broke; whether the pipeline was committed is not known."""


Outcome = list[pq.abc.PGresult] | StatementFailed | ConnectionLost
Finished = Callable[[Outcome], None]


class Pipeline:
    """A connection that runs one list of steps at a time. Made by `connect`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._fd = watchable(self._pg)
        self._results: list[pq.abc.PGresult] = []
        self._failure: StatementFailed | None = None
        self._finished: Finished | None = None
        self._writing = False
        self.closed = False
        self.backend_pid = connection.server_pid
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._readable)

    @classmethod
    async def connect(cls, conninfo: str, statements: Mapping[str, str], name: str) -> "Pipeline":
        """Connect under an application name, and prepare all statements.

        Raises:
            psycopg.OperationalError: the database does not answer.
            StatementFailed: a statement cannot be prepared (migrations are missing).
            ConnectionLost: it broke meanwhile.
        """
        connection = await connect(conninfo, name)
        pipeline = cls(connection)
        prepared: asyncio.Future[None] = pipeline._loop.create_future()

        def finished(outcome: Outcome) -> None:
            if prepared.done():
                return
            if isinstance(outcome, list):
                prepared.set_result(None)
            else:
                prepared.set_exception(outcome)

        try:
            pipeline._begin(finished)
            for name, text in statements.items():
                pipeline._pg.send_prepare(name.encode(), text.encode())
            pipeline._send()
            await prepared
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def run(self, steps: Sequence[Step], finished: Finished) -> None:
        """Run prepared statements as one transaction; `finished` gets one result a step, later, from the event loop."""
        if self.closed:
            self._loop.call_soon(finished, ConnectionLost("the connection is closed"))
            return
        self._begin(finished)
        try:
            for name, parameters in steps:
                self._pg.send_query_prepared(
                    name.encode(), parameters, param_formats=[1] * len(parameters), result_format=1
                )
            self._send()
        except psycopg.Error as error:
            self._loop.call_soon(self._lost, str(error))

    def close(self) -> None:
        """Close the connection; a run under way is reported as lost."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._pg.finish()
        self._report(ConnectionLost("the connection was closed"))

    def _begin(self, finished: Finished) -> None:
        if self._finished is not None:
            raise RuntimeError("a pipeline runs one list of steps at a time")
        self._finished = finished
        self._results = []
        self._failure = None

    def _send(self) -> None:
        self._pg.pipeline_sync()
        self._flush()

    def _flush(self) -> None:
        """Write what the socket takes now, the rest when it is writable. The reader stays on: Postgres may answer
        before it has read everything."""
        left = self._pg.flush()
        if left and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        elif not left and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._lost(str(error))

    def _readable(self) -> None:
        """Take what there is to be read. Of a connection that broke all of it: nobody calls again."""
        run = self._finished
        self._take()
        while run is not None and self._finished is run and hung_up(self._fd):
            self._take()

    def _take(self) -> None:
        pg = self._pg
        try:
            pg.consume_input()
            while self._finished is not None and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    if pg.status != pq.ConnStatus.OK:
                        self._lost("the server closed the connection")
                        return
                    continue
                status = result.status
                if status == pq.ExecStatus.PIPELINE_SYNC:
                    self._report(self._failure or self._results)
                elif status == pq.ExecStatus.FATAL_ERROR:
                    self._refused(result)
                elif status != pq.ExecStatus.PIPELINE_ABORTED:
                    self._results.append(result)
            if self._finished is None and pg.status != pq.ConnStatus.OK:
                self._lost("the server closed the connection")
        except psycopg.Error as error:
            self._lost(str(error))

    def _refused(self, result: pq.abc.PGresult) -> None:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"08006").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(errors="replace")
        if state.startswith("08") or state in ("57P01", "57P02", "57P03"):
            self._lost(text)  # the server is going down: what became of the batch must be asked for afterwards
        elif self._failure is None:
            self._failure = StatementFailed(state, text)

    def _lost(self, why: str) -> None:
        if self.closed:
            return
        finished, self._finished = self._finished, None
        self.close()
        if finished is not None:
            finished(ConnectionLost(why))
        elif self.on_idle_loss is not None:
            self.on_idle_loss()

    #: Called when the connection breaks while nothing runs.
    on_idle_loss: Callable[[], None] | None = None

    def _report(self, outcome: Outcome) -> None:
        finished, self._finished = self._finished, None
        if finished is not None:
            finished(outcome)
