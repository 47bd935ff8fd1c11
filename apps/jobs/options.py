"""What may be said of a task: attempts, back-off, timeout, uniqueness, limits, expiry. No I/O.

Options are checked when their module is imported; `BadOption` becomes a `BadTask` that names file and line.
"""

import hashlib
import json
import math
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgweb.errors import BadArguments, BadRequest

DEFAULT_QUEUE = "default"
LONGEST = 3e9  # seconds (95 years): of a pause, a timeout, an expiry, a window
KEY_LIMIT = 255  # characters of a key; beyond, its hash stands for it
RATE_LIMIT = 1_000  # jobs in a period: each limited key keeps the moments of so many
MAX_DEATHS = 10  # of workers in a row; see docs/adr/0012
ON_WORKER_DEATH = ("retry", "fail", "resume")
OPEN_STATES = frozenset({"scheduled", "ready", "running", "waiting"})
STATES = OPEN_STATES | {"succeeded", "failed", "cancelled", "expired"}

#: A key: a text with the arguments' names in braces (`"{customer}"`), or a function of the arguments.
Key = str | Callable[[Mapping[str, Any]], str]


class BadOption(ValueError):
    """An option that cannot be; the message says which and why."""


class Decision(NamedTuple):
    """What follows a failure.

    Attributes:
        again: whether the task wants another attempt; how many it has is the job's business.
        pause: seconds until then.
    """

    again: bool
    pause: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow: `first`, then each `factor` times the one before, up to `longest`; seconds.

    Attributes:
        jitter: the share by which a pause is varied at random, so that jobs that failed together do not come together.
    """

    first: float = 1.0
    factor: float = 2.0
    longest: float = 3600.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        _number("backoff.first", self.first, 0.0, LONGEST)
        _number("backoff.factor", self.factor, 1.0, 100.0)
        _number("backoff.longest", self.longest, 0.0, LONGEST)
        _number("backoff.jitter", self.jitter, 0.0, 1.0)

    def pause(self, failures: int) -> float:
        """Seconds before the attempt after so many failures (1: after the first)."""
        exponent = min(max(0, failures - 1), 1024 / math.log2(self.factor) - 64 if self.factor > 1 else 0)
        pause = min(self.longest, self.first * self.factor**exponent)
        return pause * random.uniform(1 - self.jitter, 1 + self.jitter)


@dataclass(frozen=True, slots=True)
class Unique:
    """One job at a time: asked for again, the first is given back.

    Attributes:
        by: what is the same: `"arguments"` (all), a tuple of their names, or a key.
        window: for so many seconds after it was asked for; None: as long as it is in one of the states.
        states: in which a job stands in the way of another.
    """

    by: Key | tuple[str, ...] = "arguments"
    window: float | None = None
    states: frozenset[str] = OPEN_STATES

    def __post_init__(self) -> None:
        if self.window is not None:
            _number("unique.window", self.window, 0.001, LONGEST)
        object.__setattr__(self, "states", frozenset(self.states))
        if not self.states or not self.states <= STATES:
            raise BadOption(f"unique.states are some of {', '.join(sorted(STATES))}, not {sorted(self.states)}")

    def key(self, task: str, arguments: Mapping[str, Any]) -> str:
        """What two jobs of the task that are the same have in common."""
        if self.by == "arguments":
            what: object = dict(arguments)
        elif isinstance(self.by, tuple):
            what = [[name, arguments.get(name)] for name in sorted(self.by)]
        else:
            what = evaluate(self.by, arguments)
        return hashlib.sha256(json.dumps([task, what], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `limit` jobs of a key run at a time, over all workers. Others wait for their turn, in order.

    Attributes:
        key: None: all jobs of the task, in a namespace, share one. Tasks that give the same text share it.
    """

    limit: int
    key: Key | None = None

    def __post_init__(self) -> None:
        _whole("concurrency.limit", self.limit, 1, 10_000)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` jobs of a key begin within any `per` seconds, over all workers."""

    count: int
    per: float
    key: Key | None = None

    def __post_init__(self) -> None:
        _whole("rate.count", self.count, 1, RATE_LIMIT)
        _number("rate.per", self.per, 0.001, LONGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the jobs of a task are done.

    Attributes:
        max_attempts: how often a job may fail of its own before it has failed.
        backoff: the pause between attempts: `Backoff`, or a function of the error and the number of failures, which
            returns seconds (None: no further attempt).
        retry_on: only these errors are worth another attempt.
        give_up_on: these are not, whatever `retry_on` says. A `BadRequest` never is, unless `retry_on` names it.
        timeout: seconds that an attempt may take. Then it is asked to stop, and its process ended after a grace.
        priority: 0 to 9, higher first.
        expires: seconds after which a job that was not begun is given up.
        on_worker_death: `resume`: go on behind the last finished step; `retry`: from the beginning; `fail`: no more.
        max_deaths: how often in a row a worker may die with a job, before that has failed: perhaps it is the job that
            kills them. A death of the job's own process is a failed attempt instead. A worker that had been told to
            stop does not count, and a job that has finished a step since counts anew.
    """

    max_attempts: int = 1
    backoff: Backoff | Callable[[BaseException, int], float | None] = field(default_factory=Backoff)
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    give_up_on: tuple[type[BaseException], ...] = ()
    timeout: float | None = None
    unique: Unique | None = None
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    priority: int = 4
    expires: float | None = None
    on_worker_death: str = "resume"
    max_deaths: int = MAX_DEATHS

    def __post_init__(self) -> None:
        _whole("max_attempts", self.max_attempts, 1, 2**31 - 1)
        _whole("max_deaths", self.max_deaths, 1, 32_767)
        _whole("priority", self.priority, 0, 9)
        for name, value in (("timeout", self.timeout), ("expires", self.expires)):
            if value is not None:
                _number(name, value, 0.001, LONGEST)
        if not isinstance(self.backoff, Backoff) and not callable(self.backoff):
            raise BadOption(f"backoff is a Backoff or a function of the error, not {self.backoff!r}")
        for name in ("retry_on", "give_up_on"):
            given: object = getattr(self, name)
            classes = given if isinstance(given, tuple) else (given,)
            if not all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
                raise BadOption(f"{name} is one or several classes of errors, not {given!r}")
            object.__setattr__(self, name, classes)
        for name, kind in (("unique", Unique), ("concurrency", Concurrency), ("rate", Rate)):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), kind):
                raise BadOption(f"{name} is a {kind.__name__}, not {getattr(self, name)!r}")
        if self.on_worker_death not in ON_WORKER_DEATH:
            raise BadOption(f"on_worker_death is one of {', '.join(ON_WORKER_DEATH)}, not {self.on_worker_death!r}")

    def check_names(self, known: set[str]) -> None:
        """Whether keys speak only of arguments that the task has.

        Raises:
            BadOption: one does not.
        """
        keys: list[tuple[str, object]] = []
        used: list[tuple[str, str]] = []
        if self.unique is not None and isinstance(self.unique.by, tuple):
            used += [("unique.by", name) for name in self.unique.by]
        elif self.unique is not None and self.unique.by != "arguments":
            keys.append(("unique.by", self.unique.by))
        if self.concurrency is not None:
            keys.append(("concurrency.key", self.concurrency.key))
        if self.rate is not None:
            keys.append(("rate.key", self.rate.key))
        for where, key in keys:
            if isinstance(key, str):
                used += [(where, name) for name in _fields(where, key)]
            elif key is not None and not callable(key):
                raise BadOption(f"{where} is a text or a function of the arguments, not {key!r}")
        for where, name in used:
            if name not in known:
                raise BadOption(f"{where} speaks of {name!r}, which the task has not")

    def decide(self, error: BaseException, failures: int) -> Decision:
        """What follows an attempt that ended with this error.

        Args:
            failures: how often the job failed, this time included.
        """
        named = any(issubclass(one, BadRequest) for one in self.retry_on)
        if isinstance(error, self.give_up_on) or not isinstance(error, self.retry_on):
            return Decision(False, 0.0)
        if isinstance(error, BadRequest) and not named:
            return Decision(False, 0.0)
        if isinstance(self.backoff, Backoff):
            return Decision(True, self.backoff.pause(failures))
        pause = self.backoff(error, failures)
        if pause is None:
            return Decision(False, 0.0)
        return Decision(True, min(max(float(pause), 0.0), LONGEST) if math.isfinite(pause) else LONGEST)

    def pause(self, failures: int) -> float:
        """The pause after a failure without an error of the task's: its process ended, or it took too long."""
        backoff = self.backoff if isinstance(self.backoff, Backoff) else Backoff()
        return backoff.pause(failures)

    def limits(self, namespace: str, task: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The limits of a job, as its row keeps them."""
        found: dict[str, Any] = {}
        if self.concurrency is not None:
            found["key"] = _scoped(namespace, task, self.concurrency.key, arguments)
            found["limit"] = self.concurrency.limit
        if self.rate is not None:
            found["rate_key"] = _scoped(namespace, task, self.rate.key, arguments)
            found["count"] = self.rate.count
            found["per"] = self.rate.per
        return found or None


def evaluate(key: Key, arguments: Mapping[str, Any]) -> str:
    """The key of a job with these arguments, at most KEY_LIMIT characters.

    Raises:
        BadArguments: it cannot be made of them.
    """
    try:
        text = key.format_map({**arguments}) if isinstance(key, str) else str(key(arguments))
    except Exception as error:
        raise BadArguments(f"the key {key!r} cannot be made of the arguments: {error!r}") from error
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= KEY_LIMIT else hashlib.sha256(text.encode()).hexdigest()


def _scoped(namespace: str, task: str, key: Key | None, arguments: Mapping[str, Any]) -> str:
    return f"{namespace} {task if key is None else evaluate(key, arguments)}"


def _fields(where: str, text: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise BadOption(f"{where} {text!r} cannot be read: {error}") from None
    for name in names:
        if not name.isidentifier():
            raise BadOption(f"{where} names arguments in braces, {{customer}}, not {{{name}}}")
    return names


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadOption(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadOption(f"{name} must be a whole number from {least} to {most}, not {value!r}")
