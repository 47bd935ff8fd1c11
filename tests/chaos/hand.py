"""A consumer that is a process of its own with an engine inside, as a worker is.

It writes its part of the history into a file, a line before each act, so that what it did is known when it is killed.
Once there is a file `calm` beside that one it behaves. SIGTERM: it ends in order.
"""

import asyncio
import dataclasses
import itertools
import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from apps.broker.engine import Address, Delivery, Message, MessageId, Options, Refusal, Subscription, Unit
from apps.broker.postgres import PostgresEngine
from apps.broker.selectors import parse
from msgweb.errors import MsgwebError, Unavailable
from tests.chaos.history import (
    Closed,
    Delivered,
    Ending,
    Opened,
    Outcome,
    Recorder,
    Sending,
    Settling,
    Subscribing,
    Verb,
    to_json,
)
from tests.chaos.messages import Numbers, body_of, message_of
from tests.chaos.plans import ConsumerPlan, QueuePlan

LIFE_NUMBERS = 10_000_000  # operations and deliveries of one life; each life has numbers of its own
RETRY_SECONDS = 0.05  # between two attempts to reach a database that is away
DELAY_SECONDS = (0.001, 0.4)


@dataclasses.dataclass(frozen=True, slots=True)
class HandPlan:
    """What a hand is told at its start.

    Attributes:
        name: of this life, such as `cq00.2`; the history's server, connection and subscription.
        life: number of this life among all of the run's.
        plan: of the consumer.
        prefix: of the run's queues' names.
        path: where its history goes.
    """

    name: str
    life: int
    seed: int
    plan: ConsumerPlan
    namespace: str
    prefix: str
    conninfo: str
    lease: float
    path: str

    @property
    def calm(self) -> Path:
        """The file that tells it to behave."""
        return Path(f"{self.path}.calm")

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "HandPlan":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        consumer = fields["plan"]
        for name in ("queue", "forward"):
            if consumer[name] is not None:
                consumer[name]["priorities"] = tuple(consumer[name]["priorities"])
                consumer[name] = QueuePlan(**consumer[name])
        fields["plan"] = ConsumerPlan(**consumer)
        return cls(**fields)


