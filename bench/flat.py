"""What a message costs when much waits, and when a transaction pins the horizon.

The engine alone, on a temporary Postgres (fsync on). One message at a time: the time of a durable send, and of the ack
that lets the next one of the backlog come. Medians of each case beside that of an empty queue.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import psycopg
import uvloop

from apps.broker.engine import Address, Delivery, Message, Subscription
from apps.broker.postgres import PostgresEngine
from bench import brokers

NAMESPACE = "bench.flat"
BODY = b"x" * 256


class Consumer:
    """Tells when something came."""

    def __init__(self) -> None:
        self.came: list[Delivery] = []
        self.arrival = asyncio.Event()

    def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
        """Keep it."""
        self.came.extend(deliveries)
        self.arrival.set()

    def lost(self, subscription: Subscription) -> None:
        """Not here."""
        raise AssertionError("the session was lost")

    async def next(self) -> Delivery:
        """Wait for a message."""
        while not self.came:
            self.arrival.clear()
            await self.arrival.wait()
        return self.came.pop(0)


async def send(engine: PostgresEngine, queue: Address, persistent: bool = True) -> None:
    """A durable send, until it is confirmed."""
    confirmed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    engine.send(Message(queue, BODY, persistent=persistent), confirmed.set_result)
    error = await confirmed
    if error is not None:
        raise RuntimeError(error)


async def backlog(conninfo: str, waiting: int, rounds: int) -> tuple[float, float]:
    """Medians of a send, and of an ack with the claim of the next message, in milliseconds, in a queue where so many
    wait. Another process consumes as well, so that each message is claimed by itself."""
    queue = Address(NAMESPACE, "queue", f"backlog-{waiting}")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO msgweb.message (destination, persistent, headers, body)"
            " SELECT msgweb.destination_id(%s, 'queue', %s), true, '', %s FROM generate_series(1, %s)",
            [NAMESPACE, queue.name, BODY, waiting],
        )
        connection.execute("CHECKPOINT")
    engine, other = PostgresEngine(conninfo), PostgresEngine(conninfo)
    await engine.start()
    await other.start()
    sends, claims = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        await send(engine, queue)
        sends.append(time.perf_counter() - begun)
    neighbour, consumer = Consumer(), Consumer()
    other.subscribe(queue, neighbour, 1)
    await neighbour.next()
    subscription = engine.subscribe(queue, consumer, 1)
    delivery = await consumer.next()
    for _ in range(rounds - 2):  # one of those that were sent is with the neighbour
        begun = time.perf_counter()
        engine.ack(subscription, [delivery.id])
        delivery = await consumer.next()
        claims.append(time.perf_counter() - begun)
    await engine.close()
    await other.close()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DELETE FROM msgweb.message")
        connection.execute("VACUUM msgweb.message_persistent")
    return statistics.median(sends) * 1000, statistics.median(claims) * 1000


async def pinned(conninfo: str, kind: str, seconds: float, rate: int) -> tuple[float, float]:
    """Medians from send to delivery through the database (no hand-over), in milliseconds, of the first and of the last
    tenth of a run at a steady rate, while a transaction of that kind stays open."""
    queue = Address(NAMESPACE, "queue", f"pinned-{kind}")
    with ExitStack() as stack:
        if kind != "none":
            other = stack.enter_context(psycopg.connect(conninfo))
            if kind == "reader":
                other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                other.execute("SELECT count(*) FROM msgweb.destination")
            else:
                other.execute("SELECT pg_current_xact_id()")
        sender, engine = PostgresEngine(conninfo), PostgresEngine(conninfo)
        await sender.start()
        await engine.start()
        took: list[float] = []

        class Timed(Consumer):
            def deliver(self, subscription: Subscription, deliveries: Sequence[Delivery]) -> None:
                now = time.perf_counter()
                took.extend(now - float(delivery.headers[2:-1]) for delivery in deliveries)
                engine.ack(subscription, [delivery.id for delivery in deliveries])

        engine.subscribe(queue, Timed(), 1000)
        begun = time.perf_counter()
        sent = 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            while sent < elapsed * rate:
                sender.send(Message(queue, BODY, b"t:%f\n" % time.perf_counter(), persistent=True))
                sent += 1
            await asyncio.sleep(0.001)
        async with asyncio.timeout(60):
            while len(took) < sent:
                await asyncio.sleep(0.05)
        await sender.close()
        await engine.close()
    share = len(took) // 10
    return statistics.median(took[:share]) * 1000, statistics.median(took[-share:]) * 1000


async def measure(conninfo: str, options: argparse.Namespace) -> None:
    """Print both tables."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts_namespace (id, name, created_at) SELECT coalesce(max(id), 0) + 1, %s, now()"
            " FROM accounts_namespace",
            [NAMESPACE],
        )
    await backlog(conninfo, 0, 200)  # warm
    print("| waiting | send, ms | beside empty | ack and next, ms | beside empty |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    base: tuple[float, float] | None = None
    for waiting in (0, 100_000, 1_000_000, *([10_000_000] if options.long else [])):
        found = await backlog(conninfo, waiting, options.rounds)
        base = base or found
        cells = (found[0], found[0] / base[0], found[1], found[1] / base[1])
        print(f"| {waiting:,} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)
    print()
    print(f"At {options.rate:,} messages a second for {options.seconds:g} s, from one process to another:\n")
    print("| open transaction | first tenth, ms | last tenth, ms | last beside that of none |")
    print("| --- | ---: | ---: | ---: |")
    none = 0.0
    for kind in ("none", "reader", "writer"):
        first, last = await pinned(conninfo, kind, options.seconds, options.rate)
        none = none or last
        print(f"| {kind} | {first:.2f} | {last:.2f} | {last / none:.2f} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 when it cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.flat", description=__doc__)
    parser.add_argument("--long", action="store_true", help="10 million waiting as well")
    parser.add_argument("--rounds", type=int, default=2_000, metavar="N", help="sends and acks a case (default 2,000)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="of each steady run (default 300)")
    parser.add_argument("--rate", type=int, default=2_000, metavar="N", help="messages a second (default 2,000)")
    options = parser.parse_args(arguments)
    try:
        with brokers.installation() as place:
            uvloop.run(measure(place.conninfo, options))
            print(f"\nPostgreSQL {place.version}, fsync on; Python {sys.version.split()[0]}")
    except brokers.BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
