"""The loads that can be measured. A further one is a further entry of SCENARIOS."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: which of stompload's figures it shows.

    Attributes:
        rate: name of the figure in operations per second, or in KiB where `less` is set.
        less: a smaller figure is the better one.
        prefix: of the processor figures (`<prefix>broker_us_per_op`).
        latency: of the latencies (`<latency>_p50_ms`), or None where stompload measures none.
    """

    title: str
    rate: str
    prefix: str = ""
    latency: str | None = None
    less: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load.

    Attributes:
        command: stompload's scenario.
        messages: per run, unless the caller says otherwise.
        arguments: stompload's further options.
        rows: what to show of it.
        counted: stompload's option for `messages`.
        quorum: RabbitMQ's quorum queues are measured too.
    """

    command: str
    messages: int
    arguments: tuple[str, ...]
    rows: tuple[Row, ...]
    counted: str = "--messages"
    quorum: bool = False


_BOTH = ("--producers", "2", "--consumers", "2", "--prefetch", "200")

SCENARIOS = {
    "queue": Scenario(
        "queue", 50_000, ("--size", "256", *_BOTH), (Row("queue, 256 B, 2 to 2", "msg_per_s", latency="e2e"),)
    ),
    "queue-4k": Scenario(
        "queue",
        20_000,
        ("--size", "4096", *_BOTH),
        (Row("queue, 4 KiB, 2 to 2", "msg_per_s", latency="e2e"),),
        quorum=True,
    ),
    "publish-1": Scenario(
        "publish",
        5_000,
        ("--producers", "1", "--window", "1"),
        (Row("publish, one at a time", "msg_per_s", latency="receipt"),),
    ),
    "publish-8x1": Scenario(
        "publish",
        10_000,
        ("--producers", "8", "--window", "1"),
        (Row("publish, 8 producers, one at a time each", "msg_per_s", latency="receipt"),),
    ),
    "queue-1": Scenario(
        "queue",
        10_000,
        ("--size", "256", "--producers", "2", "--consumers", "2", "--prefetch", "1"),
        (Row("queue, prefetch 1, 2 to 2", "msg_per_s", latency="e2e"),),
    ),
    "paced": Scenario(
        "queue",
        5_000,
        ("--size", "256", "--rate", "1000", *_BOTH),
        (Row("queue, paced at 1,000/s", "msg_per_s", latency="e2e"),),
    ),
    **{
        f"topic-{subscribers}": Scenario(
            "topic",
            messages,
            ("--subscribers", str(subscribers)),
            (Row(f"topic, {subscribers:,} subscribers: deliveries", "deliveries_per_s"),),
        )
        for subscribers, messages in ((1, 30_000), (10, 10_000), (100, 1_500), (1_000, 150))
    },
    "publish-8": Scenario(
        "publish",
        50_000,
        ("--producers", "8", "--window", "200"),
        (Row("publish, 8 producers, window 200", "msg_per_s", latency="receipt"),),
        quorum=True,
    ),
    "drain": Scenario(
        "drain",
        50_000,
        _BOTH,
        (
            Row("backlog: publish, 2 producers", "publish_per_s", "publish_"),
            Row("backlog: drain, 2 consumers", "drain_per_s", "drain_"),
        ),
        quorum=True,
    ),
    "rpc": Scenario(
        "rpc",
        3_000,
        (),
        (
            Row("request and reply, one at a time", "seq_per_s", "seq_", "seq_rtt"),
            Row("request and reply, 32 in flight", "conc_per_s", "conc_", "conc_rtt"),
        ),
    ),
    "page": Scenario(
        "page",
        2_000,
        ("--parallel", "8"),
        (Row("a PHP page: connect, send, receipt, disconnect; 8 at a time", "pages_per_s", latency="page"),),
    ),
    "idle": Scenario(
        "idle",
        2_000,
        (),
        (
            Row("connect and subscribe, 50 at a time", "connect_per_s"),
            Row("an idle connection with a subscription: KiB", "pss_kib_per_conn", less=True),
        ),
        counted="--connections",
    ),
}

#: Figures of stompload that must be 0 in every run.
FAULTS = ("lost", "repeated", "misordered", "left_over")