def run(text: str) -> None:
    """Be a hand until SIGTERM."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Hand(HandPlan.from_json(text)).work())


class _Diary(Recorder):
    """A recorder whose events are on file at once."""

    def __init__(self, path: Path, first: int) -> None:
        super().__init__()
        self._numbers = first
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: Any, **fields: Any) -> None:
        """An event, now."""
        super().write(kind, **fields)
        os.write(self._file, to_json(self.events.pop()).encode() + b"\n")


class Hand:
    """The consumer: a subscription of an engine of its own. Implements the engine's `Consumer`."""

    def __init__(self, plan: HandPlan) -> None:
        self._told = plan
        self._plan = plan.plan
        self._chance = random.Random(f"{plan.seed}/{plan.name}")
        self._numbers = Numbers(plan.name, self._chance)
        self._diary = _Diary(Path(plan.path), plan.life * LIFE_NUMBERS)
        self._held: list[tuple[int, MessageId]] = []
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._transactions = itertools.count(1)

    async def work(self) -> None:
        """Until SIGTERM."""
        told, loop = self._told, asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._over.set)
        engine = PostgresEngine(told.conninfo, kind="worker", lease_seconds=told.lease)
        while not self._over.is_set():
            try:
                await engine.start()
                break
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
        name, queue = told.name, self._plan.queue
        self._diary.write(Opened, connection=name, server=name)
        self._diary.write(
            Subscribing,
            subscription=name,
            connection=name,
            queue=queue.name,
            credit=self._plan.credit,
            patient=queue.retry_delay > 0,
        )
        subscription = engine.subscribe(
            self._address(queue),
            self,
            self._plan.credit,
            priority=self._plan.priority,
            selector=None if self._plan.selector is None else parse(self._plan.selector),
        )
        acting = asyncio.create_task(self._act(engine, subscription))
        await self._over.wait()
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
        self._diary.write(Closed, connection=name, by="client")
        await engine.close()

    def _address(self, queue: QueuePlan) -> Address:
        return Address(self._told.namespace, "queue", self._told.prefix + queue.name)

    # -- the engine's consumer

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Write down what came, and keep it."""
        for delivery in deliveries:
            tag = self._diary.number()
            self._diary.write(
                Delivered,
                tag=tag,
                subscription=self._told.name,
                message=message_of(delivery.body),
                queue=delivery.address.name.removeprefix(self._told.prefix),
                count=delivery.deliveries,
                redelivered=delivery.deliveries > 1,
            )
            self._held.append((tag, delivery.id))
        self._news.set()

    def lost(self, subscription: Subscription) -> None:
        """What is held is with others."""
        self._held.clear()

    # -- acting

    async def _act(self, engine: PostgresEngine, subscription: Subscription) -> None:
        plan, chance = self._plan, self._chance
        while True:
            while not self._held:
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(chance.uniform(0, plan.work) if plan.work else 0)
            if not self._held:
                continue
            if chance.random() < plan.transactions:
                self._transact(engine, subscription)
            else:
                self._settle(engine, subscription)

    def _pick(self) -> tuple[int, MessageId]:
        return self._held.pop(self._chance.randrange(len(self._held)) if self._plan.shuffled else 0)

    def _choose(self) -> Verb:
        roll = 1.0 if self._told.calm.exists() else self._chance.random()
        if roll < self._plan.nack:
            return "nack-later" if self._plan.queue.retry_delay else "nack"
        return "nack-later" if roll < self._plan.nack + self._plan.later else "ack"

    def _settle(self, engine: PostgresEngine, subscription: Subscription) -> None:
        tag, message_id = self._pick()
        verb = self._choose()
        confirmed = self._chance.random() < self._plan.confirmed
        op = self._note_settling(verb, tag, None, confirmed)
        done = self._outcome_of(op) if confirmed else None
        if verb == "ack":
            engine.ack(subscription, [message_id], done)
        else:
            engine.nack(subscription, [message_id], done, self._refusal(verb))

    def _refusal(self, verb: Verb) -> Refusal:
        if verb == "nack" or self._plan.queue.retry_delay:
            return Refusal()
        return Refusal(delay=self._chance.uniform(*DELAY_SECONDS))

    def _transact(self, engine: PostgresEngine, subscription: Subscription) -> None:
        plan, chance, name = self._plan, self._chance, self._told.name
        transaction = f"{name}.t{next(self._transactions)}"
        unit = Unit()
        for _ in range(chance.randint(1, plan.unit)):
            if not self._held:
                break
            tag, message_id = self._pick()
            verb = self._choose()
            self._note_settling(verb, tag, transaction, True)
            if verb == "ack":
                unit.acks.append((subscription, [message_id]))
            else:
                unit.nacks.append((subscription, [message_id], self._refusal(verb)))
            if plan.forward is not None:
                unit.sends.append(self._message(plan.forward, transaction))
        op = self._diary.number()
        self._diary.write(Ending, op=op, connection=name, transaction=transaction, commit=True)
        engine.transact(unit, self._outcome_of(op))

    def _message(self, queue: QueuePlan, transaction: str) -> Message:
        drawn = self._numbers.draw(queue)
        priority, group = drawn.pop("priority"), drawn["group"]
        del drawn["turn"]
        persistent = self._chance.random() < 0.8
        fields = {**drawn, "persistent": persistent, "transaction": transaction}
        self._diary.write(Sending, op=self._diary.number(), connection=self._told.name, **fields)
        options = Options(group=group) if group is not None else None
        body = body_of(drawn["message"], self._chance.randint(0, 100))
        return Message(self._address(queue), body, b"", persistent, priority, options)

    def _note_settling(self, verb: Verb, tag: int, transaction: str | None, asked: bool) -> int:
        op = self._diary.number()
        self._diary.write(
            Settling,
            op=op,
            connection=self._told.name,
            verb=verb,
            tags=(tag,),
            transaction=transaction,
            asked=asked,
        )
        return op

    def _outcome_of(self, op: int) -> Any:
        def done(error: MsgwebError | None) -> None:
            result = "done" if error is None else "open" if isinstance(error, Unavailable) else "refused"
            self._diary.write(Outcome, op=op, result=result)

        return done
