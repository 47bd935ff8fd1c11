"""Lets attempts begin whose start is recorded later (`apps.jobs.recorder`).

What is admitted together is one row of `jobs_admission`. If the worker dies before it has recorded those attempts, who
gets the messages then recovers them from there; so a second beginning is a second attempt.
"""

from collections.abc import Sequence
from uuid import UUID

from psycopg import AsyncConnection

from apps.jobs.pipelined import Pipelined, Row, Step
from apps.jobs.queries import query
from apps.jobs.recorder import number_array, uuid_array
from apps.jobs.records import Run, Start, Started


class Admission:
    """Admits on a connection of its own in autocommit mode. `close` before that is closed."""

    def __init__(self, connection: AsyncConnection[Row], host: str, pid: int) -> None:
        self._statements = Pipelined(connection)
        self._host = host
        self._pid = pid

    def close(self) -> None:
        """The connection is about to be closed."""
        self._statements.close()

    async def admit(
        self, starts: Sequence[Start], number: int, settled: Sequence[tuple[int, int]] = ()
    ) -> dict[int, Started]:
        """Those that may begin, by their place among the given; the others are for `Recorder.write`.

        Args:
            number: of this batch. A process uses each once.
            settled: earlier batches, by session and number, all of which is on record or was given back.

        Raises:
            psycopg.DatabaseError: nothing was admitted, or that is not known. It may be admitted, or begun, again.
        """
        steps: list[Step] = []
        if settled:
            sessions, numbers = zip(*settled, strict=True)
            steps.append(("settle_admissions", {"sessions": number_array(sessions), "numbers": number_array(numbers)}))
        sessions_asking = {start.worker for start in starts}
        groups = [
            (session, [place for place, start in enumerate(starts) if start.worker == session])
            for session in sessions_asking
        ]
        for session, group in groups:
            asked = [starts[place] for place in group]
            steps.append(
                (
                    "admit_fresh",
                    {
                        "ids": uuid_array(start.job for start in asked),
                        "deliveries": number_array(start.delivery for start in asked),
                        "tickets": number_array(start.ticket for start in asked),
                        "session": session,
                        "number": number,
                        "host": self._host,
                        "pid": self._pid,
                    },
                )
            )
        if not steps:
            return {}
        results = await self._statements.run(steps)
        admitted = {}
        for (session, group), rows in zip(groups, results[1 if settled else 0 :], strict=True):
            for position, attempt, task, namespace, arguments, failures in rows:
                place = group[position - 1]
                run = Run(starts[place].job, attempt + 1, session)
                admitted[place] = Started(run, task, namespace, arguments, failures, None, deferred=True)
        return admitted


#: Admits what a claim brings, as a part of the claim (`apps.broker.engine.Companion`): the text, and its parameters.
CLAIMED = query("admit_claimed")
CLAIMED_NAMES = ("tasks", "number", "host", "pid", "settled")


def claimed_parameters(
    tasks: Sequence[str], number: int, host: str, pid: int, settled: Sequence[int]
) -> Sequence[bytes]:
    """The parameters of `CLAIMED`, binary.

    Args:
        tasks: of these alone.
        number: of this batch, as for `Admission.admit`.
        settled: earlier batches of the same session.
    """
    return (
        "\n".join(tasks).encode(),
        number.to_bytes(8, "big"),
        host.encode(),
        pid.to_bytes(4, "big"),
        ",".join(map(str, settled)).encode(),
    )


def claimed_rows(session: int, rows: Sequence[Sequence[bytes | None]]) -> list[tuple[Start, Started | None]]:
    """What the rows of `CLAIMED` say: the starts, and their answers; None: not admitted."""
    answers: list[tuple[Start, Started | None]] = []
    for row in rows:
        _, job, ticket, attempt, task, namespace, arguments, failures = (value or b"" for value in row)
        start = Start(UUID(bytes=job), 1, session, int.from_bytes(ticket, "big"))
        answer = None
        if task:
            run = Run(start.job, int.from_bytes(attempt, "big") + 1, session)
            texts = task.decode(), namespace.decode(), arguments.decode()
            answer = Started(run, *texts, int.from_bytes(failures, "big"), None, deferred=True)
        answers.append((start, answer))
    return answers
