"""Whether two connections share sessions of the server, by how poolers choose the one that they lend out."""

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest

from apps.broker.postgres import pooling

Lend = Callable[["Asker"], int]


class Asker:
    """As a connection: what it asks, a session of those answers that the pooler has."""

    def __init__(self, lend: Lend) -> None:
        self.lend = lend

    async def execute(self, statement: str, *, prepare: bool) -> "Asker":
        assert not prepare, "a prepared statement is another session's at the next question"
        return self

    async def fetchone(self) -> tuple[int]:
        return (self.lend(self),)


def shared(lend: Lend) -> bool:
    return asyncio.run(pooling._shared(Asker(lend), Asker(lend)))


@pytest.mark.parametrize("sessions", range(1, 7))
def test_a_pooler_that_lends_sessions_out_in_turn_or_by_chance_is_found_out(sessions):
    turns = itertools.cycle(range(sessions))
    chance = random.Random(sessions)
    assert shared(lambda _: next(turns))
    assert shared(lambda _: chance.randrange(sessions))


@pytest.mark.parametrize("questions", range(1, 6))
def test_so_is_one_that_lends_out_what_came_back_last_while_another_client_comes_and_goes(questions):
    asked = itertools.count()
    assert shared(lambda _: next(asked) // questions % 2)


def test_who_has_a_session_for_itself_keeps_it():
    assert not shared(id)
