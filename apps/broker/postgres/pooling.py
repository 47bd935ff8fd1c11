"""Whether a pooler that lends sessions of the server out stands before the database: asked before anything is left in
them, for others use them too."""

import random

import psycopg

from apps.broker.postgres.pipeline import POOLED_TEXT, Connection, dial, first_line
from msgweb.errors import PooledDatabase, Unavailable

#: Which session a pooler lends out does not depend on who asks. So whoever of the two is asked, by chance, finds its
#: own again with at most even odds; that all these questions find it happens in one of 4 billion starts.
DRAWS = 32
_chance = random.Random()  # its own: the global one belongs to the program around us


async def refuse_pooled(conninfo: str, name: str) -> None:
    """Ask two connections in random order which session of the server answers. Where each has one to itself, it is the
    same one each time, and not the other's.

    Args:
        name: the connections' application_name.

    Raises:
        PooledDatabase: it is not so.
        Unavailable: the database does not answer.
    """
    try:
        async with await dial(conninfo, name) as one, await dial(conninfo, name) as other:
            shared = await _shared(one, other)
    except psycopg.Error as error:
        raise Unavailable(f"the database cannot be used: {first_line(error)}") from error
    if shared:
        raise PooledDatabase(POOLED_TEXT)


async def _shared(one: Connection, other: Connection) -> bool:
    own = {connection: await _session(connection) for connection in (one, other)}
    if own[one] == own[other]:
        return True
    for asked in _chance.choices((one, other), k=DRAWS):
        if await _session(asked) != own[asked]:
            return True
    return False


async def _session(connection: Connection) -> int:
    """The process id of the server's session that answers now."""
    cursor = await connection.execute("SELECT pg_backend_pid()", prepare=False)
    return int((await cursor.fetchone() or (0,))[0])
