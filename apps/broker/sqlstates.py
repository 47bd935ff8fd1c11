"""From the SQLSTATEs that the engine's own SQL raises to the errors of `msgweb.errors`."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError

from apps.broker.errors import QueueFull
from msgweb.errors import BadDestination, NotFound

_ERRORS = {"MW400": BadDestination, "MW404": NotFound, "MW413": QueueFull}


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the database refused as an error of ours; others pass.

    Raises:
        BadDestination, NotFound, QueueFull: see the SQL function that was called.
    """
    try:
        yield
    except DatabaseError as error:
        kind = _ERRORS.get(getattr(error.__cause__, "sqlstate", None) or "")
        if kind is None:
            raise
        raise kind(str(error.__cause__).partition("\n")[0]) from error
