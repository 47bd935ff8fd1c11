"""Lines of figures over time, drawn as SVG: the server computes the paths, the style sheet gives the colours.

A drawing is stretched to its place, and its lines keep their width (`vector-effect`). What it shows is said in words
too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from apps.broker.statistics import GRID, RECENT_SPANS, SPAN, Point, Recent, series
from apps.jobs.tally import MINUTE, Ended

RECENTLY = f"{RECENT_SPANS * SPAN // 60} minutes"
SPARK = (120, 24)  # width and height in units of the drawing
CHART = (600, 120)


def figure(value: float) -> str:
    """`0`, `0.02`, `3.4`, `1,234`: as many digits as tell something."""
    if value >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    if value >= 0.095:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity over time.

    Attributes:
        name: in a word, for people; `kind`: for the style sheet.
        path: its line, and `area` the same closed along the bottom, as SVG path data.
        now, highest: of its values.
    """

    name: str
    kind: str
    path: str
    area: str
    now: str
    highest: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Lines on one scale.

    Attributes:
        lines: the first lies behind the others.
        words: what it shows, for who does not see it.
        top: the figure at its upper edge; `unit` follows it.
        begins, middle, ends: moments along the bottom; None: the drawing stands beside text.
    """

    width: int
    height: int
    lines: list[Line]
    words: str
    top: str = ""
    unit: str = ""
    title: str = ""
    begins: datetime | None = None
    middle: datetime | None = None
    ends: datetime | None = None


def _path(values: Sequence[float], top: float, size: tuple[int, int]) -> tuple[str, str]:
    width, height = size
    if len(values) < 2 or not any(values):
        line = f"M0 {height}H{width}"
        return line, ""
    step = width / (len(values) - 1)
    points = [f"{place * step:.1f} {height - value / top * height:.1f}" for place, value in enumerate(values)]
    line = "M" + "L".join(points)
    return line, f"{line}L{width} {height}L0 {height}Z"


def _lines(named: Sequence[tuple[str, str, Sequence[float]]], top: float, size: tuple[int, int]) -> list[Line]:
    return [
        Line(name, kind, *_path(values, top, size), figure(values[-1] if values else 0), figure(max(values, default=0)))
        for name, kind, values in named
    ]


def _told(lines: Sequence[Line], unit: str = "") -> str:
    return "; ".join(f"{line.name} {line.now}{unit}, at most {line.highest}" for line in lines)


def spark(named: Sequence[tuple[str, str, Sequence[float]]], unit: str) -> Drawing:
    """A small drawing of the last minutes, on a scale of its own.

    Args:
        named: of each line its name, its kind and its values, oldest first.
    """
    top = max((max(values, default=0) for _, _, values in named), default=0) or 1
    if not any(any(values) for _, _, values in named):
        return Drawing(*SPARK, _lines([("", "still", [])], 1, SPARK), f"Last {RECENTLY}: nothing")
    lines = _lines(named, top, SPARK)
    return Drawing(*SPARK, lines, f"Last {RECENTLY}: {_told(lines, f' {unit}')}")


def queue_spark(recent: Recent) -> Drawing:
    """Messages that come and are acked, a second."""
    return spark(
        [
            ("in", "in", [count / SPAN for count in recent.sent]),
            ("acked", "acked", [count / SPAN for count in recent.acked]),
        ],
        "a second",
    )


@dataclass(frozen=True, slots=True)
class Flow:
    """A figure and how it moved lately."""

    now: str
    words: str
    kind: str
    drawing: Drawing


def _flow(words: str, kind: str, now: float, values: Sequence[float], unit: str) -> Flow:
    return Flow(figure(now), words, kind, spark([(words, kind, values)], unit))


def message_flows(recents: Sequence[Recent]) -> list[Flow]:
    """Messages in, out and acked a second, of all of these destinations."""
    flows = []
    for words, kind, counts in (
        ("messages in", "in", [one.sent for one in recents]),
        ("messages out", "out", [one.delivered for one in recents]),
        ("messages acked", "acked", [one.acked for one in recents]),
    ):
        values = [sum(column) / SPAN for column in zip(*counts, strict=True)] or [0.0] * RECENT_SPANS
        flows.append(_flow(words, kind, values[-1], values, "a second"))
    return flows


def job_flows(ended: Ended) -> list[Flow]:
    """Jobs finished and failed a minute."""
    return [
        _flow(words, kind, now, [count * MINUTE for count in counts], "a minute")
        for words, kind, now, counts in (
            ("jobs finished", "done", ended.finished_a_minute, ended.finished),
            ("jobs failed", "failed", ended.failed_a_minute, ended.failed),
        )
    ]


#: How long a large drawing reaches back: its span and the seconds of a point. Kept are 10 s, a minute, an hour.
REACHES = {"hour": (3_600, 30), "day": (86_400, 600), "year": (365 * 86_400, 86_400)}


def scale(highest: float) -> float:
    """A round number that is not below: 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return 1
    power = float(10 ** math.floor(math.log10(highest)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= highest * (1 - 1e-9))


def queue_charts(namespace: str, name: str, reach: str, until: datetime) -> list[Drawing]:
    """What came, went and was acked a second; and what waited.

    Args:
        reach: of REACHES.
        until: the end of a span of ten seconds: what is counted up to then is shown.
    """
    seconds, step = REACHES[reach]
    whole = timedelta(seconds=step)
    since = until - timedelta(seconds=seconds)
    since += (GRID - since) % whole  # a span of the grid begins here
    points = series(namespace, name, since, until, resolution=step)
    widths = [min(step, (until - point.at).total_seconds()) for point in points]  # the last one is not over yet
    moved = [
        ("In", "in", _a_second(points, widths, "sent")),
        ("Out", "out", _a_second(points, widths, "delivered")),
        ("Acked", "acked", _a_second(points, widths, "acked")),
    ]
    kept: list[tuple[str, str, list[float]]] = [
        ("Ready", "waiting", [float(point.ready or 0) for point in points]),
        ("In flight", "held", [float(point.in_flight or 0) for point in points]),
    ]
    return [
        _chart("Messages a second", moved, "/s", reach, since, until),
        _chart("Messages here", kept, "", reach, since, until),
    ]


def _a_second(points: Sequence[Point], widths: Sequence[float], what: str) -> list[float]:
    return [getattr(point, what) / width for point, width in zip(points, widths, strict=True)]


def _chart(
    title: str,
    named: Sequence[tuple[str, str, Sequence[float]]],
    unit: str,
    reach: str,
    since: datetime,
    until: datetime,
) -> Drawing:
    top = scale(max((max(values, default=0) for _, _, values in named), default=0))
    lines = _lines(named, top, CHART)
    middle = since + (until - since) / 2
    words = f"{title}, last {reach}: {_told(lines)}"
    return Drawing(*CHART, lines, words, figure(top), unit, title, since, middle, until)
