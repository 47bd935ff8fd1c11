"""Who makes a change of access, for the audit log's triggers."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """A transaction whose changes of access are this person's. Without it they are the database role's.

    Args:
        name: a user's name, or what a command calls itself.
    """
    with transaction.atomic():
        _name_actor(name)
        yield
        _name_actor("")  # a transaction around this one goes on without a name


def _name_actor(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('msgweb.actor', %s, true)", [name])
