"""What a worker makes of jobs that were admitted with the claim of their messages."""

from uuid import UUID, uuid4

from apps.broker.engine import SessionId
from apps.jobs.records import NotStarted, Run, Start, Started
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

    def begin(self, job: UUID, *, short: bool = True) -> None:
        self.admissions.begin(start_of(job), self.answers.append, short=short)


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


def test_what_was_admitted_with_its_claim_begins_so_though_its_task_seems_to_be_a_long_one_by_now() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.begin(job, short=False)
    assert [answer.deferred for answer in desk.answers if isinstance(answer, Started)] == [True]


def test_what_seems_to_be_long_and_was_not_admitted_is_the_ledgers() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(refused(job))
    desk.begin(job, short=False)
    assert list(desk.ledger._starts) == [job]
    assert desk.answers == []


def test_what_goes_back_before_it_began_does_not_begin_and_is_settled() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.admissions.give_back(start_of(job))
    desk.begin(job)
    assert desk.answers == []
    desk.claim()
    assert desk.settled == "1"


def test_a_claim_that_it_does_not_go_along_with_ends_what_was_said_before() -> None:
    desk, job = Desk(), uuid4()
    desk.claim(admitted(job))
    desk.companion.without()
    desk.begin(job)
    assert desk.answers == []
    assert not desk.ledger.is_deferred(Run(job, 1, SESSION))


def test_what_a_claim_may_have_admitted_whose_answer_was_lost_is_settled_once_a_later_one_has_answered() -> None:
    desk, job = Desk(), uuid4()
    desk.companion.ask(SESSION)  # no answer comes
    desk.claim(admitted(job))
    assert desk.settled == ""  # the two may be of one transaction
    desk.begin(job)
    desk.claim()
    assert desk.settled == "1"
    desk.claim()
    assert desk.settled == ""


def test_two_claims_of_one_transaction_answer_both() -> None:
    desk, one, two = Desk(), uuid4(), uuid4()
    first, second = desk.companion.ask(SESSION), desk.companion.ask(SESSION)
    assert first is not None
    assert second is not None
    first[1]([admitted(one)])
    second[1]([admitted(two)])
    desk.begin(one)
    desk.begin(two)
    assert len(desk.answers) == 2
    desk.claim()
    assert desk.settled == ""
