"""After a lost connection: connect again, and find out what became of the batch that was under way."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import pq

from apps.broker.engine import MessageId, SessionId
from apps.broker.postgres import packing
from apps.broker.postgres.batch import Batch
from apps.broker.postgres.host import Host
from apps.broker.postgres.names import Ready
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.pipeline import (
    ConnectionLost,
    Outcome,
    Pipeline,
    StatementFailed,
    Step,
    first_line,
)
from apps.broker.postgres.sql import statements
from msgweb.errors import Unavailable

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LAST = 0.05, 1.0  # seconds between attempts to reconnect


class Doubt(NamedTuple):
    """What is open when a connection is lost.

    Attributes:
        operations: those of the batch that was under way.
        batch: that batch; None where nothing was under way.
        fenced: the session that is known to be buried, if it is.
    """

    operations: list[Operation]
    batch: Batch | None = None
    fenced: SessionId | None = None


class Found(NamedTuple):
    """What a new connection finds.

    Attributes:
        committed: the batch took effect.
        strays: what this process holds without knowing: handed over or claimed by a batch whose answer was lost.
        became_ready: queues in which something became ready by a crash of the server.
    """

    pipeline: Pipeline
    committed: bool
    strays: list[MessageId]
    became_ready: Sequence[Ready]


async def reconnect(conninfo: str, name: str, host: Host, doubt: Doubt, waiting: Iterable[Operation]) -> Found:
    """Try until it works.

    Args:
        name: as application_name; no other process has it.
        waiting: the operations that wait to be written. Looked at anew in each attempt.
    """
    pause = RETRY_FIRST
    while True:
        try:
            pipeline = await Pipeline.connect(conninfo, statements(host.companion), name)
            try:
                return await _look(pipeline, name, host, doubt, waiting)
            except BaseException:
                pipeline.close()
                raise
        except (psycopg.Error, StatementFailed, ConnectionLost, Unavailable) as error:
            if pause == RETRY_FIRST:  # once an outage
                logger.warning("the database is away: %s", first_line(error))
        except Exception:
            logger.exception("reconnecting failed in an unforeseen way; it is tried again")
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_LAST)


async def _look(pipeline: Pipeline, name: str, host: Host, doubt: Doubt, waiting: Iterable[Operation]) -> Found:
    # The server may not have noticed that our last connection broke, and still hold its locks.
    await ask(pipeline, [("end_backend", (name.encode(), packing.int4(pipeline.backend_pid)))])
    [crashed] = await ask(pipeline, [("after_crash", ())])
    session = host.session
    batch = doubt.batch
    number = packing.int8(batch.number if batch else 0)
    own = packing.int4(session)
    steps: list[Step] = [
        ("await_batch", (own,)),
        ("batch_outcome", (own, packing.int4(batch.session if batch else session), number)),
        ("held_ids", (own,)),
    ]
    _, outcome, held = await ask(pipeline, steps)
    alive = outcome.get_value(0, 0) == b"\x01"
    committed = batch is not None and outcome.get_value(0, 1) == b"\x01"
    strays = [] if doubt.fenced is not None or not alive else _strays(host, held, (*doubt.operations, *waiting))
    if doubt.fenced is not None or not alive:
        await host.session_lost(session if doubt.fenced is None else doubt.fenced)
    if pipeline.closed:
        raise ConnectionLost("the connection broke again")
    ready = [Ready(queue) for queue in packing.unpack_int4_array(crashed.get_value(0, 0))]
    return Found(pipeline, committed, strays, ready)


def _strays(host: Host, held: pq.abc.PGresult, operations: Iterable[Operation]) -> list[MessageId]:
    known = host.places.held()
    for operation in operations:
        known.update(operation.named())
    ids = (MessageId(packing.unpack_int(held.get_value(row, 0))) for row in range(held.ntuples))
    return [message_id for message_id in ids if message_id not in known]


async def ask(pipeline: Pipeline, steps: list[Step]) -> list[pq.abc.PGresult]:
    """Run steps and wait for their results.

    Raises:
        StatementFailed: the database refused one.
        ConnectionLost: the connection broke.
    """
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def finished(outcome: Outcome) -> None:
        if not answered.done():
            answered.set_result(outcome)

    pipeline.run(steps, finished)
    outcome = await answered
    if not isinstance(outcome, list):
        raise outcome
    return outcome
