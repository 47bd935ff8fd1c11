"""Where claims begin, what is claimed ahead, and what the next batch takes."""

from apps.broker.engine import Address, Delivery, Message, MessageId
from apps.broker.postgres import backlog
from apps.broker.postgres.ahead import LIMIT, ReadAhead
from apps.broker.postgres.backlog import Backlog
from apps.broker.postgres.floors import LAG, Floors
from apps.broker.postgres.operations import PERSISTENT, SPECIAL, Operation

QUEUE = Address("n", "queue", "q")


def delivery(place: int, priority: int = 4, *, expires: bool = False) -> Delivery:
    return Delivery(MessageId(place), QUEUE, b"", b"", True, 1, priority=priority, expires=expires, place=place)


def places(deliveries: list[Delivery]) -> list[int]:
    return [one.place for one in deliveries]


class TestFloors:
    """Claims begin where others have ended some moments ago."""

    def test_a_claim_begins_at_a_floor_that_is_one_to_two_lags_old(self):
        floors = Floors((4,))
        assert floors.start(100.0) == [0]
        floors.lift(4, 10)
        assert floors.start(100.0 + LAG / 2) == [0]
        assert floors.start(100.0 + 1.1 * LAG) == [0]
        floors.lift(4, 20)
        assert floors.start(100.0 + 2.2 * LAG) == [10]
        assert floors.start(100.0 + 3.3 * LAG) == [20]

    def test_what_becomes_ready_below_lowers_all_of_them_at_once(self):
        floors = Floors((9, 4))
        for step in range(4):
            floors.lift(4, 100)
            floors.start(100.0 + 1.1 * step * LAG)
        assert floors.start(200.0) == [0, 100]
        floors.lower(50)
        assert floors.start(200.0) == [0, 50] and floors.highest == {9: 0, 4: 50}

    def test_a_claim_during_which_something_became_ready_lifts_them_up_to_there(self):
        floors = Floors((4,))
        floors.start(100.0)
        floors.lower(60)  # behind all that was known
        floors.lower(50)
        floors.lift(4, 40)
        assert floors.highest[4] == 40 and not floors.reaches(50) and floors.reaches(51)
        floors.lift(4, 80)
        assert floors.highest[4] == 50
        floors.start(101.0)
        floors.lift(4, 80)
        assert floors.highest[4] == 80

    def test_nothing_is_lifted_by_a_claim_during_which_anything_may_have_become_ready(self):
        floors = Floors((4,))
        floors.start(100.0)
        floors.lower(0)
        floors.lift(4, 80)
        assert floors.highest[4] == 0

    def test_a_floor_is_never_lifted_down(self):
        floors = Floors((4,))
        floors.lift(4, 10)
        floors.lift(4, 5)
        assert floors.highest[4] == 10


class TestReadAhead:
    """What lies at hand keeps the order of delivery."""

    def test_it_aims_at_nothing_until_consumers_run_dry_and_then_at_twice_as_much_each_time(self):
        ahead = ReadAhead()
        assert ahead.reach == 0 and ahead.keep([delivery(1)]) == [delivery(1)]
        ahead.grow(0)
        assert ahead.reach == 0
        for expected in (2, 4, 8):
            ahead.grow(2)
            assert ahead.reach == expected
        for _ in range(20):
            ahead.grow(2)
        assert ahead.reach == LIMIT

    def test_it_keeps_as_many_as_it_aims_at_and_gives_the_others_back(self):
        ahead = ReadAhead()
        ahead.grow(2)
        assert places(ahead.keep([delivery(place) for place in (3, 4, 5)])) == [5]
        assert len(ahead) == 2 and ahead.last == 4 and ahead.ids() == [3, 4]
        assert places(ahead.take(1)) == [3]
        ahead.put_back([delivery(3)])
        assert ahead.empty() == [3, 4] and ahead.reach == 0 and not ahead

    def test_a_message_that_may_expire_is_not_kept_and_nothing_behind_it(self):
        ahead = ReadAhead()
        ahead.grow(10)
        assert places(ahead.keep([delivery(1), delivery(2, expires=True), delivery(3)])) == [2, 3]

    def test_new_ones_go_to_their_places(self):
        ahead = ReadAhead()
        ahead.grow(10)
        ahead.keep([delivery(5), delivery(7), delivery(1, priority=0)])
        assert ahead.lowest == 0
        assert places(ahead.merged([delivery(9, priority=9), delivery(6), delivery(8)])) == [9, 5, 6, 7, 8, 1]
        assert not ahead


class TestBacklog:
    """In order, in portions, and what has to wait apart."""

    @staticmethod
    def sending(*names: str, size: int = 0) -> Operation:
        return Operation([Message(QUEUE._replace(name=name), b"") for name in names], size=size)

    def test_a_batch_takes_all_of_it_or_what_one_transaction_carries(self, monkeypatch):
        monkeypatch.setattr(backlog, "BATCH_OPERATIONS", 3)
        monkeypatch.setattr(backlog, "BATCH_BYTES", 100)
        waiting = Backlog()
        small = [self.sending("a", size=10) for _ in range(5)]
        large = self.sending("a", size=500)
        for operation in (*small, large, small[0]):
            waiting.add(operation)
        assert waiting.take() == small[:3] and waiting.take() == [*small[3:], large] and waiting.take() == [small[0]]
        assert waiting.empty and waiting.take() == []

    def test_what_goes_back_comes_first_and_is_counted_until_it_is_taken(self):
        waiting = Backlog()
        other = self.sending("a")
        waiting.add(other)
        waiting.give_back([MessageId(1)], 7)
        assert waiting.returning == 1
        waiting.isolating = 1
        taken = waiting.take()
        assert [one.recalls for one in taken] == [[1]] and waiting.returning == 0 and waiting.isolating == 0
        waiting.put_back(taken)
        assert waiting.returning == 1 and [*waiting] == [*taken, other]

    def test_what_names_a_parked_destination_waits_with_all_that_shares_one_with_it(self):
        waiting = Backlog()
        waiting.parked_names.add(QUEUE._replace(name="a"))
        first, second, third = self.sending("a", "b"), self.sending("b"), self.sending("c")
        assert waiting.unparked([first, second, third]) == [third]
        assert not waiting.empty and len(waiting) == 0 and [*waiting] == [first, second]
        waiting.unpark()
        assert waiting.take() == [first, second] and waiting.empty

    def test_it_is_patient_where_nobody_waits_for_any_of_it(self):
        waiting = Backlog()
        assert not waiting.patient
        waiting.add(Operation(acks=[(MessageId(1), PERSISTENT)], session=1))
        assert waiting.patient
        waiting.add(Operation(acks=[(MessageId(2), SPECIAL)], session=1))  # the next of its group waits for it
        assert not waiting.patient
