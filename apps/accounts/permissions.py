"""What somebody may do where: verbs, patterns of destinations, and the rules made of them. Values alone, no I/O.

A pattern is a kind of destination, a slash, and words between dots: `queue/orders.*`, `topic/news.#`,
`task/firebrand.clone_brand`, `job/#`. The kind is `queue`, `topic`, `task`, `job`, or `*` for each of them. `*` stands
for one word; `#`, `**` and `>` for any number of words, also none. Alone, they stand for everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from msgweb.errors import AccessRefused, BadRequest

KINDS = ("queue", "topic", "task", "job")
REST = frozenset({"#", "**", ">"})
PATTERN_LIMIT = 255  # characters
RESTS_LIMIT = 3  # in one pattern: each costs a look at every word behind it


class Verb(StrEnum):
    """What can be done to a destination.

    `send`: SEND, and ask for a task's job. `receive`: SUBSCRIBE, and look into it. `manage`: purge, pause, redrive,
    change its settings; cancel others' jobs of a task.
    """

    SEND = "send"
    RECEIVE = "receive"
    MANAGE = "manage"


class BadPattern(BadRequest):
    """A pattern of destinations that is none."""

    code = "bad_pattern"


@dataclass(frozen=True, slots=True)
class Rule:
    """Some verbs on the destinations of a pattern.

    Attributes:
        namespace: its name; None: each one that may be entered.
    """

    namespace: str | None
    pattern: str
    verbs: frozenset[Verb]


@dataclass(frozen=True, slots=True)
class Access:
    """All that somebody may do. Rules only add; there is none that takes away.

    Attributes:
        namespaces: those that may be entered; None: all.
        rules: None: everything in these namespaces.
    """

    namespaces: frozenset[str] | None = None
    rules: tuple[Rule, ...] | None = None

    def enters(self, namespace: str) -> bool:
        """Whether a namespace may be entered."""
        return self.namespaces is None or namespace in self.namespaces

    def allows(self, verb: Verb, namespace: str, destination: str) -> bool:
        """Whether that may be done.

        Args:
            destination: `queue/orders.new`; a pattern of topics is allowed where all that it stands for is.
        """
        if not self.enters(namespace):
            return False
        return self.rules is None or any(
            verb in rule.verbs and rule.namespace in (None, namespace) and covers(rule.pattern, destination)
            for rule in self.rules
        )

    def check(self, verb: Verb, namespace: str, destination: str) -> None:
        """Like `allows`.

        Raises:
            AccessRefused: it may not; the text names the verb and the destination.
        """
        if not self.allows(verb, namespace, destination):
            does = {Verb.SEND: "send to", Verb.RECEIVE: "receive from", Verb.MANAGE: "manage"}[verb]
            raise AccessRefused(f"these credentials may not {does} /{destination} in {namespace}")


EVERYTHING = Access()


def validate_pattern(pattern: str) -> None:
    """Check a pattern of destinations.

    Raises:
        BadPattern: no known kind, an empty word, a wildcard inside a word, or more than three of `#`.
    """
    if pattern in REST:
        return
    kind, slash, name = pattern.partition("/")
    if kind not in (*KINDS, "*") or not slash:
        raise BadPattern(f"{pattern!r}: a pattern begins with {', '.join(f'{kind}/' for kind in KINDS)} or */")
    words = name.split(".")
    if len(pattern) > PATTERN_LIMIT or not name.isprintable():
        raise BadPattern(f"{pattern[:40]!r}: a pattern has at most {PATTERN_LIMIT} printable characters")
    if "" in words:
        raise BadPattern(f"{pattern!r}: there is nothing before or behind a dot")
    for word in words:
        if word not in REST and word != "*" and any(mark in word for mark in "*#>"):
            raise BadPattern(f"{pattern!r}: * stands for a whole word, # for whole words; not for a part of one")
    if sum(word in REST for word in words) > RESTS_LIMIT:
        raise BadPattern(f"{pattern!r}: a pattern has at most {RESTS_LIMIT} times #")


@lru_cache(maxsize=10_000)
def covers(pattern: str, destination: str) -> bool:
    """Whether a destination, or all that a pattern of topics stands for, is among a rule's."""
    if pattern in REST:
        return True
    kind, _, name = pattern.partition("/")
    of_kind, _, named = destination.partition("/")
    return kind in ("*", of_kind) and _covers(name.split("."), named.split("."))


def _covers(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """A word that is itself a `#` is covered by a `#` alone."""
    reached = {0}  # places in the pattern that the words so far may have led to
    for word in (*words, None):
        grown = set(reached)
        for place in reached:
            while place < len(pattern) and pattern[place] in REST:  # matches nothing here
                place += 1
                grown.add(place)
        if word is None:
            return len(pattern) in grown
        reached = set()
        for place in grown:
            if place == len(pattern):
                continue
            mine = pattern[place]
            if mine in REST:
                reached.add(place)
            elif word not in REST and mine in ("*", word):
                reached.add(place + 1)
    raise AssertionError("the end of the words was judged")
