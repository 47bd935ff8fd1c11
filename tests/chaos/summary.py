"""The summary of many runs."""

from collections import Counter

from tests.chaos.checker import RULES

#: What the rules are called in the summary.
_NAMES = {
    "lost": "lost",
    "stuck": "stuck in a queue",
    "unmarked": "unmarked repeats",
    "resurrected": "acked and came back",
    "held-twice": "held twice at once",
    "phantom": "delivered though not sent",
    "overdrawn": "beyond the credit",
    "disordered": "order violations",
    "group-overlap": "group overlaps",
    "group-order": "group order violations",
    "torn": "torn transactions",
    "refused": "errors that no client should get",
}


def summary(counts: Counter[str], seconds: float, slowest: float, stood: float, failed: list[int]) -> str:
    """Lines for people.

    Args:
        slowest: seconds that the queues of any run took to run empty after its last fault.
        stood: the longest time meanwhile, in seconds, in which nothing was delivered.
    """
    assert set(_NAMES) == {*RULES, "refused"}
    kills = {name.removeprefix("kill "): count for name, count in sorted(counts.items()) if name.startswith("kill ")}
    rows = [
        ("runs", counts["runs"]),
        ("minutes", round(seconds / 60, 1)),
        ("operations", counts["operations"]),
        ("  sends", counts["sends"]),
        ("  acks", counts["acks"]),
        ("  nacks", counts["nacks"]),
        ("  transactions ended", counts["transactions"]),
        ("    of these committed", counts["committed"]),
        ("deliveries", counts["deliveries"]),
        ("  marked repeats", counts["marked repeats"]),
        ("faults", sum(kills.values())),
        *((f"  {kind}", count) for kind, count in kills.items()),
        *((name, counts[f"rule {rule}"]) for rule, name in _NAMES.items()),
        ("slowest drain, seconds", round(slowest, 1)),
        ("  longest standstill in one", round(stood, 1)),
        ("failed runs", len(failed)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>12,}" for name, value in rows)
