"""What a worker makes of jobs that were admitted with the claim of their messages."""

from uuid import UUID, uuid4

from apps.broker.engine import SessionId
from apps.jobs.recorder import NotStarted, Run, Start, Started
from workers.admissions import Admissions
from workers.ledger import Ledger

SESSION = SessionId(7)
Row = list[bytes | None]


class Desk:
    """Admissions without a database, and what they answered."""

    def __init__(self) -> None:
        self.ledger = Ledger("", "a-host", 42, lambda _jobs: None)
        self.admissions = Admissions("", self.ledger, "a-host", 42)
        self.tasks = ["samples.nothing"]
        self.companion = self.admissions.companion(lambda: self.tasks)
        self.settled = ""  # the batches that the latest claim settled
        self.answers: list[Started | NotStarted | Exception] = []

    def claim(self, *rows: Row) -> None:
        asking = self.companion.ask(SESSION)
        if asking is not None:
            self.settled = asking[0][-1].decode()
            asking[1](rows)

    def begin(self, job: UUID) -> None:
        self.admissions.begin(start_of(job), self.answers.append)


def start_of(job: UUID) -> Start:
    return Start(job, 1, SESSION, 0)


def admitted(job: UUID) -> Row:
    zero = (0).to_bytes(4, "big")
    return [b"id", job.bytes, zero, zero, b"samples.nothing", b"samples.test", b"{}", zero]


def refused(job: UUID) -> Row:
    return [b"id", job.bytes, (0).to_bytes(4, "big"), None, None, None, None, None]


def test_what_was_admitted_with_its_claim_begins_at_once_and_once() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.begin(job)
    run = Run(job, 1, SESSION)
    assert desk.answers == [Started(run, "samples.nothing", "samples.test", "{}", 0, None, deferred=True)]
    assert desk.ledger.is_deferred(run)
    desk.begin(job)
    assert len(desk.answers) == 1  # the second one is asked about


def test_a_message_that_went_back_and_comes_again_is_judged_anew() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.claim(refused(job))
    desk.begin(job)
    assert desk.answers == []
    assert not desk.ledger.is_deferred(Run(job, 1, SESSION))


def test_a_claim_that_asks_nothing_ends_what_was_said_before() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.tasks = []
    desk.claim(admitted(job))
    desk.begin(job)
    assert desk.answers == []


def test_a_batch_is_settled_when_all_of_it_is_on_record() -> None:
    desk, one, two = Desk(), uuid4(), uuid4()
    desk.claim(admitted(one), admitted(two))
    desk.begin(one)
    desk.begin(two)
    desk.ledger.forget(Run(one, 1, SESSION))
    desk.claim()
    assert desk.settled == ""
    desk.ledger.forget(Run(two, 1, SESSION))
    desk.claim()
    assert desk.settled == "1"
    desk.claim()
    assert desk.settled == ""
