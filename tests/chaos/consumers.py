"""Who consumes in a run: STOMP clients that ack, refuse, commit, abort, vanish and stall by chance."""

import asyncio
import random
from typing import TYPE_CHECKING

from tests.chaos.clients import Client, Message
from tests.chaos.history import Verb
from tests.chaos.messages import Numbers
from tests.chaos.plans import SLOTS, ConsumerPlan
from tests.chaos.producers import RETRY_SECONDS

if TYPE_CHECKING:
    from tests.chaos.runner import Run

OPEN_RECEIPTS = 50  # a consumer waits for some of its receipts now and then
DELAY_MILLISECONDS = (1, 400)  # of a NACK with a delay
STALL_SECONDS = (0.02, 0.4)


class Consumer:
    """Consumes one queue, until the run is over; comes back whenever its connection breaks."""

    def __init__(self, run: "Run", plan: ConsumerPlan) -> None:
        self._run = run
        self._plan = plan
        self._chance = random.Random(f"{run.plan.seed}/{plan.name}")
        self._numbers = Numbers(plan.name, self._chance)
        self._slot = plan.slot
        self._connections = 0
        self._subscriptions = 0
        self._subscription = ""
        self._held: list[Message] = []

    async def work(self) -> None:
        """Until the run is over."""
        while not self._run.over.is_set():
            self._connections += 1
            self._held = []
            client = await self._run.connect(self._slot, f"{self._plan.name}.{self._connections}", self._take)
            if client is None:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._subscribe(client)
                await self._consume(client)
            if self._plan.hop or self._run.calm.is_set():
                self._slot = self._chance.choice(SLOTS)

    def _take(self, subscription: str, message: Message) -> None:
        self._run.delivered(message[2])
        if subscription == self._subscription:
            self._held.append(message)

    def _subscribe(self, client: Client) -> None:
        self._subscriptions += 1
        self._held = []
        self._subscription = f"{self._plan.name}.s{self._subscriptions}"
        queue = self._plan.queue
        client.subscribe(
            self._subscription,
            queue.name,
            self._plan.credit,
            self._plan.mode,
            patient=queue.retry_delay > 0,
            priority=self._plan.priority,
            selector=self._plan.selector,
        )

    async def _consume(self, client: Client) -> None:
        run = self._run
        while client.live:
            if run.over.is_set():
                await client.leave()
                return
            if not self._held or len(client.waiting) > OPEN_RECEIPTS:
                await self._news(client)
                continue
            if self._plan.work:
                await asyncio.sleep(self._chance.uniform(0, self._plan.work))
            else:
                await asyncio.sleep(0)
            if self._held and client.live:
                await self._act(client)

    async def _news(self, client: Client) -> None:
        client.changed.clear()  # here and not in the task, which begins later: nothing that comes may be missed
        news = asyncio.create_task(client.changed.wait())
        over = asyncio.create_task(self._run.over.wait())
        await asyncio.wait((news, over), return_when=asyncio.FIRST_COMPLETED)
        for task in (news, over):
            task.cancel()
        await asyncio.gather(news, over, return_exceptions=True)

    async def _act(self, client: Client) -> None:
        """Do something about what is held, or something bad."""
        plan, chance = self._plan, self._chance
        if not self._run.calm.is_set():
            if chance.random() < plan.cut:
                client.cut()
                return
            if chance.random() < plan.unsubscribe:
                client.unsubscribe(self._subscription)
                self._subscribe(client)
                return
            if chance.random() < plan.stall:
                client.pause()
                await asyncio.sleep(chance.uniform(*STALL_SECONDS))
                client.resume()
                return
        if chance.random() < plan.transactions:
            await self._transaction(client)
        else:
            self._settle(client, self._pick(), None)

    def _pick(self) -> list[Message]:
        """The message to speak of next, with those that an ACK of it covers."""
        place = self._chance.randrange(len(self._held)) if self._plan.shuffled else 0
        if self._plan.mode == "client":
            picked, self._held = self._held[: place + 1], self._held[place + 1 :]
            return picked
        return [self._held.pop(place)]

    def _settle(self, client: Client, messages: list[Message], transaction: str | None) -> None:
        plan, chance = self._plan, self._chance
        confirmed = self._run.calm.is_set() or chance.random() < plan.confirmed
        roll = 1.0 if self._run.calm.is_set() else chance.random()
        if roll < plan.nack:
            verb: Verb = "nack-later" if plan.queue.retry_delay else "nack"
            client.settle(verb, messages, confirmed=confirmed, transaction=transaction)
        elif roll < plan.nack + plan.later:
            delay = chance.randint(*DELAY_MILLISECONDS)
            client.settle("nack-later", messages, confirmed=confirmed, transaction=transaction, delay=delay)
        else:
            client.settle("ack", messages, confirmed=confirmed, transaction=transaction)

    async def _transaction(self, client: Client) -> None:
        """Some acks and as many sends; then COMMIT, ABORT, or an end without either."""
        plan, chance = self._plan, self._chance
        name = client.begin()
        taken: list[Message] = []
        for _ in range(chance.randint(1, plan.unit)):
            if not self._held or not client.live:
                break
            picked = self._pick()
            taken += picked
            self._settle(client, picked, name)
            if plan.forward is not None:
                message = self._numbers.draw(plan.forward)
                persistent = chance.random() < 0.8
                client.send(**message, persistent=persistent, size=chance.randint(0, 100), transaction=name)
        if plan.work:
            await asyncio.sleep(chance.uniform(0, plan.work))
        if not client.live:
            return
        if self._run.calm.is_set() or chance.random() >= plan.aborted:
            client.end(name, commit=True)
        elif chance.random() < 0.7:
            client.end(name, commit=False)
            self._held = taken + self._held  # as if nothing had been said of them
        else:
            client.cut()
