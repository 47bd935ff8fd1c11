"""Patterns of topics, as RabbitMQ and ActiveMQ write them, and the queues behind durable subscriptions.

A topic's name is words between dots. In a pattern `*` stands for one word, `#` and `>` for any number of words, also
none; `>` at the end alone. `msgweb.topic_matches` in SQL says the same.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Generic, TypeVar

from msgweb.errors import BadDestination

WILDCARDS = frozenset({"*", "#", ">"})
CACHE_LIMIT = 10_000  # names whose matches are remembered
NAME_LIMIT = 255

_VIRTUAL = re.compile(r"Consumer\.[^.]+\.(VirtualTopic\..+)")

T = TypeVar("T")


def is_pattern(name: str) -> bool:
    """Whether a topic's name holds a wildcard."""
    return not WILDCARDS.isdisjoint(name.split(".")) if "*" in name or "#" in name or ">" in name else False


def validate(pattern: str) -> None:
    """Check a pattern.

    Raises:
        BadDestination: `>` before the end.
    """
    words = pattern.split(".")
    if ">" in words[:-1]:
        raise BadDestination(f"{pattern!r}: > may stand at the end of a pattern only; write # or *")


def matches(pattern: str, name: str) -> bool:
    """Whether a topic's name is one of a pattern's."""
    trie: PatternTrie[bool] = PatternTrie()
    trie.add(pattern, True)
    return bool(trie.lookup(name))


def virtual_topic_of(queue: str) -> str | None:
    """The topic (or pattern) whose messages a queue of that name gets: `Consumer.A.VirtualTopic.Orders` those of
    `VirtualTopic.Orders`. None: it is a queue like any other."""
    found = _VIRTUAL.fullmatch(queue)
    return found[1] if found else None


def durable_queue_name(owner: str, subscription: str) -> str:
    """The queue behind a durable subscription.

    Args:
        owner: who subscribes: two owners' subscriptions of one name are two.
    """
    name = f"durable.{owner}.{subscription}"
    if name.isprintable() and len(name) <= NAME_LIMIT and "." not in owner:
        return name
    digest = hashlib.sha256("\0".join((owner, subscription)).encode()).hexdigest()
    return f"durable.{digest[:32]}"


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: list[T] = []


class PatternTrie(Generic[T]):
    """Values by pattern. Looking up a name takes at most as many steps as it has words, times the size of the trie."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._cache: dict[str, list[T]] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, pattern: str, value: T) -> None:
        """Add a value; the same may be there more than once."""
        node = self._root
        for word in pattern.split("."):
            node = node.children.setdefault("#" if word == ">" else word, _Node())
        node.values.append(value)
        self._count += 1
        self._cache.clear()

    def remove(self, pattern: str, value: T) -> None:
        """Remove a value that was added. Does nothing if it was not."""
        path = [(self._root, "")]
        for word in pattern.split("."):
            child = path[-1][0].children.get("#" if word == ">" else word)
            if child is None:
                return
            path.append((child, "#" if word == ">" else word))
        node = path[-1][0]
        kept = [other for other in node.values if other is not value]
        self._count -= len(node.values) - len(kept)
        node.values = kept
        for (parent, _), (child, word) in zip(path[-2::-1], path[:0:-1], strict=True):
            if child.values or child.children:
                break
            del parent.children[word]
        self._cache.clear()

    def lookup(self, name: str) -> list[T]:
        """The values of all patterns that match a name, each as often as it was added. Not to be changed."""
        found = self._cache.get(name)
        if found is None:
            found = [value for node in self._walk(name.split(".")) for value in node.values]
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            self._cache[name] = found
        return found

    def _walk(self, words: list[str]) -> Iterator[_Node[T]]:
        """The nodes at which a match ends: all places in the trie that the words lead to, word by word."""
        places = dict.fromkeys(_with_rests(self._root))
        for word in words:
            following: dict[tuple[_Node[T], bool], None] = {}
            for node, resting in places:
                for key in (word, "*"):
                    child = node.children.get(key) if key != "#" else None
                    if child is not None:
                        following.update(dict.fromkeys(_with_rests(child)))
                if resting:
                    following.update(dict.fromkeys(_with_rests(node, resting=True)))
            places = following
        ended = {id(node): node for node, _ in places}
        return iter(ended.values())


def _with_rests(node: "_Node[T]", *, resting: bool = False) -> "Iterator[tuple[_Node[T], bool]]":
    """A place, and those behind each `#` from there on that matches nothing. A place is a node, and whether it is one
    of `#`, which may take further words."""
    yield node, resting
    rest = node.children.get("#")
    while rest is not None:
        yield rest, True
        rest = rest.children.get("#")
