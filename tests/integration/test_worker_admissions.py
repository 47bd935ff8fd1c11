"""Jobs that are admitted along with the claims of a real engine, also where its answer is lost."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import psycopg
import pytest
from django.db import connection

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Delivery, Subscription
from apps.broker.headers import decode_headers
from apps.broker.postgres import PostgresEngine
from apps.broker.postgres.batch import Batch
from apps.broker.postgres.pipeline import ConnectionLost, Outcome
from apps.broker.postgres.writer import Writer
from apps.jobs.models import Job
from apps.jobs.records import Finish, Json, NotStarted, Start, Started
from apps.jobs.submit import submit
from tests import sample_tasks
from workers.admissions import Admissions
from workers.ledger import Ended, Ledger

pytestmark = pytest.mark.django_db(transaction=True)

DEADLINE = 30.0  # seconds, for a loaded machine
TASK = sample_tasks.nothing
Answer = Started | NotStarted | psycopg.Error


class Taker:
    """Takes a job at a time and has it begin, as a worker does."""

    def __init__(self, conninfo: str, namespace: str) -> None:
        self.namespace = namespace
        self._conninfo = conninfo
        self.engine = PostgresEngine(conninfo)
        self.ledger = Ledger(conninfo, "a-host", 42, lambda _jobs: None)
        self.admissions = Admissions(conninfo, self.ledger, "a-host", 42)
        self.engine.accompany(self.admissions.companion(lambda: [TASK.name]))
        self.at_once: list[bool] = []  # whether each of them began while it was delivered
        self._taken: asyncio.Queue[tuple[Subscription, Delivery, Answer]] = asyncio.Queue()

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            headers = decode_headers(delivery.headers)
            job, ticket = uuid.UUID(headers["job-id"]), int(headers.get("job-ticket", "0"))
            start = Start(job, delivery.deliveries, int(self.engine.session), ticket)
            before = self._taken.qsize()
            begun = partial(self._begun, subscription, delivery)
            self.admissions.begin(start, begun, short=delivery.deliveries <= 1)
            self.at_once.append(self._taken.qsize() > before)

    def _begun(self, subscription: Subscription, delivery: Delivery, answer: Answer) -> None:
        self._taken.put_nowait((subscription, delivery, answer))

    def lost(self, subscription: Subscription) -> None:
        raise AssertionError("it is not lost")

    async def do(self) -> tuple[uuid.UUID, int, Started, list[uuid.UUID]]:
        """Ask for a job, and do it: its id, how often its message was delivered, how it began, and the jobs that were
        traced then."""
        job = await asyncio.to_thread(self._ask)
        subscription, delivery, answer = await self._taken.get()
        assert isinstance(answer, Started)
        assert answer.run.job == job
        traces = await asyncio.to_thread(traced, self._conninfo)
        concluded: asyncio.Future[Ended | psycopg.Error] = asyncio.get_running_loop().create_future()
        self.ledger.finish(Finish(answer.run, "succeeded", result=Json("1")), concluded.set_result)
        ended = await concluded
        assert isinstance(ended, Ended)
        assert ended.state == "succeeded"
        self.ledger.forget(answer.run)
        self.engine.ack(subscription, [delivery.id])
        return job, delivery.deliveries, answer, traces

    def _ask(self) -> uuid.UUID:
        try:
            return submit(self.namespace, TASK.name, {}).id
        finally:
            connection.close()  # this thread's

    def run(self, scenario: Callable[["Taker"], Awaitable[None]]) -> None:
        async def main() -> None:
            await self.engine.start()
            self.ledger.start()
            self.admissions.start()
            try:
                self.engine.subscribe(Address(self.namespace, "queue", sample_tasks.QUEUE), self, 1)
                async with asyncio.timeout(DEADLINE):
                    await scenario(self)
            finally:
                await self.ledger.close(DEADLINE)
                await self.admissions.close()
                await self.engine.close()

        asyncio.run(main())


@pytest.fixture
def taker(conninfo: str) -> Taker:
    return Taker(conninfo, Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name)


def traced(conninfo: str) -> list[uuid.UUID]:
    """The jobs that were begun, for all that the next worker would know."""
    with psycopg.connect(conninfo) as opened:
        return [row[0] for row in opened.execute("SELECT unnest(jobs) FROM jobs_admission")]


def attempts(job: uuid.UUID) -> tuple[int, int]:
    found = Job.objects.get(id=job)
    return found.attempt, found.deaths


def test_a_job_begins_while_its_message_is_delivered_and_the_next_claim_settles_it(conninfo: str, taker: Taker) -> None:
    jobs = []

    async def scenario(taker: Taker) -> None:
        for _ in range(3):
            job, deliveries, answer, traces = await taker.do()
            assert (deliveries, answer.deferred, answer.run.attempt) == (1, True, 1)
            assert traces == [job]
            jobs.append(job)

    taker.run(scenario)
    assert taker.at_once == [True] * 3
    assert [attempts(job) for job in jobs] == [(1, 0)] * 3
    assert traced(conninfo) == []


def test_what_a_claim_admitted_whose_answer_was_lost_begins_once_by_the_ledger_and_is_settled(
    conninfo: str, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Writer._written
    lost: list[uuid.UUID] = []

    def lose(self: Writer, batch: Batch, outcome: Outcome) -> None:
        """The first claim that brings something is committed, and the connection breaks before its answer comes."""
        claimed = batch.claims and isinstance(outcome, list) and any(r.nfields > 8 and r.ntuples for r in outcome)
        if claimed and not lost:
            lost.extend(traced(conninfo))
            outcome = ConnectionLost("the answer is lost")
        written(self, batch, outcome)

    monkeypatch.setattr(Writer, "_written", lose)

    async def scenario(taker: Taker) -> None:
        first, deliveries, answer, _ = await taker.do()
        assert lost == [first]
        assert (deliveries, answer.deferred, answer.run.attempt) == (2, False, 1)
        await taker.do()
        third, deliveries, answer, traces = await taker.do()
        assert (deliveries, answer.deferred) == (1, True)
        assert traces == [third]

    taker.run(scenario)
    assert taker.at_once == [False, True, True]
    assert {attempts(job) for job in Job.objects.values_list("id", flat=True)} == {(1, 0)}
