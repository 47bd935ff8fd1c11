"""A state machine beside the engine: whatever is asked for, in whatever order, what it delivers is what a model says.

After each step the machine waits until everything is delivered that can be: then either nothing deliverable waits or no
consumer has credit. What came must be the first of what waited, by priority and order; and nothing else may have come.
"""

import asyncio
import uuid
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from apps.accounts.models import Namespace
from apps.broker.engine import Address, Message, Options, Subscription, Unit
from apps.broker.headers import decode_headers
from apps.broker.postgres import PostgresEngine
from apps.broker.selectors import parse
from tests.conformance.conftest import NAMESPACE
from tests.conformance.engines import DEADLINE, Recorder, abandon, done, sync

pytestmark = pytest.mark.django_db(transaction=True)

MAX_FAILURES = 3


@dataclass(eq=False)
class Sent:
    """A message as the model knows it.

    Attributes:
        colour: what selectors look at.
        mortal: it has a time to live.
        expired: that is over; it is held still.
        unseen: so many crashes may have counted as a delivery: it was taken, and nobody can say whether it was seen.
    """

    place: int
    priority: int
    group: str | None
    colour: str = "red"
    mortal: bool = False
    expired: bool = False
    holder: "Member | None" = None
    deliveries: int = 0
    failures: int = 0
    unseen: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the order of delivery."""
        return -self.priority, self.place


@dataclass(eq=False)
class Member:
    """A consumer."""

    engine: PostgresEngine
    recorder: Recorder
    subscription: Subscription
    credit: int
    colour: str | None = None  # a selector: no other messages
    seen: int = 0
    held: dict[int, Sent] = field(default_factory=dict)  # by the engine's id

    def wants(self, sent: Sent) -> bool:
        """Whether it could take the message now."""
        return len(self.held) < self.credit and self.colour in (None, sent.colour)


class Machine(RuleBasedStateMachine):
    """See the module."""

    conninfo = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = Address(NAMESPACE, "queue", f"m-{uuid.uuid4()}")
        self.letters = self.queue._replace(name=f"DLQ.{self.queue.name}")
        self.engines: list[PostgresEngine] = []
        self.members: list[Member] = []
        self.waiting: dict[bytes, Sent] = {}
        self.dead: list[bytes] = []
        self.count = 0

    # -- helpers

    def run(self, work):
        return self.loop.run_until_complete(work)

    async def open(self) -> PostgresEngine:
        engine = PostgresEngine(self.conninfo)
        await engine.start()
        return engine

    def deliverable(self) -> list[Sent]:
        """What waits and may go out, in order: of a group its first, while none of it is worked on."""
        busy = {sent.group for member in self.members for sent in member.held.values()}
        heads: set[str] = set()
        found = []
        for sent in sorted(self.waiting.values(), key=lambda sent: sent.place):
            if sent.group is not None:
                if sent.group in busy or sent.group in heads:
                    continue
                heads.add(sent.group)
            found.append(sent)
        return sorted(found, key=lambda sent: sent.rank)

    def free(self) -> int:
        return sum(member.credit - len(member.held) for member in self.members)

    async def settle(self) -> None:
        """Wait until all has come that the model expects, and see that nothing else did."""
        if self.selective:
            await self.settle_selectors()
        else:
            await self.settle_in_order()
        for engine in self.engines:
            await sync(engine, self.queue)
        for member in self.members:
            assert not self.take(member), "more came than there was credit for"

    async def settle_selectors(self) -> None:
        """Until no consumer with credit wants what waits. Of those outside of groups each got the first ones that it
        wants."""
        deadline = self.loop.time() + DEADLINE / 3
        before = {id(member): member.seen for member in self.members}
        while True:
            for member in self.members:
                self.take(member)
            left = self.deliverable()
            if not any(member.wants(sent) for member in self.members for sent in left):
                break
            assert self.loop.time() < deadline, f"{left} should come"
            await self.members[0].recorder.sleep()
        for member in self.members:
            came = [member.held[one.id] for one in member.recorder.deliveries[before[id(member)] :]]
            last = max((sent.rank for sent in came if sent.group is None), default=None)
            for sent in left:
                if sent.group is None and member.colour in (None, sent.colour):
                    assert last is None or sent.rank > last, f"{sent} was passed over"

    async def settle_in_order(self) -> None:
        """Until the first of what waits has come, as far as the credit goes."""
        while self.free() and (expected := self.deliverable()[: self.free()]):
            came: list[Sent] = []
            deadline = self.loop.time() + DEADLINE / 3
            while len(came) < len(expected):
                for member in self.members:
                    came += self.take(member)
                if len(came) < len(expected):
                    assert self.loop.time() < deadline, f"{expected} should come, {came} did"
                    await self.members[0].recorder.sleep()
            assert {sent.place for sent in came} == {sent.place for sent in expected}

    def take(self, member: Member) -> list[Sent]:
        """What came to a consumer since the last look."""
        taken = []
        for delivery in member.recorder.deliveries[member.seen :]:
            sent = self.waiting.pop(delivery.body, None)
            assert sent is not None, f"{delivery.body!r} came, which does not wait"
            assert member.colour in (None, sent.colour)
            others = [one for one in self.waiting.values() if one.group is not None and one.group == sent.group]
            assert all(one.place > sent.place for one in others), f"{sent} came before an earlier one of its group"
            sent.deliveries += 1
            assert sent.deliveries <= delivery.deliveries <= sent.deliveries + sent.unseen
            sent.deliveries, sent.unseen = delivery.deliveries, 0
            sent.holder = member
            member.held[delivery.id] = sent
            taken.append(sent)
        member.seen = len(member.recorder.deliveries)
        assert len(member.held) <= member.credit
        return taken

    def back(self, sent: Sent) -> None:
        sent.holder = None
        if sent.expired:
            return
        self.waiting[b"%d" % sent.place] = sent

    def make(self, priority: int, group: str | None) -> Message:
        body = b"%d" % self.count
        colour = ("red", "blue", "blue")[self.count % 3]
        mortal = self.mortals and self.count % 4 == 1
        self.waiting[body] = Sent(self.count, priority, group, colour, mortal)
        self.count += 1
        options = Options(group=group, ttl=3600.0 if mortal else None) if group or mortal else None
        return Message(
            self.queue,
            body,
            b"colour:%b\n" % colour.encode(),
            persistent=self.count % 3 > 0,
            priority=priority,
            options=options,
        )

    # -- rules

    @initialize(groups=st.booleans(), selective=st.booleans(), mortals=st.booleans())
    def begin(self, groups: bool, selective: bool, mortals: bool) -> None:
        self.selective = selective
        self.mortals = mortals
        self.groups = [None, "a", "b"] if groups else [None]
        self.engines = [self.run(self.open()), self.run(self.open())]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            (identifier,) = connection.execute(
                "SELECT msgweb.destination_id(%s, 'queue', %s)", [NAMESPACE, self.queue.name]
            ).fetchone() or (None,)
            connection.execute(
                "UPDATE msgweb.destination SET max_deliveries = %s WHERE id = %s", [MAX_FAILURES, identifier]
            )

    @rule(
        which=st.integers(0, 1),
        what=st.lists(st.tuples(st.sampled_from([4, 4, 4, 0, 9]), st.integers(0, 2)), min_size=1, max_size=6),
        as_unit=st.booleans(),
    )
    def send(self, which: int, what: list[tuple[int, int]], as_unit: bool) -> None:
        async def work() -> None:
            engine = self.engines[which]
            messages = [self.make(priority, self.groups[number % len(self.groups)]) for priority, number in what]
            if as_unit:
                await done(lambda callback: engine.transact(Unit(sends=messages), callback))
            else:
                for message in messages[:-1]:
                    engine.send(message)
                await done(lambda callback: engine.send(messages[-1], callback))
            await self.settle()

        self.run(work())

    @precondition(lambda self: len(self.members) < 4)
    @rule(which=st.integers(0, 1), credit=st.integers(1, 5), colour=st.sampled_from([None, "red", "blue", "blue"]))
    def subscribe(self, which: int, credit: int, colour: str | None) -> None:
        async def work() -> None:
            engine = self.engines[which]
            recorder = Recorder(engine)
            wanted = colour if self.selective else None
            selector = None if wanted is None else parse(f"colour = '{wanted}'")
            subscription = engine.subscribe(self.queue, recorder, credit, selector=selector)
            self.members.append(Member(engine, recorder, subscription, credit, wanted))
            await self.settle()

        self.run(work())

    @precondition(lambda self: self.members)
    @rule(data=st.data(), how=st.sampled_from(["ack", "ack", "nack", "unit", "failed", "leave"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        member = data.draw(st.sampled_from(self.members))
        ids = data.draw(st.lists(st.sampled_from(sorted(member.held)), unique=True)) if member.held else []

        async def work() -> None:
            engine, subscription = member.engine, member.subscription
            if how in ("failed", "leave"):
                self.members.remove(member)
                for number, sent in enumerate(member.held.values()):
                    self.fail(sent) if how == "failed" and number == 0 else self.back(sent)
                await done(lambda callback: engine.unsubscribe(subscription, callback, failed=how == "failed"))
            elif how == "nack":
                for identifier in ids:
                    self.fail(member.held.pop(identifier))
                await done(lambda callback: engine.nack(subscription, ids, callback))
            else:
                for identifier in ids:
                    del member.held[identifier]
                if how == "unit":
                    unit = Unit(sends=[self.make(4, None)], acks=[(subscription, ids)])
                    await done(lambda callback: engine.transact(unit, callback))
                else:
                    await done(lambda callback: engine.ack(subscription, ids, callback))
            await self.settle()

        self.run(work())

    def fail(self, sent: Sent) -> None:
        sent.failures += 1
        if sent.failures >= MAX_FAILURES:
            self.dead.append(b"%d" % sent.place)
        else:
            self.back(sent)

    @precondition(lambda self: self.mortals)
    @rule()
    def expire(self) -> None:
        """An hour passes for what has a time to live: what waits is gone, what is held does not come back."""

        async def work() -> None:
            for body, sent in list(self.waiting.items()):
                if sent.mortal:
                    del self.waiting[body]
            for member in self.members:
                for sent in member.held.values():
                    sent.expired = sent.mortal
            async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as connection:
                await connection.execute(
                    "UPDATE msgweb.message SET expires_at = clock_timestamp() - interval '1 s'"
                    " WHERE expires_at IS NOT NULL AND destination = msgweb.destination_id(%s, 'queue', %s)",
                    [NAMESPACE, self.queue.name],
                )
                await connection.execute("SELECT msgweb.sweep()")
            await self.settle()

        self.run(work())

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        async def work() -> None:
            gone = self.engines[which]
            if any(member.engine is gone for member in self.members):
                for sent in self.waiting.values():
                    sent.unseen += 1
            for member in [member for member in self.members if member.engine is gone]:
                self.members.remove(member)
                for sent in member.held.values():
                    self.back(sent)
            await abandon(gone, self.conninfo)
            self.engines[which] = await self.open()
            await self.settle()

        self.run(work())

    @invariant()
    def nobody_has_more_than_the_credit(self) -> None:
        for member in self.members:
            assert len(member.subscription.held) == len(member.held)

    def teardown(self) -> None:
        async def work() -> None:
            for member in self.members:
                member.engine.unsubscribe(member.subscription)
                for sent in member.held.values():
                    self.back(sent)
            self.members = []
            if self.engines:
                engine = self.engines[0]
                rest, letters = Recorder(engine, acks=True), Recorder(engine, acks=True)
                engine.subscribe(self.queue, rest, 1000)
                engine.subscribe(self.letters, letters, 1000)
                await rest.count(len(self.waiting))
                await letters.count(len(self.dead))
                await sync(engine, self.queue)
                assert sorted(rest.bodies) == sorted(self.waiting)
                assert sorted(letters.bodies) == sorted(self.dead)
                assert all(
                    decode_headers(letter.headers)["dead-letter-reason"] == "max-deliveries"
                    for letter in letters.deliveries
                )
            for engine in self.engines:
                await engine.close()

        try:
            self.run(work())
        finally:
            self.loop.close()


def test_the_engine_agrees_with_a_model(conninfo):
    Namespace.objects.get_or_create(name=NAMESPACE)
    machine = type("EngineMachine", (Machine,), {"conninfo": conninfo})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each step takes its time: no shrinking
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
