"""What must be done before a frame can be handled. What the client says meanwhile waits, so that its order holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from apps.broker import selectors
from msgweb.errors import MsgwebError

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection

logger = logging.getLogger(__name__)

PREPARATION = "preparation"  # the name of the hold
QUICK_SELECTOR = 256  # characters that are read in about a millisecond
SHARE = 0.1  # of the event loop, for reading longer ones


def prepare(
    connection: "ClientConnection",
    work: Awaitable[object],
    receipt: bytes | None,
    then: Callable[[], None],
    otherwise: Callable[[], None] = lambda: None,
) -> None:
    """Have something done for a connection, then go on; its frames wait until then.

    Args:
        receipt: of the frame, for the ERROR if the work fails.
        then, otherwise: one of them is called, unless the connection ends first.
    """
    connection.wait_for(PREPARATION)
    connection.start_task(_prepare(connection, work, receipt, then, otherwise))


async def _prepare(
    connection: "ClientConnection",
    work: Awaitable[object],
    receipt: bytes | None,
    then: Callable[[], None],
    otherwise: Callable[[], None],
) -> None:
    try:
        await work
        if not connection.is_over:
            then()
    except MsgwebError as error:
        otherwise()
        connection.refuse(error, receipt)
    except Exception:  # a fault of ours: this client is told, and nobody else notices
        logger.exception("what a frame of %s needs could not be done", connection.peer_name)
        otherwise()
        connection.end(MsgwebError("the server failed at this frame; its log says why"))
    finally:
        connection.release_hold(PREPARATION)


class SelectorReading:
    """Reads the selectors of a gateway's clients.

    4,096 characters take some 20 ms of the event loop, in which nobody is served. So long ones are read one after the
    other, each connection's in its turn, with pauses that leave the loop to everybody else.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    @staticmethod
    def is_long(text: str) -> bool:
        """Whether it is to be read here before it is used; what is not is read at once."""
        return len(text) > QUICK_SELECTOR

    async def read(self, text: str, connection: "ClientConnection") -> None:
        """Have `selectors.parse` know it, unless the connection has ended before its turn.

        Raises:
            BadSelector: it is none.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            if connection.is_over:
                return
            await asyncio.sleep(self._not_before - loop.time())
            begun = loop.time()
            try:
                selectors.parse(text)
            finally:
                now = loop.time()
                self._not_before = now + (now - begun) * (1 / SHARE - 1)
