"""What a client says about jobs: of which attempt it is, and what becomes of that."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.stomp.gateway.ports import Hearing, Word
from msgweb.errors import BadMessage, MsgwebError

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection

HEARINGS = 100  # of jobs that came over other connections, whose logs are bounded one by one


class Saying:
    """The words of one connection."""

    __slots__ = ("_connection", "_hearings")

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self._hearings: dict[tuple[str, str | None], Hearing] = {}  # the latest last

    async def say(self, job: str, named: str | None, words: Sequence[Word]) -> Sequence[MsgwebError | None]:
        """Record words about a job, all of the attempt that they name, if they do. What does not count any more is
        dropped, and the client told so.

        Returns:
            What is wrong with each.

        Raises:
            MsgwebError: none of them was recorded.
        """
        connection = self._connection
        work = connection.work
        if work is not None and work.is_past(job, named):
            return [None] * len(words)
        assignment = None if work is None else work.spoken_of(job, named)
        if assignment is not None and assignment.attempt is not None:
            if assignment.hearing is None:
                assignment.hearing = self._hear(job)
            hearing, attempt, ending = assignment.hearing, assignment.attempt.number, assignment.ending
            answers = await hearing.hear(words, attempt=attempt, ending=ending)
        else:
            answers = await self._hearing(job, named).hear(words, attempt=_number(named))
        if work is not None:
            for answer in answers:
                if not isinstance(answer, MsgwebError) and not (answer.counted and answer.state == "running"):
                    work.heard(job, named, assignment, answer)
                    break
        return [answer if isinstance(answer, MsgwebError) else None for answer in answers]

    def _hearing(self, job: str, named: str | None) -> Hearing:
        """Of a job that came over another connection, or that was taken by a word alone."""
        hearings = self._hearings
        key = job, named
        hearing = hearings[key] = hearings.pop(key) if key in hearings else self._hear(job)
        if len(hearings) > HEARINGS:
            del hearings[next(iter(hearings))]
        return hearing

    def _hear(self, job: str) -> Hearing:
        connection = self._connection
        assert connection.tasks is not None
        login = connection.entered.login
        return connection.tasks.hearing(namespace=connection.namespace, job_id=job, requested_by=login)


def _number(named: str | None) -> int | None:
    if named is None:
        return None
    if not (named.isascii() and named.isdecimal()) or len(named) > 9:
        raise BadMessage(f"job-attempt is the number that came with the job, not {named[:40]!r}")
    return int(named)
