"""Which queue is served next, and how credit is shared out."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import cast
from uuid import uuid4

import pytest

from apps.broker.engine import Address, Consumer, Delivery, Engine, MessageId, SessionId, Subscription
from workers.claims import Claim
from workers.intake import Choice, Intake, parse_choices


class Subscriptions:
    """The part of an engine that an intake uses."""

    def __init__(self) -> None:
        self.all: dict[str, Subscription] = {}

    def subscribe(self, address: Address, consumer: Consumer, credit: int) -> Subscription:
        self.all[address.name] = Subscription(address, consumer, credit)
        return self.all[address.name]

    def unsubscribe(self, subscription: Subscription) -> None:
        del self.all[subscription.address.name]

    def set_credit(self, subscription: Subscription, credit: int) -> None:
        subscription.credit = credit

    @property
    def credit(self) -> dict[str, int]:
        return {name: subscription.credit for name, subscription in self.all.items()}


class World:
    """An intake of the namespace `n`."""

    def __init__(self, queues: str, *, strict: bool = False, known: Sequence[str] = ()) -> None:
        self.engine = Subscriptions()
        choices = parse_choices([queues])
        self.intake = Intake(
            cast(Engine, self.engine), cast(Consumer, None), choices, strict=strict, known=lambda: list(known)
        )
        self.intake.serve(["n"])

    def bring(self, queue: str, count: int = 1) -> list[Claim]:
        subscription = self.engine.all[queue]
        claims = []
        for _ in range(count):
            delivery = Delivery(MessageId(1), subscription.address, b"", b"", True, 1)
            claims.append(Claim(subscription, delivery, SessionId(1), 0.0, math.inf, False, uuid4()))
            self.intake.arrive(claims[-1], asyncio.get_running_loop().time())
        return claims

    def served(self, count: int) -> str:
        """The queues of the next ones."""
        found = []
        for _ in range(count):
            claim = self.intake.next(lambda _claim: True)
            assert claim is not None
            found.append(claim.subscription.address.name)
        return "".join(found)


def run(scenario: Callable[[], None]) -> None:
    """Within an event loop, whose clock the intake reads."""

    async def main() -> None:
        scenario()

    asyncio.run(main())


def test_names_and_patterns_and_weights() -> None:
    assert parse_choices(["a,mail.*=3", "b=0.5"]) == (Choice("a"), Choice("mail.*", 3.0), Choice("b", 0.5))
    for wrong in ("a=0", "a=-1", "a=nan", "a=much", "a=inf"):
        with pytest.raises(ValueError):
            parse_choices([wrong])


def test_a_pattern_means_the_queues_that_tasks_have() -> None:
    world = World("b*,a", known=["a", "bird", "bat", "cow"])
    assert world.intake.names() == ["bird", "bat", "a"]
    assert set(world.engine.all) == {"bird", "bat", "a"}


def test_queues_take_turns() -> None:
    def scenario() -> None:
        world = World("a,b")
        world.bring("a", 4)
        world.bring("b", 4)
        assert world.served(6) in ("ababab", "bababa")

    run(scenario)


def test_a_queue_of_three_times_the_weight_is_served_three_times_as_often() -> None:
    def scenario() -> None:
        world = World("a=3,b")
        world.bring("a", 40)
        world.bring("b", 40)
        served = world.served(40)
        assert abs(served.count("a") - 30) <= 1
        assert "bb" not in served

    run(scenario)


def test_in_strict_order_the_second_waits_for_the_first_to_be_empty() -> None:
    def scenario() -> None:
        world = World("b,a", strict=True)
        world.bring("a", 3)
        world.bring("b", 3)
        assert world.served(4) == "bbba"
        world.bring("b")
        assert world.served(3) == "baa"

    run(scenario)


def test_a_queue_that_was_empty_has_saved_nothing_up() -> None:
    def scenario() -> None:
        world = World("a,b")
        world.bring("a", 50)
        world.served(30)
        world.bring("b", 20)
        assert world.served(20).count("b") <= 11

    run(scenario)


def test_who_cannot_be_placed_holds_up_no_other_queue() -> None:
    def scenario() -> None:
        world = World("a,b", strict=True)
        world.bring("a", 2)
        (wanted,) = world.bring("b")
        assert world.intake.next(lambda claim: claim is wanted) is wanted
        assert world.intake.next(lambda claim: False) is None

    run(scenario)


def test_idle_queues_get_credit_for_a_free_slot_and_busy_ones_share_the_room() -> None:
    def scenario() -> None:
        world = World("a,b,c,d")
        world.intake.grant(2, 2)
        assert world.engine.credit == {"a": 1, "b": 1, "c": 1, "d": 1}
        for claim in world.bring("a", 3):
            assert world.intake.next(lambda _claim: True) is claim
        world.intake.grant(0, 100)
        assert world.engine.credit == {"a": 103, "b": 0, "c": 0, "d": 0}
        world.intake.grant(0, 0)
        assert world.engine.credit == {"a": 3, "b": 0, "c": 0, "d": 0}

    run(scenario)


def test_a_queue_whose_messages_had_to_go_back_gets_no_more_than_can_begin() -> None:
    def scenario() -> None:
        world = World("a,b")
        (claim,) = world.bring("a")
        world.bring("b")
        world.intake.disappointed(claim)
        world.intake.forget(claim)
        world.intake.grant(0, 10)
        assert world.engine.credit == {"a": 0, "b": 10}
        world.intake.grant(1, 10)
        assert world.engine.credit == {"a": 1, "b": 10}

    run(scenario)


def test_a_queue_that_is_served_no_more_stays_until_nothing_of_it_is_held() -> None:
    def scenario() -> None:
        world = World("a")
        (claim,) = world.bring("a")
        world.intake.serve([])
        assert "a" in world.engine.all
        world.intake.forget(claim)
        assert world.intake.empty
        world.intake.serve([])
        assert world.engine.all == {}

    run(scenario)
